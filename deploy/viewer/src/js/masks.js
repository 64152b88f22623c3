// Masks as arrays: where two of one image differ, by how much, and where a structure is. Labels are matched by name, as
// bundles may number them otherwise.

export const ONLY_FIRST = 1;
export const ONLY_SECOND = 2;
export const OTHER_LABEL = 3;

export const KINDS = [
  { value: ONLY_FIRST, name: "only in A", colour: [255, 140, 0] },
  { value: ONLY_SECOND, name: "only in B", colour: [60, 160, 255] },
  { value: OTHER_LABEL, name: "another label", colour: [250, 230, 60] },
];

const VALUES = 256; // masks are of 8 bits

/** Numbers of B's labels as A has them; a label that A lacks gets a number that A has nowhere. */
function renumbering(first, second) {
  const values = new Map(first.map((label) => [label.name, label.value]));
  const numbers = Uint16Array.from({ length: VALUES }, (_, value) => value);
  let free = VALUES;
  for (const label of second) numbers[label.value] = values.get(label.name) ?? free++;
  return numbers;
}

/** Mask of `KINDS` and, for each label of either, its voxels in A, in B and in both. */
export function difference(a, b, first, second) {
  const numbers = renumbering(first, second);
  const mask = new Uint8Array(a.length);
  const [inA, inB, inBoth] = [0, 1, 2].map(() => new Float64Array(2 * VALUES));
  for (let i = 0; i < a.length; i += 1) {
    const own = a[i];
    const other = numbers[b[i]];
    inA[own] += 1;
    inB[other] += 1;
    if (own === other) inBoth[own] += 1;
    else mask[i] = !other ? ONLY_FIRST : !own ? ONLY_SECOND : OTHER_LABEL;
  }
  const names = new Map([
    ...first.map((label) => [label.value, label.name]),
    ...second.map((label) => [numbers[label.value], label.name]),
  ]);
  const rows = [...names].map(([value, name]) => {
    const total = inA[value] + inB[value];
    const counts = { inA: inA[value], inB: inB[value], both: inBoth[value] };
    return { name, ...counts, dice: total ? (2 * inBoth[value]) / total : null };
  });
  return { mask, rows };
}

/** The voxel (column, row, slice) of a label nearest to the middle of all its voxels; null where it has none. */
export function centre(img, [columns, rows, slices], value) {
  const sum = [0, 0, 0];
  let count = 0;
  const each = (visit) => {
    let index = 0;
    for (let k = 0; k < slices; k += 1) {
      for (let j = 0; j < rows; j += 1) for (let i = 0; i < columns; i += 1) if (img[index++] === value) visit(i, j, k);
    }
  };
  each((i, j, k) => {
    sum[0] += i;
    sum[1] += j;
    sum[2] += k;
    count += 1;
  });
  let nearest = null;
  let least = Infinity;
  each((i, j, k) => {
    const distance = (i - sum[0] / count) ** 2 + (j - sum[1] / count) ** 2 + (k - sum[2] / count) ** 2;
    if (distance < least) {
      least = distance;
      nearest = [i, j, k];
    }
  });
  return nearest;
}

/** Whether two volumes are the same image on the same grid: only then a difference means something. */
export function sameImage(a, b) {
  const grid = (image) => [...image.hdr.dims.slice(1, 4), ...image.hdr.affine.flat().slice(0, 12)];
  const [one, two] = [grid(a), grid(b)];
  if (one.some((n, i) => Math.abs(n - two[i]) > 1e-3) || a.img.length !== b.img.length) return false;
  for (let i = 0; i < a.img.length; i += 1) if (!Object.is(a.img[i], b.img[i])) return false;
  return true;
}
