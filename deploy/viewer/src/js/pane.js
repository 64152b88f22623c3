// One picture: a canvas with NiiVue, an image and the mask over it.
import { MULTIPLANAR_TYPE, NVImage, Niivue, SHOW_RENDER, SLICE_TYPE } from "../vendor/niivue.js";
import { lookup } from "./colours.js";

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
  isAntiAlias: true,
  loadingText: "",
  logLevel: "error",
};

/** Whether this browser can draw at all. */
export function canDraw() {
  return document.createElement("canvas").getContext("webgl2") !== null;
}

export class Pane {
  #niivue;
  #labels = [];
  #mask = null;
  #difference = null;

  /** `onLocation` is called with the place, voxel, intensity and label under the crosshair. */
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

  get mask() {
    return this.#mask;
  }

  /** Sizes along left-right, back-front and feet-head; 1 where a picture has no depth. */
  get sizes() {
    return this.image.dimsRAS.slice(1, 4);
  }

  /** Show an image and, where there is one, its mask: the files as they came. */
  async show(image, mask, labels) {
    this.clear();
    this.#labels = labels;
    this.#niivue.addVolume(await NVImage.loadFromUrl({ url: image, name: "image.nii.gz" }));
    if (mask) {
      this.#mask = await NVImage.loadFromUrl({ url: mask, name: "seg.nii.gz", opacity: 0.5 });
      this.#mask.setColormapLabel(lookup(labels));
      this.#niivue.addVolume(this.#mask);
    }
  }

  clear() {
    while (this.#niivue.volumes.length) this.#niivue.removeVolume(this.#niivue.volumes.at(-1));
    this.#mask = null;
    this.#difference = null;
  }

  /** Draw another mask of the same grid in place of the own one; null brings the own one back. */
  showDifference(values, kinds) {
    if (this.#difference) this.#niivue.removeVolume(this.#difference);
    this.#difference = null;
    if (values) {
      this.#difference = this.#mask.clone();
      this.#difference.img = values;
      this.#difference.setColormapLabel(lookup(kinds));
      this.#niivue.addVolume(this.#difference);
    }
  }

  setLayout(name) {
    this.#niivue.setSliceType(LAYOUTS[name]);
  }

  /** Opacity of the mask, 0 to 1, or of the difference in its place. */
  setOpacity(share) {
    if (this.#difference) this.#niivue.setOpacity(this.#niivue.volumes.indexOf(this.#difference), share);
    if (this.#mask) this.#niivue.setOpacity(this.#niivue.volumes.indexOf(this.#mask), this.#difference ? 0 : share);
  }

  /** Leave the image out, for instance to see the mask alone in 3D. */
  setImage(on) {
    this.#niivue.setOpacity(0, on ? 1 : 0);
  }

  /** Letters for the patient's sides; they say nothing about a picture without a place in a patient. */
  setLetters(on) {
    this.#niivue.opts.isOrientationTextVisible = on;
    this.#niivue.drawScene();
  }

  setHidden(values) {
    if (!this.#mask) return;
    this.#mask.setColormapLabel(lookup(this.#labels, values));
    this.#niivue.updateGLVolume();
  }

  setOutline(on) {
    this.#niivue.setAtlasOutline(on ? 1 : 0);
  }

  get window() {
    return [this.image.cal_min, this.image.cal_max];
  }

  /** Intensities shown black and white. */
  setWindow(low, high) {
    this.image.cal_min = low;
    this.image.cal_max = high;
    this.#niivue.updateGLVolume();
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
    this.#niivue.drawScene();
  }

  /** Crosshair, zoom and turning follow in another pane. */
  follow(others) {
    this.#niivue.broadcastTo(others.map((pane) => pane.#niivue), { "2d": true, "3d": true });
  }

  /** The voxel of a label that lies nearest to the middle of all its voxels, in millimetres; null where it has none. */
  centreOf(value) {
    const [, columns, rows] = this.#mask.hdr.dims;
    const { img } = this.#mask;
    const split = (index) => [index % columns, Math.floor(index / columns) % rows, Math.floor(index / (columns * rows))];
    const sum = [0, 0, 0];
    let count = 0;
    for (let index = img.indexOf(value); index >= 0; index = img.indexOf(value, index + 1)) {
      split(index).forEach((n, axis) => (sum[axis] += n));
      count += 1;
    }
    if (count === 0) return null;
    let nearest = null;
    let least = Infinity;
    for (let index = img.indexOf(value); index >= 0; index = img.indexOf(value, index + 1)) {
      const distance = split(index).reduce((total, n, axis) => total + (n - sum[axis] / count) ** 2, 0);
      if (distance < least) [least, nearest] = [distance, index];
    }
    const voxel = [...split(nearest), 1];
    return this.#mask.hdr.affine.slice(0, 3).map((row) => row.reduce((total, n, axis) => total + n * voxel[axis], 0));
  }

  #described({ mm, vox, values }) {
    const label = this.#mask ? this.#labels.find((entry) => entry.value === values[1]?.value) : undefined;
    return { mm, voxel: [...vox], intensity: values[0]?.value, label: label?.name ?? "" };
  }
}
