// The pictures of one result, or of two beside each other, and the controls below them.
import { colourOf } from "./colours.js";
import { KINDS, difference, sameImage } from "./masks.js";
import { byId, fill, make, setText } from "./dom.js";
import { place } from "./format.js";
import { LAYOUTS, Pane, canDraw, decode } from "./pane.js";
import { listen, step } from "./shortcuts.js";

const CT_WINDOWS = {
  "soft tissue": [-160, 240],
  lung: [-1350, 150],
  bone: [-500, 1300],
  brain: [0, 80],
  liver: [-45, 105],
};

export class Viewer {
  #places = [];
  #shown = [];
  #hidden = new Set();
  #layout = "all";
  #wanted = "all"; // the layout chosen for volumes, kept from one study to the next
  #stored = [0, 1];
  #differing = null;
  #onHidden;

  /** `onHidden` hears which label values of the first result are hidden. */
  constructor(onHidden) {
    this.#onHidden = onHidden;
    this.#connectControls();
  }

  /**
   * Show one or two results, each `{image, mask, labels, caption, modality, placed}`; returns why it cannot, or "".
   * Where `signal` tells meanwhile that something else was opened, nothing is shown.
   */
  async show(results, signal) {
    if (!canDraw()) return "This browser offers no WebGL 2, so that the image cannot be drawn here.";
    byId("pictures").hidden = false; // a canvas that is not laid out has no size to draw in
    try {
      const decoded = await Promise.all(results.map(({ image, mask }) => decode(image, mask)));
      while (this.#places.length < results.length) await this.#add();
      if (signal.aborted) return "";
      results.forEach((result, index) => this.#place(index, result, decoded[index]));
    } catch (error) {
      this.clear();
      return `The image cannot be drawn: ${error.message ?? error}`;
    }
    byId("pictures").classList.toggle("two", results.length === 2);
    this.#shown = results;
    this.#ready();
    return "";
  }

  clear() {
    this.#shown = [];
    this.#hidden = new Set();
    for (const { figure, pane } of this.#places) {
      pane.clear();
      figure.hidden = true;
    }
    byId("pictures").hidden = true;
    byId("controls").hidden = true;
    byId("difference").checked = false;
    this.offerDifference(false);
  }

  /** Put the crosshair into the middle of a structure of the first result. */
  goTo(value) {
    const mm = this.#panes[0]?.masked ? this.#panes[0].centreOf(value) : null;
    if (mm) for (const pane of this.#panes) pane.goTo(mm);
    return mm !== null;
  }

  setHidden(value, hide) {
    if (hide) this.#hidden.add(value);
    else this.#hidden.delete(value);
    const names = new Set(
      this.#shown[0].labels.filter((label) => this.#hidden.has(label.value)).map((label) => label.name),
    );
    this.#panes.forEach((pane, index) => {
      const own = this.#shown[index].labels.filter((label) => names.has(label.name));
      pane.change({ hidden: new Set(own.map((label) => label.value)) });
    });
    this.#onHidden(this.#hidden);
  }

  /** Rows of `difference` with volumes in mL, or why there are none. */
  compared() {
    const [a, b] = this.#panes;
    if (!a.masked || !b.masked) return { why: "One of the two has no mask." };
    if (!sameImage(a.image, b.image))
      return { why: "The two results are of different images or grids, so they are not compared voxel by voxel." };
    const [first, second] = this.#shown;
    this.#differing = difference(a.values, b.values, first.labels, second.labels);
    return { rows: this.#differing.rows };
  }

  get #panes() {
    return this.#places.slice(0, this.#shown.length).map((entry) => entry.pane);
  }

  #place(index, result, decoded) {
    const entry = this.#places[index];
    const labels = result.labels.map((label) => ({ ...label, colour: colourOf(label) }));
    entry.figure.hidden = false;
    entry.placed = result.placed;
    setText(entry.caption, result.caption);
    entry.canvas.setAttribute(
      "aria-label",
      `Picture of ${result.caption}. Arrow keys move the crosshair, question mark lists the keys.`,
    );
    entry.pane.show(decoded, labels);
  }

  async #add() {
    const entry = { canvas: make("canvas", { tabindex: 0, role: "application" }), caption: make("span"), said: make("output") };
    entry.figure = make(
      "figure",
      {},
      make("div", { class: "frame" }, entry.canvas),
      make("figcaption", {}, entry.caption, entry.said),
    );
    byId("pictures").append(entry.figure);
    const onWindow = (range) => this.#places[0]?.pane === entry.pane && this.#showWindow(range);
    entry.pane = await Pane.open(
      entry.canvas,
      (location) => setText(entry.said, sayLocation(location, entry.placed)),
      onWindow,
    );
    listen(entry.canvas, this.#actions);
    this.#places.push(entry);
    return entry;
  }

