// Colours of labels: those of the overlay picture (medssl/imaging/writers/overlay.py), so that both look alike.

export const PALETTE = [
  [230, 75, 53],
  [77, 187, 213],
  [0, 160, 135],
  [243, 155, 127],
  [132, 145, 180],
  [245, 210, 60],
  [180, 120, 220],
];

/** Colour of a label: the one its model gives, or one of the palette by its value. */
export const colourOf = ({ value, colour }) => colour ?? PALETTE[(value - 1) % PALETTE.length];

export const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;

/** NiiVue's table of colours; 0 is clear. */
export function lookup(labels) {
  const rows = [{ value: 0, name: "", colour: [0, 0, 0] }, ...labels];
  return {
    I: rows.map((row) => row.value),
    R: rows.map((row) => row.colour[0]),
    G: rows.map((row) => row.colour[1]),
    B: rows.map((row) => row.colour[2]),
    A: rows.map((row) => (row.value === 0 ? 0 : 255)),
    labels: rows.map((row) => row.name),
  };
}
