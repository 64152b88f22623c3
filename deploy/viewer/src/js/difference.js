// Where two masks of one image differ, and by how much. Labels are matched by name: bundles may number them otherwise.

export const ONLY_FIRST = 1;
export const ONLY_SECOND = 2;
export const OTHER_LABEL = 3;

export const KINDS = [
  { value: ONLY_FIRST, name: "only in A", colour: [255, 140, 0] },
  { value: ONLY_SECOND, name: "only in B", colour: [60, 160, 255] },
  { value: OTHER_LABEL, name: "another label", colour: [250, 230, 60] },
];

/** Numbers of B's labels as A has them; a label that A lacks gets a number that A has nowhere. */
function renumbering(first, second) {
  const values = new Map(first.map((label) => [label.name, label.value]));
  let free = 256;
  return new Map([[0, 0], ...second.map((label) => [label.value, values.get(label.name) ?? free++])]);
}

/** Mask of `KINDS` and, for each label of either, its voxels in A, in B and in both. */
export function difference(a, b, first, second) {
  const numbers = renumbering(first, second);
  const mask = new Uint8Array(a.length);
  const counts = new Map();
  const count = (value, place) => {
    if (!counts.has(value)) counts.set(value, [0, 0, 0]);
    counts.get(value)[place] += 1;
  };
  for (let i = 0; i < a.length; i += 1) {
    const own = a[i];
    const other = b[i] === 0 ? 0 : (numbers.get(b[i]) ?? b[i]);
    if (own) count(own, 0);
    if (other) count(other, 1);
    if (own && own === other) count(own, 2);
    if (own !== other) mask[i] = !other ? ONLY_FIRST : !own ? ONLY_SECOND : OTHER_LABEL;
  }
  const names = new Map([...first.map((l) => [l.value, l.name]), ...second.map((l) => [numbers.get(l.value), l.name])]);
  const rows = [...names].map(([value, name]) => {
    const [inA, inB, both] = counts.get(value) ?? [0, 0, 0];
    return { name, inA, inB, both, dice: inA + inB ? (2 * both) / (inA + inB) : null };
  });
  return { mask, rows };
}

/** Whether two volumes are the same image on the same grid: only then a difference means something. */
export function sameImage(a, b) {
  const grid = (image) => [...image.hdr.dims.slice(1, 4), ...image.hdr.affine.flat().slice(0, 12)];
  const [one, two] = [grid(a), grid(b)];
  if (one.some((n, i) => Math.abs(n - two[i]) > 1e-3) || a.img.length !== b.img.length) return false;
  for (let i = 0; i < a.img.length; i += 1) if (!Object.is(a.img[i], b.img[i])) return false;
  return true;
}
