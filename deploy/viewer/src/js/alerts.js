// What must be read before the numbers: flags, failures, warnings.
import { make } from "./dom.js";

const item = ({ code, text }) => make("li", {}, text, code ? make("span", { class: "code" }, ` (${code})`) : null);

/** Sections for the flags and warnings of a report; `name` tells of which result. */
export function alertsOf(report, name = "") {
  const of = name ? `${name}: ` : "";
  const found = [];
  if (report.flags?.length) {
    found.push(
      make(
        "section",
        { class: "do-not-use", role: "alert" },
        make("h3", {}, `${of}do not use`),
        make("ul", {}, ...report.flags.map(item)),
      ),
    );
  }
  const flagged = new Set((report.flags ?? []).map(({ text }) => `do not use: ${text}`));
  const warnings = (report.warnings ?? []).filter((text) => !flagged.has(text));
  if (warnings.length) {
    const list = make("ul", {}, ...warnings.map((text) => item({ text })));
    found.push(make("section", { class: "warning" }, make("h3", {}, `${of}warnings`), list));
  }
  return found;
}

/** Why a job failed; results that it has all the same did not get to the archive. */
export function failure(job) {
  return make(
    "section",
    { class: "failure", role: "alert" },
    make("h3", {}, job.results ? "Not stored in the archive" : "No result"),
    make("p", {}, job.message || "The server gives no message."),
    job.reason ? make("p", { class: "code" }, `reason: ${job.reason}`) : null,
  );
}

export function problem(text) {
  return make("section", { class: "failure", role: "alert" }, make("p", {}, text));
}
