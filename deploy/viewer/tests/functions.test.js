// Closed forms and small arrays for what the page computes itself.
import assert from "node:assert/strict";
import { test } from "node:test";
import { refusal } from "../src/js/api.js";
import { areChannels, told } from "../src/js/channels.js";
import { confidence } from "../src/js/confidence.js";
import { colourOf, lookup } from "../src/js/colours.js";
import { ONLY_FIRST, ONLY_SECOND, OTHER_LABEL, centre, difference, sameImage } from "../src/js/masks.js";
import { bytes, clock, millilitres, percent, place, plural, sizeOf } from "../src/js/format.js";
import { step } from "../src/js/shortcuts.js";
import { remember, titleOf } from "../src/js/titles.js";

test("volumes keep three digits and never say nothing where there is something", () => {
  assert.deepEqual([0, 0.00004, 0.001234, 0.5, 1.2345, 12.345, 123.45, 5809.2].map(millilitres), [
    "0",
    "< 0.0001",
    "0.0012",
    "0.500",
    "1.23",
    "12.3",
    "123",
    "5809",
  ]);
});

test("sizes are volumes, areas of flat images, or left out where none is known", () => {
  const named = (...labels) => {
    const { key, title, unit } = sizeOf(labels);
    return [key, title, unit];
  };
  assert.deepEqual(named({ voxels: 3 }, { voxels: 0, volume_ml: 0 }), ["volume_ml", "Volume", "mL"]);
  assert.deepEqual(named({ voxels: 3, area_mm2: 1.5 }), ["area_mm2", "Area", "mm²"]);
  assert.deepEqual(named({ voxels: 3 }), ["", "Volume", "mL"]);
  assert.deepEqual(named(), ["", "Volume", "mL"]);
});

test("shares are not rounded to certainty", () => {
  assert.deepEqual([0, 0.0004, 0.5, 0.9996, 1].map(percent), ["0.0 %", "< 0.1 %", "50.0 %", "> 99.9 %", "100.0 %"]);
});

test("sizes, counts and times", () => {
  assert.deepEqual([0, 999, 1000, 123456, 5e9].map(bytes), ["0 B", "999 B", "1.0 kB", "123 kB", "5.0 GB"]);
  assert.deepEqual([plural(1, "file"), plural(2, "file")], ["1 file", "2 files"]);
  assert.equal(clock(new Date(2026, 0, 2, 3, 4, 5).getTime() / 1000), "2026-01-02 03:04:05");
  assert.equal(clock(null), "");
});

test("a place is told by the patient's sides, of coordinates to the right, front and head", () => {
  assert.equal(place([12.34, -5, 0]), "R 12.3  P 5.0  S 0.0 mm");
  assert.equal(place([-1, 2, -3]), "L 1.0  A 2.0  I 3.0 mm");
});

test("masks differ where one has what the other lacks, or another label", () => {
  const first = [
    { value: 1, name: "liver" },
    { value: 2, name: "spleen" },
  ];
  const second = [
    { value: 5, name: "liver" },
    { value: 1, name: "kidney" },
  ]; // other numbers, another structure
  const { mask, rows } = difference(Uint8Array.of(0, 1, 1, 2, 2, 0), Uint8Array.of(0, 5, 0, 5, 1, 5), first, second);
  assert.deepEqual([...mask], [0, 0, ONLY_FIRST, OTHER_LABEL, OTHER_LABEL, ONLY_SECOND]);
  assert.deepEqual(rows, [
    { name: "liver", inA: 2, inB: 3, both: 1, dice: 2 / 5 },
    { name: "spleen", inA: 2, inB: 0, both: 0, dice: 0 },
    { name: "kidney", inA: 0, inB: 1, both: 0, dice: 0 },
  ]);
});

test("a structure that neither mask has is no disagreement", () => {
  const labels = [{ value: 1, name: "liver" }];
  assert.deepEqual(difference(Uint8Array.of(0), Uint8Array.of(0), labels, labels).rows[0].dice, null);
});

test("the middle of a structure is one of its own voxels", () => {
  // a ring of 3 x 3 in the second slice: its middle is empty, so a neighbour of it is taken
  const ring = Uint8Array.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 1, 2, 2, 2, 2]);
  const [column, row, slice] = centre(ring, [3, 3, 2], 2);
  assert.equal((column - 1) ** 2 + (row - 1) ** 2, 1);
  assert.equal(slice, 1);
  assert.deepEqual(centre(ring, [3, 3, 2], 1), [1, 1, 1]);
  assert.equal(centre(ring, [3, 3, 2], 7), null);
});

