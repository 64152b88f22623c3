// One picture: a canvas with NiiVue, an image and the mask over it.
import { MULTIPLANAR_TYPE, NVImage, Niivue, SHOW_RENDER, SLICE_TYPE } from "../vendor/niivue.js";
import { lookup } from "./colours.js";
import { centre } from "./masks.js";

export const LAYOUTS = {
  all: SLICE_TYPE.MULTIPLANAR,
  axial: SLICE_TYPE.AXIAL,
  coronal: SLICE_TYPE.CORONAL,
  sagittal: SLICE_TYPE.SAGITTAL,
  render: SLICE_TYPE.RENDER,
};

const OPTIONS = {
  isRadiologicalConvention: true, // the patient's right is at the left of the picture
  multiplanarShowRender: SHOW_RENDER.ALWAYS,
  multiplanarLayout: MULTIPLANAR_TYPE.GRID,
  multiplanarPadPixels: 4,
  show3Dcrosshair: true,
  crosshairColor: [1, 0.85, 0.2, 0.9],
  crosshairWidthUnit: "percent",
  crosshairWidth: 0.4,
  crosshairGap: 4, // what is under the crosshair stays in sight
  showAllOrientationMarkers: true,
  fontColor: [1, 1, 1, 1],
  showLegend: false, // the table beside the picture is the legend
  dragAndDropEnabled: false,
  scrollRequiresFocus: true, // the wheel scrolls the page until the picture has been clicked
  loadingText: "",
  logLevel: "error",
};

const LABEL_INTENT = 1002; // NIfTI's intent of labels, for which NiiVue draws outlines
const FAINT = 0.004; // NiiVue leaves out a volume of no opacity, its outline too

/** Whether this browser can draw at all. */
export function canDraw() {
  return document.createElement("canvas").getContext("webgl2") !== null;
}

/** Image and mask of the files as they came; the mask is null where there is none. */
export async function decode(image, mask) {
  return {
    image: await NVImage.loadFromUrl({ url: image, name: "image.nii.gz" }),
    mask: mask && (await NVImage.loadFromUrl({ url: mask, name: "seg.nii.gz" })),
  };
}

export class Pane {
  #niivue;
  #labels = [];
  #mask = null;
  #values = null;
  #difference = null;
  #due = null; // what the next frame has to do: false = draw, true = first bring volumes to the graphics card