  /** Bring controls and pictures into agreement after loading. */
  #ready() {
    const panes = this.#panes;
    for (const pane of panes) pane.follow(panes.filter((other) => other !== pane));
    const masked = panes.some((pane) => pane.masked);
    byId("controls").hidden = false;
    byId("mask-controls").hidden = !masked;
    const flat = panes[0].sizes.indexOf(1);
    byId("layouts").hidden = flat >= 0;
    this.#setLayout(flat >= 0 ? ["sagittal", "coronal", "axial"][flat] : this.#wanted);
    panes.forEach((pane, index) => pane.change({ letters: this.#shown[index].placed }));
    byId("preset-label").hidden = this.#shown[0].modality !== "CT";
    byId("preset").value = "";
    if (this.#shown.every(({ modality }) => modality === "CT"))
      for (const pane of panes.slice(1)) pane.setWindow(...panes[0].window);
    this.#stored = panes[0].window;
    this.#showWindow(this.#stored);
    this.#drawMask();
    this.#centre();
  }

  /** The voxel-wise comparison is possible or not. */
  offerDifference(possible) {
    byId("difference-label").hidden = !possible;
  }

  #connectControls() {
    fill(
      byId("preset"),
      make("option", { value: "" }, "as stored"),
      ...Object.keys(CT_WINDOWS).map((name) => make("option", {}, name)),
    );
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    for (const radio of document.querySelectorAll("#layouts input[type=radio]")) {
      radio.addEventListener("change", () => this.#setLayout((this.#wanted = radio.value)));
    }
    byId("mask-on").addEventListener("change", () => this.#drawMask());
    byId("opacity").addEventListener("input", () => {
      byId("mask-on").checked = true;
      this.#drawMask();
    });
    byId("mask-alone").addEventListener("change", () => this.#drawImage());
    byId("outline").addEventListener("change", () => this.#drawMask());
    byId("difference").addEventListener("change", () => this.#drawDifference());
    for (const id of ["window-low", "window-high"]) byId(id).addEventListener("change", () => this.#readWindow());
    byId("preset").addEventListener("change", (event) => {
      const range = CT_WINDOWS[event.target.value] ?? this.#stored;
      this.#setWindow(range);
    });
  }

  get #actions() {
    const flip = (id) => byId(id).click();
    return {
      nextLayout: () => {
        if (byId("layouts").hidden) return;
        const names = Object.keys(LAYOUTS);
        this.#setLayout((this.#wanted = names[(names.indexOf(this.#layout) + 1) % names.length]));
      },
      toggleMask: () => flip("mask-on"),
      toggleOutline: () => flip("outline"),
      toggleDifference: () => !byId("difference-label").hidden && flip("difference"),
      changeOpacity: (by) => {
        byId("opacity").value = Number(byId("opacity").value) + by;
        byId("opacity").dispatchEvent(new Event("input"));
      },
      toggleLabel: (index) => {
        const label = this.#shown[0]?.labels[index];
        if (label) this.setHidden(label.value, !this.#hidden.has(label.value));
      },
      centre: () => this.#centre(),
      move: (key, times) => this.#move(key, times),
    };
  }

  #move(key, times) {
    if (this.#shown.length === 0) return;
    if (this.#layout === "render") {
      const [azimuth, , up] = step(key, "coronal", times);
      for (const pane of this.#panes) pane.turn(-5 * azimuth, 5 * up);
      return;
    }
    const pane = this.#panes.find((entry) => entry.canvas === document.activeElement) ?? this.#panes[0];
    pane.move(...step(key, this.#layout, times));
    for (const other of this.#panes) if (other !== pane) other.goTo(pane.location);
  }

  #centre() {
    const labels = this.#shown[0]?.labels ?? [];
    const largest = [...labels].sort((a, b) => (b.voxels ?? 0) - (a.voxels ?? 0))[0];
    if (largest && this.goTo(largest.value)) return;
    for (const pane of this.#panes) pane.move(0, 0, 0);
  }

  #setLayout(name) {
    this.#layout = name;
    for (const radio of document.querySelectorAll("#layouts input[type=radio]")) radio.checked = radio.value === name;
    for (const pane of this.#panes) pane.change({ layout: name });
    byId("mask-alone-label").hidden = name !== "render" || byId("mask-controls").hidden;
    this.#drawImage();
  }

  #drawImage() {
    const alone = byId("mask-alone").checked && !byId("mask-alone-label").hidden;
    for (const pane of this.#panes) pane.change({ image: !alone });
  }

  #drawMask() {
    const share = Number(byId("opacity").value);
    setText(byId("opacity-said"), `${share} %`);
    const opacity = byId("mask-on").checked ? share / 100 : 0;
    for (const pane of this.#panes) pane.change({ opacity, outline: byId("outline").checked });
  }

  #drawDifference() {
    const on = byId("difference").checked;
    const [, second] = this.#panes;
    second.showDifference(on ? this.#differing.mask : null, KINDS);
    const [, result] = this.#shown;
    fill(this.#places[1].caption, on ? "Difference: " : result.caption, ...(on ? KINDS.map(legend) : []));
    this.#drawMask();
  }

  #showWindow([low, high]) {
    byId("window-low").value = Number(low.toPrecision(4));
    byId("window-high").value = Number(high.toPrecision(4));
  }

  #readWindow() {
    const range = [byId("window-low").valueAsNumber, byId("window-high").valueAsNumber];
    if (range[0] < range[1]) this.#setWindow(range);
    else this.#showWindow(this.#panes[0].window);
  }

  #setWindow(range) {
    for (const pane of this.#panes) pane.setWindow(...range);
    this.#showWindow(range);
  }
}

function legend({ name, colour }) {
  const swatch = make("span", { class: "swatch" });
  swatch.style.backgroundColor = `rgb(${colour.join(" ")})`;
  return make("span", { class: "name" }, swatch, name);
}

function sayLocation({ mm, intensity, label }, placed) {
  const value = typeof intensity === "number" ? `value ${Number(intensity.toPrecision(5))}` : "";
  return [placed ? place(mm) : "", value, label].filter(Boolean).join("   ");
}