test("two results are of one image only where grid and voxels agree", () => {
  const volume = (img, shift = 0, dims = [3, 2, 1, 1]) => ({
    img,
    hdr: {
      dims,
      affine: [
        [1, 0, 0, shift],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
      ],
    },
  });
  const own = volume(Float32Array.of(1, NaN));
  assert.ok(sameImage(own, volume(Float32Array.of(1, NaN))));
  assert.ok(!sameImage(own, volume(Float32Array.of(2, NaN))));
  assert.ok(!sameImage(own, volume(Float32Array.of(1, NaN), 0.5)));
  assert.ok(!sameImage(own, volume(Float32Array.of(1, NaN), 0, [3, 1, 2, 1])));
});

test("an arrow moves the way it points: the patient's right is at the left, the head up", () => {
  assert.deepEqual(
    step("ArrowLeft", "axial", 1).map((n) => n + 0),
    [1, 0, 0],
  );
  assert.deepEqual(
    step("ArrowUp", "axial", 10).map((n) => n + 0),
    [0, 10, 0],
  );
  assert.deepEqual(
    step("ArrowUp", "coronal", 1).map((n) => n + 0),
    [0, 0, 1],
  );
  assert.deepEqual(
    step("ArrowRight", "sagittal", 1).map((n) => n + 0),
    [0, 1, 0],
  );
  assert.deepEqual(
    step("PageUp", "all", 1).map((n) => n + 0),
    [0, 0, 1],
  );
  assert.deepEqual(
    step("PageUp", "coronal", 1).map((n) => n + 0),
    [0, 1, 0],
  );
  assert.deepEqual(
    step("PageUp", "sagittal", 1).map((n) => n + 0),
    [1, 0, 0],
  );
});

test("a refusal says what the server says, and when to try again", () => {
  const full = refusal(429, { reason: "queue-full", message: "9 jobs are waiting" }, "10");
  assert.match(full.message, /Try again in 10 s\. 9 jobs are waiting$/);
  assert.deepEqual([full.status, full.reason, full.wait], [429, "queue-full", 10]);
  assert.equal(refusal(500, null, null).message, "The server failed (500).");
  const missing = refusal(422, { reason: "bad-request", message: "model is missing" }, null);
  assert.equal(missing.message, "The server refused (422). model is missing");
});

test("calibration is told where there is a probability that it is about, and nowhere else", () => {
  const told = (report) => /calibrated/.test(confidence(report));
  assert.ok(!told({ calibrated: false, labels: [{ value: 1, voxels: 5, volume_ml: 2 }] }));
  assert.ok(!told({ calibrated: true, labels: [{ value: 1, voxels: 0, mean_probability: null }] }));
  assert.ok(told({ calibrated: false, labels: [{ value: 1, mean_probability: 0.9 }] }));
  assert.ok(told({ calibrated: false, probabilities: { calm: 0.6, stormy: 0.4 } }));
  assert.ok(!told({ labels: [{ value: 1, mean_probability: 0.9 }] }));
});

test("a channel is asked for each file where files and channels are as many and can be named", () => {
  const names = ["a.nii.gz", "b.NII"];
  assert.ok(areChannels(names, ["T1", "T2"]));
  assert.ok(!areChannels(names, ["T1"]));
  assert.ok(!areChannels(names, ["T1", "T2", "T3"]));
  assert.ok(!areChannels(names, ["MR", "MR"]));
  assert.ok(!areChannels(names, ["T1", "T1, with contrast"]));
  assert.ok(!areChannels(["a.nii.gz", "b.dcm"], ["T1", "T2"]));
  assert.ok(!areChannels(["a.nii.gz", "IM0001"], ["T1", "T2"]));
});

test("what is chosen goes to the server in the order of the files, or nothing where nothing is chosen", () => {
  assert.deepEqual(told(["", ""], ["T1", "T2"]), { field: "", wrong: "" });
  assert.deepEqual(told(["T2", "T1"], ["T1", "T2"]), { field: "T2,T1", wrong: "" });
  assert.match(told(["T2", ""], ["T1", "T2"]).wrong, /T1 is not chosen/);
  assert.match(told(["T2", "T2"], ["T1", "T2"]).wrong, /T1 is not chosen/);
});

test("a label has the colour of its model, or one by its value; background is clear", () => {
  assert.deepEqual(colourOf({ value: 1, colour: [1, 2, 3] }), [1, 2, 3]);
  assert.deepEqual(colourOf({ value: 8, colour: null }), colourOf({ value: 1 }));
  assert.deepEqual(lookup([{ value: 4, name: "a", colour: [1, 2, 3] }]), {
    I: [0, 4],
    R: [0, 1],
    G: [0, 2],
    B: [0, 3],
    A: [0, 255],
    labels: ["", "a"],
  });
});

test("a study is called by its file in the tab that sent it, else by its pseudonym", () => {
  assert.equal(titleOf({ id: "1", study: "abc" }), "abc");
  remember("1", "scan.nii.gz");
  assert.equal(titleOf({ id: "1", study: "abc" }), "scan.nii.gz");
  assert.equal(titleOf({ id: "2", study: "" }), "2");
});
