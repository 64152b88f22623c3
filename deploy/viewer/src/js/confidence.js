// What is said about the numbers of a report, below them.
import { percent, plural } from "./format.js";

/** How far the numbers can be trusted, as far as the bundle says. */
export function confidence(report) {
  const said = [];
  const { meaning, patients } = report.volume_interval ?? {};
  if (meaning) said.push(`Interval, measured on ${plural(patients, "patient")}: ${meaning}.`);
  if (report.calibrated !== undefined && showsProbabilities(report))
    said.push(
      report.calibrated
        ? "Probabilities are calibrated on validation cases."
        : "Probabilities are not calibrated: they may be too sure.",
    );
  if (report.gate)
    said.push(`Distance to the training images ${report.gate.distance}; up to ${report.gate.threshold} is usual.`);
  const point = report.operating_point;
  if (point?.class) said.push(`${point.class} is called from ${percent(point.threshold)} on.`);
  return said.join(" ");
}

function showsProbabilities({ probabilities, labels }) {
  return Boolean(probabilities || labels?.some((label) => typeof label.mean_probability === "number"));
}
