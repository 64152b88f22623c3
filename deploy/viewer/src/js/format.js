// Numbers and times as words, the same in every browser language: a decimal point stays a point.

/** Millilitres with three significant digits or so; what is below a tenth of a microlitre is said to be. */
export function millilitres(value) {
  if (value === 0) return "0";
  if (Math.abs(value) < 0.0001) return "< 0.0001";
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(digits, 4));
}

/** What sizes of these structures are told in: volumes, areas of flat images, or nothing where no size is known. */
export function sizeOf(labels) {
  const kinds = [
    { key: "volume_ml", title: "Volume", unit: "mL" },
    { key: "area_mm2", title: "Area", unit: "mm²" },
  ];
  return kinds.find(({ key }) => labels.some((label) => label[key] !== undefined)) ?? { ...kinds[0], key: "" };
}

/** A share as per cent; what is not quite all or nothing is not shown as if it were. */
export function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  if (share < 1 && share > 0.999) return "> 99.9 %";
  return `${(100 * share).toFixed(1)} %`;
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB"];
  let power = 0;
  let value = count;
  while (value >= 1000 && power < units.length - 1) {
    value /= 1000;
    power += 1;
  }
  return `${power && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[power]}`;
}

/** Local time, to the second, of an ISO text or of seconds since 1970; empty where there is none. */
export function clock(value) {
  if (value === null || value === undefined || value === "") return "";
  const date = typeof value === "number" ? new Date(1000 * value) : new Date(value);
  if (Number.isNaN(date.getTime())) return String(value);
  const two = (n) => String(n).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** A place in the patient: NIfTI's millimetres are RAS+, so a positive first number is to the right. */
export function place(mm) {
  const letters = ["LR", "PA", "IS"];
  return (
    letters.map(([low, high], axis) => `${mm[axis] < 0 ? low : high} ${Math.abs(mm[axis]).toFixed(1)}`).join("  ") +
    " mm"
  );
}

export function plural(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}
