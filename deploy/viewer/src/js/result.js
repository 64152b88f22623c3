// The opened study: its state, and where it has results pictures, numbers and files; with a second one to compare.
import { alertsOf, failure, problem } from "./alerts.js";
import * as api from "./api.js";
import { confidence } from "./confidence.js";
import { byId, fill, make, setText } from "./dom.js";
import { bytes, clock, percent } from "./format.js";
import { ACTIVE } from "./studies.js";
import * as tables from "./tables.js";
import { titleOf } from "./titles.js";
import { Viewer } from "./viewer.js";

const SOURCES = { rest: "uploaded", cstore: "received by C-STORE", dicomweb: "pulled from the archive" };

export class Result {
  #viewer = new Viewer((hidden) => this.#markHidden(hidden));
  #loading = new AbortController();

  /** Show a job as far as it is; loads the results where there are some, be they stored in the archive or not. */
  async show(job, other, models) {
    this.#loading.abort();
    this.#loading = new AbortController();
    const { signal } = this.#loading;
    this.#viewer.clear();
    byId("welcome").hidden = true;
    byId("opened").hidden = false;
    const found = job.results || job.state === "done";
    byId("found").hidden = !found;
    fill(byId("alerts"));
    fill(byId("numbers"));
    setText(byId("picture-said"), "");
    this.update(job);
    if (job.state === "failed") fill(byId("alerts"), failure(job));
    if (!found) return;
    setText(byId("picture-said"), "Loading the result …");
    try {
      const loaded = [await load(job, models, signal)];
      if (other) loaded.push(await load(other, models, signal));
      if (!signal.aborted) await this.#draw(loaded, signal);
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return;
      setText(byId("picture-said"), "");
      byId("alerts").append(problem(error.message));
    }
  }

  /** What changes while a job is under way. */
  update(job) {
    setText(byId("study-title"), titleOf(job));
    const times = [
      ["sent", job.accepted],
      ["finished", job.finished],
    ]
      .filter(([, time]) => time)
      .map(([word, time]) => `${word} ${clock(time)}`);
    setText(
      byId("study-about"),
      [
        job.model,
        SOURCES[job.source] ?? job.source,
        titleOf(job) !== job.study && job.study && `study ${job.study}`,
        ...times,
      ]
        .filter(Boolean)
        .join(" · "),
    );
    byId("under-way").hidden = !ACTIVE.has(job.state);
    const share = job.progress ?? 0;
    const waiting = job.state === "queued";
    setText(byId("stage"), waiting ? "Waiting for its turn." : `Under way: ${job.stage || "running"}.`);
    setText(byId("share"), waiting ? "" : percent(share));
    byId("progress").value = share;
    byId("delete-button").disabled = job.state === "running";
  }

  close() {
    this.#loading.abort();
    this.#viewer.clear();
    byId("opened").hidden = true;
    byId("welcome").hidden = false;
  }

