// Keys that act while a picture has the focus; the help dialog is made of the same table.
import { byId, fill, make } from "./dom.js";

const STEPS = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, 1],
  ArrowDown: [0, -1],
  PageUp: [0, 0, 1],
  PageDown: [0, 0, -1],
};

/** Voxels to the patient's right, front and head, for a key in a view whose left side is the patient's right. */
export function step(key, layout, times) {
  const [across, up, deep = 0] = STEPS[key].map((n) => n * times);
  if (layout === "coronal") return [-across, deep, up];
  if (layout === "sagittal") return [deep, across, up];
  return [-across, up, deep];
}

const HELP = [
  ["← → ↑ ↓", "move the crosshair in the picture; with Shift by ten voxels; in 3D turn"],
  ["Page Up, Page Down", "next and previous slice"],
  ["V", "next view: planes and 3D, axial, coronal, sagittal, 3D"],
  ["M", "mask on or off"],
  ["+ −", "mask more or less opaque"],
  ["O", "outline instead of area"],
  ["1 … 9", "show or hide the first nine structures"],
  ["C", "crosshair to the middle of the largest structure"],
  ["D", "difference on or off, when comparing"],
  ["?", "this help"],
];

/** Act on keys of a canvas before NiiVue does, which has keys of its own. */
export function listen(canvas, actions) {
  const simple = {
    v: actions.nextLayout,
    m: actions.toggleMask,
    "+": () => actions.changeOpacity(10),
    "=": () => actions.changeOpacity(10),
    "-": () => actions.changeOpacity(-10),
    o: actions.toggleOutline,
    c: actions.centre,
    d: actions.toggleDifference,
    "?": () => byId("help").showModal(),
  };
  const pressed = (event) => {
    event.stopImmediatePropagation();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    if (event.key in STEPS) actions.move(event.key, event.shiftKey ? 10 : 1);
    else if (key in simple) simple[key]();
    else if (/^[1-9]$/.test(key)) actions.toggleLabel(Number(key) - 1);
    else return;
    event.preventDefault();
  };
  canvas.addEventListener("keydown", pressed, { capture: true });
  canvas.addEventListener("keyup", (event) => event.stopImmediatePropagation(), { capture: true });
}

export function showHelp() {
  fill(
    byId("shortcuts"),
    ...HELP.map(([keys, what]) =>
      make("tr", {}, make("th", { scope: "row" }, make("kbd", {}, keys)), make("td", {}, what)),
    ),
  );
}
