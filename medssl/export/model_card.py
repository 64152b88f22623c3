"""MODEL_CARD.md: what a model is for, what it was made from, how well it does, and what it must not be used for."""

from collections.abc import Mapping, Sequence
from typing import Any

from medssl.imaging.target_grid import SHOWN
from medssl.runtime.bundle import BundleSpec

_NOTICE = (
    "**Not a medical device.** For research only. No diagnosis, treatment or other clinical decision may rest on its "
    "output."
)


def model_card(bundle: BundleSpec, evaluation: Mapping[str, Any] | None, limits: Sequence[str] = ()) -> str:
    """Markdown text.

    Args:
        bundle: Content of bundle.json.
        evaluation: Content of results.json of `medssl evaluate`, or None.
        limits: Known limits, a sentence each.
    """
    parts = [
        ("", [f"# {bundle.name}", "", _NOTICE]),
        ("Intended use", [bundle.intended_use]),
        ("What it does", _does(bundle)),
        ("Data", _data(bundle)),
        ("Preprocessing", _preprocessing(bundle)),
        ("Measured", [*_measured(evaluation), *_measured_otherwise(bundle, evaluation)]),
        ("How sure it is", _confidence(bundle)),
        ("Proof of export", _parity(bundle)),
        ("Licence", [bundle.licence or "Not stated: ask its maker before any use."]),
        ("Limits", _limits(bundle, limits)),
    ]
    lines = []
    for title, content in parts:
        lines += [f"## {title}", "", *content, ""] if title else [*content, ""]
    return "\n".join(lines)


def _does(bundle: BundleSpec) -> list[str]:
    count = bundle.provenance.get("networks", 1)
    ensemble = f", the mean of {count} networks" if count > 1 else ""
    by = bundle.provenance.get("architecture", "a neural network")
    lines = [f"{bundle.task.capitalize()} by {by}{ensemble}.", ""]
    lines.append(f"Input: {len(bundle.channels)} channel(s): {', '.join(bundle.channels)}.")
    if bundle.labels:
        lines += ["", "| value | class | code |", "| --- | --- | --- |"]
        for label in bundle.labels:
            code = f"{label.type.scheme} {label.type.value}" if label.type else ""
            lines.append(f"| {label.value} | {label.name} | {code} |")
    if bundle.classes:
        lines += ["", f"Classes: {', '.join(bundle.classes)}."]
    if point := bundle.operating_point:
        chosen = "" if point["rule"] == "given" else ", the ones it was chosen on"
        lines += [
            "",
            f"`{point['class']}` is called from a probability of {point['threshold']:.4g} on ({point['rule']}): "
            f"sensitivity {point['sensitivity']:.3f}, specificity {point['specificity']:.3f} on "
            f"{point['measured_on']}{chosen}; {point['measured_by']}.",
        ]
    return lines


def _data(bundle: BundleSpec) -> list[str]:
    known = bundle.provenance
    lines = []
    if "patients" in known:
        cases = f"{known['cases']} labelled cases" if "cases" in known else "labelled cases"
        folds = [str(fold["patients"]) for fold in known.get("folds", ()) if "patients" in fold]
        each = f", each network on those of {' or '.join(sorted(set(folds), key=int))} of them" if folds else ""
        lines.append(f"- Trained on {cases} of {known['patients']} patients{each}.")
    if early := known.get("unfinished"):
        lines.append(f"- **{early[0].upper()}{early[1:]}**, so it is not what it was to be.")
    begun = "weights pretrained without labels" if known.get("pretrained") else "random weights"
    lines.append(f"- Began from {begun}.")
    if bundle.modalities:
        lines.append(f"- DICOM images of modality {' or '.join(bundle.modalities)}; those of another one are refused.")
    else:
        lines.append("- Its makers do not say of which modality its images are, so no other one is refused.")
    if spacing := known.get("fingerprint", {}).get("spacing_mm"):
        low, high = (_by([round(s, 3) for s in spacing[key]]) for key in ("smallest", "largest"))
        lines.append(f"- Voxel sizes of the data set: {low if low == high else f'{low} to {high}'} mm.")
    for key, title in (("manifest_sha256", "Manifest"), ("data_sha256", "Prepared data")):
        if key in known:
            lines.append(f"- {title}: SHA-256 `{known[key]}`.")
    return lines


