// The numbers of a report as tables: volumes of structures, probabilities of classes, two results beside each other.
import { colourOf, css } from "./colours.js";
import { make } from "./dom.js";
import { millilitres, percent, sizeOf } from "./format.js";

const number = (text) => make("td", { class: "number" }, text);
const heading = (text, kind = "") => make("th", { scope: "col", class: kind }, text);

function table(caption, headings, rows) {
  const head = make("thead", {}, make("tr", {}, ...headings));
  return make(
    "div",
    { class: "scroll" },
    make("table", {}, make("caption", {}, caption), head, make("tbody", {}, ...rows)),
  );
}

/** The structures: a switch, colour and name, volume or area and, where the model gives them, its interval and confidence. */
export function volumes(labels, { onToggle, onGo, drawn, coverage }) {
  const size = sizeOf(labels);
  const columns = [
    {
      title: `${size.title} (${size.unit})`,
      of: (label) => (label[size.key] === undefined ? "" : millilitres(label[size.key])),
    },
    { title: `${coverage ? `${Math.round(100 * coverage)} % interval` : "Interval"} (mL)`, of: intervalOf },
    {
      title: "Mean probability",
      of: (label) => (typeof label.mean_probability === "number" ? percent(label.mean_probability) : ""),
    },
  ].filter(({ of }) => labels.some((label) => of(label)));
  const headings = [
    drawn ? heading("Shown") : null,
    heading("Structure"),
    ...columns.map(({ title }) => heading(title, "number")),
  ];
  const rows = labels.map((label) =>
    make(
      "tr",
      {},
      drawn ? switchOf(label, onToggle) : null,
      nameOf(label, drawn ? onGo : null),
      ...columns.map(({ of }) => number(of(label))),
    ),
  );
  return table(size.key ? `${size.title}s` : "Structures", headings.filter(Boolean), rows);
}

function intervalOf(label) {
  const { volume_ml_low: low, volume_ml_high: high } = label;
  return low === undefined ? "" : `${millilitres(low)} to ${millilitres(high)}`;
}

function switchOf(label, onToggle) {
  const box = make("input", {
    type: "checkbox",
    "data-value": label.value,
    "aria-label": `show ${label.name}`,
    on: { change: () => onToggle(label.value, !box.checked) },
  });
  box.checked = true;
  return make("td", {}, box);
}

function nameOf(label, onGo) {
  const swatch = make("span", { class: "swatch" });
  swatch.style.backgroundColor = css(colourOf(label));
  const name =
    onGo && label.voxels > 0
      ? make(
          "button",
          { type: "button", title: "crosshair to its middle", on: { click: () => onGo(label.value) } },
          label.name,
        )
      : label.name;
  return make("th", { scope: "row" }, make("span", { class: "name" }, swatch, name));
}

/** Probabilities, the called class marked in words and not by colour alone. */
export function probabilities(report) {
  const rows = Object.entries(report.probabilities)
    .sort((a, b) => b[1] - a[1])
    .map(([name, share]) => {
      const called = name === report.class;
      const bar = make("meter", { min: 0, max: 1, value: share, "aria-hidden": "true" });
      return make(
        "tr",
        { class: called ? "called" : null },
        make("th", { scope: "row" }, called ? `${name} (called)` : name),
        number(percent(share)),
        make("td", {}, bar),
      );
    });
  return table("Class probabilities", [heading("Class"), heading("Probability", "number"), heading("")], rows);
}

/** Volumes or areas of two results by the names of structures; Dice where both are of one image. */
export function comparedVolumes(a, b, rows) {
  const names = [...new Set([...a, ...b].map((label) => label.name))];
  const size = sizeOf([...a, ...b]);
  const of = (labels, name) => labels.find((label) => label.name === name)?.[size.key];
  const told = (labels, name) => {
    const value = of(labels, name);
    if (value !== undefined) return millilitres(value);
    return labels.some((label) => label.name === name) ? "size unknown" : "none";
  };
  const dice = new Map((rows ?? []).map((row) => [row.name, row.dice]));
  const lines = names.map((name) => {
    const [one, two] = [of(a, name), of(b, name)];
    const both = one !== undefined && two !== undefined;
    const share = dice.get(name);
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, name),
      number(told(a, name)),
      number(told(b, name)),
      number(both ? signed(two - one) : ""),
      number(both && one > 0 ? `${signed((100 * (two - one)) / one, 1)} %` : ""),
      rows ? number(share === null || share === undefined ? "" : share.toFixed(3)) : null,
    );
  });
  const units = ["A", "B", "B − A"].map((text) => (size.unit ? `${text} (${size.unit})` : text));
  const headings = [...units, "change"].map((text) => heading(text, "number"));
  return table(
    "A and B",
    [heading("Structure"), ...headings, rows ? heading("Dice", "number") : null].filter(Boolean),
    lines,
  );
}

export function comparedProbabilities(a, b) {
  const names = [...new Set([...Object.keys(a.probabilities), ...Object.keys(b.probabilities)])];
  const cell = (report, name) => {
    const share = report.probabilities[name];
    return number(share === undefined ? "none" : `${percent(share)}${report.class === name ? " (called)" : ""}`);
  };
  const rows = names.map((name) => make("tr", {}, make("th", { scope: "row" }, name), cell(a, name), cell(b, name)));
  return table("A and B", [heading("Class"), heading("A", "number"), heading("B", "number")], rows);
}

function signed(value, digits) {
  const text = digits === undefined ? millilitres(Math.abs(value)) : Math.abs(value).toFixed(digits);
  return value === 0 ? text : `${value < 0 ? "−" : "+"}${text}`;
}