  /** `onLocation` is called with the place in mm, intensity and label under the crosshair. */
  static async open(canvas, onLocation, onWindow) {
    const pane = new Pane();
    pane.#niivue = new Niivue({
      ...OPTIONS,
      onLocationChange: (location) => onLocation(pane.#described(location)),
      onIntensityChange: (volume) => onWindow([volume.cal_min, volume.cal_max]),
    });
    await pane.#niivue.attachToCanvas(canvas);
    pane.canvas = canvas;
    return pane;
  }

  get empty() {
    return this.#niivue.volumes.length === 0;
  }

  get image() {
    return this.#niivue.volumes[0];
  }

  get masked() {
    return this.#mask !== null;
  }

  /** Label values of the mask in the order of the image's voxels, the hidden ones too. */
  get values() {
    return this.#values;
  }

  /** Sizes along left-right, back-front and feet-head; 1 where a picture has no depth. */
  get sizes() {
    return this.image.dimsRAS.slice(1, 4);
  }

  /** Show an image and, where there is one, its mask, as `decode` gives them. Nothing is drawn before `change`. */
  show({ image, mask }, labels) {
    this.clear();
    this.#labels = labels;
    this.#niivue.addVolume(image);
    if (mask) {
      this.#mask = mask;
      this.#values = mask.img;
      mask.setColormapLabel(lookup(labels));
      this.#niivue.addVolume(mask);
    }
  }

  /** Empty the picture; it stays as it is until the next one is shown. */
  clear() {
    this.#niivue.isBusy = true; // no drawing in between
    while (this.#niivue.volumes.length) this.#niivue.removeVolume(this.#niivue.volumes.at(-1));
    this.#mask = this.#values = null;
    this.#difference = null;
  }

  /** Draw another mask of the same grid in place of the own one; null brings the own one back. */
  showDifference(values, kinds) {
    this.#niivue.isBusy = true;
    if (this.#difference) this.#niivue.removeVolume(this.#difference);
    this.#difference = null;
    if (values) {
      this.#difference = this.#mask.clone();
      this.#difference.img = values;
      this.#difference.setColormapLabel(lookup(kinds));
      this.#niivue.addVolume(this.#difference);
    }
  }

  /**
   * How it looks: `layout`, `opacity` of the mask from 0 to 1 and whether its `outline` stands for its area, `hidden`
   * label values, `image` on or off, `letters` for the patient's sides. Changes are drawn together, in the next frame.
   */
  change({ layout, opacity, outline, hidden, image, letters }) {
    const { opts } = this.#niivue;
    const volumes = [];
    const set = (volume, share) => {
      if (volume && volume.opacity !== share) volumes.push((volume.opacity = share));
    };
    if (layout !== undefined) this.#niivue.opts.sliceType = LAYOUTS[layout];
    if (letters !== undefined) opts.isOrientationTextVisible = letters;
    if (image !== undefined) set(this.image, image ? 1 : 0);
    if (opacity !== undefined) {
      const area = outline && opacity > 0 ? FAINT : opacity;
      set(this.#difference, area);
      set(this.#mask, this.#difference ? 0 : area);
      for (const volume of [this.#mask, this.#difference])
        if (volume) volume.hdr.intent_code = outline ? LABEL_INTENT : 0;
      volumes.push((opts.atlasOutline = outline ? opacity : 0));
    }
    if (hidden !== undefined && this.#mask) {
      // not by a clear colour: NiiVue would draw the outline all the same
      const kept = Uint8Array.from({ length: 256 }, (_, value) => (hidden.has(value) ? 0 : value));
      this.#mask.img = hidden.size ? this.#values.map((value) => kept[value]) : this.#values;
      volumes.push(hidden);
    }
    this.#refresh(volumes.length > 0);
  }

  #refresh(volumes) {
    if (this.#due === null) requestAnimationFrame(() => this.#draw());
    this.#due = this.#due || volumes;
  }

  #draw() {
    const volumes = this.#due;
    this.#due = null;
    if (this.empty) return;
    this.#niivue.isBusy = false;
    if (volumes) this.#niivue.updateGLVolume();
    else this.#niivue.drawScene();
  }

  get window() {
    return [this.image.cal_min, this.image.cal_max];
  }

  /** Intensities shown black and white. */
  setWindow(low, high) {
    this.image.cal_min = low;
    this.image.cal_max = high;
    this.#refresh(true);
  }

  /** Move the crosshair by voxels to the patient's right, front and head. */
  move(right, front, head) {
    this.#niivue.moveCrosshairInVox(right, front, head);
  }

  turn(azimuth, elevation) {
    const { renderAzimuth, renderElevation } = this.#niivue.scene;
    this.#niivue.setRenderAzimuthElevation(renderAzimuth + azimuth, renderElevation + elevation);
  }

  get location() {
    return this.#niivue.frac2mm(this.#niivue.scene.crosshairPos, 0, true).slice(0, 3);
  }

  /** Put the crosshair at a place in millimetres. */
  goTo(mm) {
    this.#niivue.scene.crosshairPos = this.#niivue.mm2frac(mm, 0, true);
    this.#niivue.createOnLocationChange();
    this.#refresh(false);
  }

  /** Crosshair, zoom and turning follow in another pane. */
  follow(others) {
    this.#niivue.broadcastTo(
      others.map((pane) => pane.#niivue),
      { "2d": true, "3d": true },
    );
  }

  /** The middle of a label, at one of its voxels, in millimetres; null where it has none. */
  centreOf(value) {
    const { dims, affine } = this.#mask.hdr;
    const voxel = centre(this.#values, dims.slice(1, 4), value);
    const at = (row) => [...voxel, 1].reduce((total, n, axis) => total + n * row[axis], 0);
    return voxel && affine.slice(0, 3).map(at);
  }

  #described({ mm, values }) {
    const label = this.#mask ? this.#labels.find((entry) => entry.value === values[1]?.value) : undefined;
    return { mm, intensity: values[0]?.value, label: label?.name ?? "" };
  }
}