def _preprocessing(bundle: BundleSpec) -> list[str]:
    p = bundle.preprocess
    unit = "pixels" if p.spatial_dims == 2 else "voxels"
    if p.longest is not None:
        size = f"scaled to a longer side of {p.longest} {unit}"
    else:
        size = f"each image's own {unit[:-1]} size" if p.spacing_mm is None else f"{unit} of {_by(p.spacing_mm)} mm"
    grey = ", colours made grey" if p.grey else ""
    ends = f" {list(p.intensity.low)} to {list(p.intensity.high)}" if p.intensity.low else ""
    flat = "Rows and columns as viewers show them, " if p.orientation == SHOWN else "Orientation as it is, "
    oriented = f"Orientation {p.orientation}, " if p.spatial_dims == 3 else flat
    mirrored = f", averaged over mirror images along axes {list(bundle.mirror_axes)}" if bundle.mirror_axes else ""
    intensities = f"{p.intensity.kind}{ends}"
    largest = [label.name for label in bundle.labels if label.value in _largest(bundle)]
    lines = [
        f"{oriented}{size}{grey}, crop {p.crop}, intensities {intensities}; done by `medssl predict` itself.",
        "",
        f"Windows of {_by(bundle.window)} {unit}, overlapping by {bundle.overlap:.0%}{mirrored}.",
    ]
    if largest:
        lines += ["", f"Of {', '.join(largest)} the largest connected part alone is kept, others are removed."]
    return lines


def _largest(bundle: BundleSpec) -> Sequence[int]:
    return tuple(bundle.post_processing.get("largest_component", ()))


def _measured_otherwise(bundle: BundleSpec, evaluation: Mapping[str, Any] | None) -> list[str]:
    """What this bundle does that the network did not do when it was measured."""
    if evaluation is None:
        return []
    told = []
    if _largest(bundle):
        told.append(
            "Smaller parts of the classes were **not removed** when this was measured; this bundle removes them."
        )
    axes = evaluation.get("mirror_axes", {}).get(evaluation["arm"], list(bundle.mirror_axes))
    if list(axes) != list(bundle.mirror_axes):
        then, now = (f"mirrored along axes {list(a)}" if a else "not mirrored" for a in (axes, bundle.mirror_axes))
        told.append(f"Images were **{then}** when this was measured; in this bundle they are {now}.")
    return [line for text in told for line in ("", text)]


def _measured(evaluation: Mapping[str, Any] | None) -> list[str]:
    if evaluation is None:
        return ["Nothing was measured on held-out patients before this bundle was made."]
    lines = []
    if evaluation["task"] == "classification":
        lines.append(f"{evaluation['cases']} cases of {evaluation['patients']} patients, split {evaluation['split']}.")
        lines += ["", "| measure | estimate and 95 % interval |", "| --- | --- |"]
        lines += [f"| {name.replace('_', ' ')} | {_interval(i)} |" for name, i in evaluation["metrics"].items()]
    else:
        arm = evaluation["arms"][evaluation["arm"]]
        tested = f"{arm['cases']} cases of {arm['patients']} patients, split {evaluation['split']}"
        lines.append(f"{tested}; means with 95 % intervals over patients.")
        lines += ["", "| class | Dice | HD95 mm | surface Dice |", "| --- | --- | --- | --- |"]
        lines.append(f"| all | {_interval(arm['mean_dice'])} | | |")
        lines += [
            f"| {name} | {_interval(c['dice'])} | {_interval(c['hd95_mm'])} | {_interval(c['nsd'])} |"
            for name, c in arm["classes"].items()
        ]
    for sentence in evaluation["warnings"]:
        lines += ["", f"**{sentence}**"]
    return lines