  async #draw(loaded, signal) {
    const names = loaded.length === 2 ? ["A", "B"] : [""];
    byId("alerts").append(...loaded.flatMap(({ report }, index) => alertsOf(report, names[index])));
    this.#listFiles(loaded[0]);
    showProvenance(loaded[0].report);
    const drawable = loaded.every((result) => result.image);
    setText(byId("picture-said"), drawable ? "Drawing …" : "");
    const why = drawable
      ? await this.#viewer.show(
          loaded.map((result, index) => picture(result, names[index])),
          signal,
        )
      : "The image is not among the results.";
    if (signal.aborted) return;
    setText(byId("picture-said"), why);
    this.#showNumbers(loaded, why === "");
    if (why || loaded[0].report.image?.shape.length === 2) await this.#showStill(loaded[0]);
  }

  #showNumbers(loaded, drawn) {
    const [{ report }] = loaded;
    const own = report.probabilities
      ? tables.probabilities(report)
      : tables.volumes(report.labels, {
          drawn,
          onToggle: (value, hide) => this.#viewer.setHidden(value, hide),
          onGo: (value) => this.#viewer.goTo(value),
          coverage: report.volume_interval?.coverage,
        });
    fill(
      byId("numbers"),
      own,
      make("p", { class: "about" }, confidence(report)),
      ...(loaded.length === 2 ? this.#comparison(loaded, drawn) : []),
    );
  }

  #comparison([{ report: a }, { report: b }], drawn) {
    if (a.probabilities && b.probabilities) return [tables.comparedProbabilities(a, b)];
    if (!a.labels || !b.labels)
      return [make("p", {}, "One result is a class, the other a mask: there is nothing to compare.")];
    const { rows, why } = drawn ? this.#viewer.compared() : { why: "" };
    this.#viewer.offerDifference(Boolean(rows));
    return [tables.comparedVolumes(a.labels, b.labels, rows), why ? make("p", { class: "about" }, why) : null];
  }

  /** The picture that the server made: better than none without WebGL, and in colour where the image is. */
  async #showStill({ job, files }) {
    if (!files.some((file) => file.name === "overlay.png")) return;
    const blob = await (await api.file(job.id, "overlay.png")).blob();
    const picture = make("img", { id: "still", alt: "The picture of the server, with the mask in colour" });
    picture.src = URL.createObjectURL(blob);
    byId("numbers").prepend(picture);
  }

  #listFiles({ job, files }) {
    const entry = ({ name, bytes: size }) =>
      make(
        "li",
        {},
        make("button", { type: "button", on: { click: () => save(job, name) } }, `${name} (${bytes(size)})`),
      );
    fill(byId("files"), ...files.map(entry));
  }

  #markHidden(hidden) {
    for (const box of document.querySelectorAll("#numbers input[data-value]"))
      box.checked = !hidden.has(Number(box.dataset.value));
  }
}

/** Report, files and, where they are, image and mask of a job. */
async function load(job, models, signal) {
  const files = await api.results(job.id);
  const has = (name) => files.some((file) => file.name === name);
  const content = async (name) => (has(name) ? (await api.file(job.id, name, signal)).arrayBuffer() : null);
  if (!has("report.json"))
    throw new api.ApiError("The result has no report: it was made by another program or is damaged.");
  const report = await (await api.file(job.id, "report.json", signal)).json();
  const model = models.find((entry) => entry.name === report.model);
  for (const label of report.labels ?? [])
    label.colour = model?.labels.find(({ value }) => value === label.value)?.colour;
  return {
    job,
    files,
    report,
    channels: model?.channels ?? [],
    image: await content("image.nii.gz"),
    mask: await content("seg.nii.gz"),
  };
}

function picture({ job, report, image, mask, channels }, name) {
  const first = channels.length > 1 ? `first of ${channels.length} channels: ${channels[0]}` : "";
  const caption = [name, titleOf(job), job.model, first].filter(Boolean).join(" · ");
  const { modality, shape, format } = report.image ?? {};
  // a photograph has no place in a patient: no letters for right and left
  return {
    image,
    mask,
    labels: report.labels ?? [],
    caption,
    modality,
    placed: shape?.length === 3 || format === "dicom",
  };
}

/** Fetch a file with the token and hand it to the browser's downloads. */
async function save(job, name) {
  setText(byId("download-said"), `Fetching ${name} …`);
  try {
    const link = make("a", { download: `${job.id}_${name}` });
    link.href = URL.createObjectURL(await (await api.file(job.id, name)).blob());
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    setText(byId("download-said"), `${name} is in the browser's downloads.`);
  } catch (error) {
    setText(byId("download-said"), error.message);
  }
}

function imageWords({ modality, format, shape, spacing_mm: spacing }) {
  return `${modality} ${format}, ${shape.join(" × ")} voxels of ${spacing.join(" × ")} mm`;
}

function showProvenance(report) {
  const seconds = Object.entries(report.timing ?? {}).map(
    ([name, value]) => `${name.replace(/_s$/, "")} ${value.toFixed(2)} s`,
  );
  const versions = Object.entries(report.versions ?? {}).map(([name, value]) => `${name} ${value}`);
  const rows = {
    model: report.model,
    "bundle (SHA-256)": report.bundle_sha256,
    image: report.image && imageWords(report.image),
    channels: report.image?.files?.map(({ channel, file }) => `${channel}: file ${file}`).join(", "),
    time: seconds.join(", "),
    versions: versions.join(", "),
    "computed on": report.providers?.join(", "),
  };
  const shown = Object.entries(rows).filter(([, value]) => value);
  fill(byId("provenance"), ...shown.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}