def _confidence(bundle: BundleSpec) -> list[str]:
    known, interval, gate = bundle.calibration, bundle.intervals, bundle.gate
    lines = []
    if "cases" in known:
        before, after = known["calibration_error_before"], known["calibration_error_after"]
        lines.append(
            f"- Probabilities are those of logits divided by a temperature of {bundle.temperature:.3g}, fitted on "
            f"{known['cases']} cases of {known['patients']} patients held out of the training: expected calibration "
            f"error {before:.3f} before, {after:.3f} after, on the same cases; {known['measured_by']}."
        )
    else:
        lines.append(f"- Probabilities are not calibrated ({known.get('missing', 'not measured')}).")
    if interval.get("labels"):
        names = {str(label.value): label.name for label in bundle.labels}
        each = ", ".join(f"{names[v]} {e['quantile']:.0%}" for v, e in interval["labels"].items())
        lines.append(
            f"- Volumes carry an interval ({each} of the volume, plus or minus): {interval['meaning']}. "
            f"Measured on {interval['patients']} patients."
        )
    elif bundle.labels:
        lines.append(f"- Volumes carry no interval ({interval.get('missing', 'not measured')}).")
    if "threshold" not in gate:
        return [*lines, f"- Images unlike the training's are not told ({gate.get('missing', 'not measured')})."]
    seen = f" ({gate['measured_by']})" if "measured_by" in gate else ""
    lines.append(
        f"- Images farther from {gate['training_images']} images of the training than {gate['quantile']:.0%} of "
        f"{gate['held_out_patients']} patients held out ({gate['held_out_images']} images) are flagged{seen}. How well "
        "that tells images that are nearly like them:"
    )
    lines += ["", "| kind | images | AUROC | flagged |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {m['images']} | {m['auroc']:.3f} | {m['flagged']:.0%} |" for name, m in gate["near"].items()]
    if not gate["given"]:
        lines += ["", "Not measured: other sequences or organs of the same modality (`confidence.near` of export)."]
    return lines


def _parity(bundle: BundleSpec) -> list[str]:
    known = bundle.parity
    lines = [
        f"- Largest difference of a logit between torch and ONNX Runtime, {batch.replace('_', ' ')}: {value:.2g}."
        for batch, value in known.get("max_logit_difference", {}).items()
    ]
    if "min_dice" in known:
        lowest = f"{known['min_dice']:.6f}"
        lines.append(f"- Smallest Dice between both masks over {known['volumes']} whole images: {lowest}.")
    if "max_probability_difference" in known:
        lines.append(f"- Largest difference of a probability: {known['max_probability_difference']:.2g}.")
    lines.append(
        "- `golden.npz` holds windows of real cases as normalised intensities and the logits torch gave for them: no "
        "name, date, identifier, file name or position. `medssl predict` replays it before it touches an image."
    )
    if missing := known.get("classes_not_in_golden_case"):
        lines.append(f"- No case held the label values {missing}, so the golden case does not show them.")
    return lines


def _limits(bundle: BundleSpec, limits: Sequence[str]) -> list[str]:
    done, told = ("classified", "told the class") if bundle.classes else ("segmented", "drawn it")
    general = (
        f"Images unlike those it was trained on (other scanners, protocols, ages, diseases) may be {done} wrongly "
        "without a sign.",
        f"Its output must be looked at by someone who could have {told}.",
    )
    return [f"- {sentence}" for sentence in (*limits, *general)]


def _by(numbers: Sequence[float]) -> str:
    return " x ".join(f"{n:g}" for n in numbers)


def _interval(interval: Mapping[str, Any]) -> str:
    if interval["estimate"] is None:
        return "–"
    if interval["low"] is None:
        return f"{interval['estimate']:.3f}"
    return f"{interval['estimate']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"
