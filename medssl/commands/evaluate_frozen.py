"""The part of `medssl evaluate` that judges an encoder as it is, without fine-tuning."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.commands.console import say
from medssl.evaluation.options import FrozenOptions, MeasureOptions
from medssl.imaging.errors import ConfigError
from medssl.imaging.files import atomic_folder, records_text, sha256, write_json, write_text
from medssl.imaging.naming import other_channels

if TYPE_CHECKING:
    from medssl.data.cache import Cache
    from medssl.evaluation.frozen_arms import Frozen
    from medssl.evaluation.probe_data import ProbeData


def encoder_file(run: Path, spatial_dims: int) -> Path | None:
    """The encoder file meant: a file itself, or that of a pretraining run; None where it is something else.

    Args:
        run: File or folder.
        spatial_dims: Of the images, for runs that learned from 2D and 3D images and have an encoder of each.
    """
    if run.suffix == ".safetensors" and run.name != "model.safetensors":
        return run
    if (run / "model.safetensors").is_file():
        return None
    names = ("encoder.safetensors", f"encoder_{spatial_dims}d.safetensors")
    return next((run / name for name in names if (run / name).is_file()), None)


def evaluate_encoders(
    files: Sequence[Path],
    cache: "Cache",
    head: dict[str, Any],
    out: Path,
    options: FrozenOptions,
    measure: MeasureOptions,
    device: str,
    pictures: Sequence[tuple[Path, str]] = (),
) -> None:
    """Probe encoders beside the first one's architecture with random weights; writes OUT.

    Args:
        files: The encoder, and perhaps another to compare with.
        cache: Prepared cache with splits.
        head: First entries of results.json.
        out: Folder of the results.
        options: What is asked.
        measure: Bootstrap resamples, and the order of the classes.
        device: Where the encoders compute; probes are on the processor.
        pictures: Maps of the features to show as well, with captions.

    Raises:
        ConfigError: An encoder that does not fit the cache or the options.
        CacheError: Splits or questions that cannot be probed.
        MedsslError: Features that are no numbers.
    """
    from medssl.evaluation.classification_cases import check_order
    from medssl.evaluation.few_shot import shots_left_out
    from medssl.evaluation.frozen import pretrained_encoder, random_encoder, slice_axis
    from medssl.evaluation.frozen_arms import RANDOM, judge_encoder
    from medssl.evaluation.report.frozen import frozen_sections
    from medssl.evaluation.report.page import write_report
    from medssl.models.component import Component
    from medssl.models.weights import read_encoder

    metas = [read_encoder(path)[1] for path in files]
    names = encoder_names(files)
    size = options.size or tuple(metas[0].get("provenance", {}).get("crop", ()))
    dims = 2 if options.bags == "slices" else cache.spatial_dims
    check_encoders(files, metas, cache, size, dims)
    check_order(cache.classes, measure.class_order)
    axis = slice_axis(options.slice_axis, metas[0])
    data = _read(cache, size, options, axis)
    say(_announced(names, data, cache, options, device))
    component = Component.from_json(metas[0]["encoder"])
    arms: dict[str, list[Frozen]] = {}
    for name, path in zip(names, files, strict=True):
        arms[name] = [judge_encoder(pretrained_encoder(path, dims, cache.channels).to(device), data, options)]
        say(f"evaluate: {name} is probed")
    arms[RANDOM] = [
        judge_encoder(random_encoder(component, dims, cache.channels, seed).to(device), data, options)
        for seed in range(options.random_seeds)
    ]
    own, compared = names[0], _compared(arms, names[0], data, measure.resamples)
    results = {
        **head,
        "target": options.target,
        "questions": list(data.names),
        "size": list(size),
        "bags": options.bags,
        "slice_axis": axis if options.bags == "slices" else None,
        "splits": {split: _counts(data, split) for split in ("train", "val", "test")},
        "arm": own,
        "encoders": {name: described(path, meta) for name, path, meta in zip(names, files, metas, strict=True)},
        **compared,
        "linear": _linear({name: arms[name][0] for name in names}, data, cache, options, measure),
        "feature_map": arms[own][0].feature_map,
        "warnings": [
            *compared["warnings"],
            *seen_warnings(names, files, {data.patients[int(row)] for row in data.rows("test")}),
            *encoder_warnings(names, metas, cache, axis),
            *_other_crops(names, metas, size),
            *_warnings(cache, data, options.target),
            *shots_left_out(data, options.shots),
        ],
    }
    with atomic_folder(out) as temporary:
        write_json(temporary / "results.json", results)
        write_text(temporary / "results.csv", records_text(_rows(results)))
        if options.target == "class":
            write_text(temporary / "cases.csv", records_text(_cases({name: arms[name][0] for name in names}, data)))
        sections = frozen_sections(results, pictures)
        about = "An encoder judged as it is, by probes."
        write_report(temporary, sections, f"Frozen features of {own}", about, results["environment"])
    _tell(results, out)


def _compared(arms: dict[str, "list[Frozen]"], own: str, data: "ProbeData", resamples: int) -> dict[str, Any]:
    """Numbers of every arm, and the differences to each other one, by probes and by prototypes."""
    from medssl.evaluation.encoder_tests import told_corrected
    from medssl.evaluation.frozen_arms import differences, shot_differences, summarise_arm

    others, ours = {name: found for name, found in arms.items() if name != own}, arms[own][0]
    compared = {
        "differences": {name: differences(ours, found, data, resamples) for name, found in others.items()},
        "shot_differences": {name: shot_differences(ours, found, data, resamples) for name, found in others.items()},
    }
    summaries = {name: summarise_arm(found, data, resamples) for name, found in arms.items()}
    return {"arms": summaries, **told_corrected(compared)}


def _counts(data: "ProbeData", split: str) -> dict[str, int]:
    rows = data.rows(split)
    return {"images": len(rows), "patients": len({data.patients[int(row)] for row in rows})}


def _cases(found: "dict[str, Frozen]", data: "ProbeData") -> list[dict[str, Any]]:
    """Lines of cases.csv."""
    from medssl.evaluation.probe_cases import case_rows, linear_of

    return [row for name, one in found.items() for row in case_rows(name, linear_of(one)[1], data)]


def _linear(
    found: "dict[str, Frozen]", data: "ProbeData", cache: "Cache", options: FrozenOptions, measure: MeasureOptions
) -> dict[str, Any]:
    """The linear probe of each encoder as a classifier, where images have a class, and on parts of the cases."""
    from medssl.evaluation.probe_cases import linear_of, parts_of_probe, probe_as_classifier

    classes = options.target == "class"
    probes = {name: linear_of(one)[1] for name, one in found.items()}
    return {
        "labels": linear_of(next(iter(found.values())))[0],
        "arms": {
            name: {
                "metrics": probe_as_classifier(probe, data, cache.classes, measure.class_order, measure.resamples)
                if classes
                else {},
                "subgroups": parts_of_probe(probe, data, classes, measure.resamples),
            }
            for name, probe in probes.items()
        },
    }


def check_encoders(
    files: Sequence[Path], metas: Sequence[dict[str, Any]], cache: "Cache", size: tuple[int, ...], dims: int
) -> None:
    """Refuse encoders that do not fit a cache, or crops of no size.

    Raises:
        ConfigError: Every mistake.
    """
    from medssl.evaluation.frozen import encoder_problems

    problems = []
    if not size:
        problems.append(f"frozen.size is missing: {files[0]} does not say how large the pretraining's crops were")
    elif len(size) != dims:
        problems.append(f"frozen.size {size} needs {dims} numbers: what is probed is {dims}D")
    for path, meta in zip(files, metas, strict=True):
        found = encoder_problems(path, meta, dims, cache.channels, str(cache.path))
        flat = dims == 3 and meta["encoder"]["init_args"].get("spatial_dims") == 2
        told = "; frozen.bags slices shows it the slices of volumes, for target class" if flat else ""
        problems += [f"{problem}{told}" for problem in found]
    if problems:
        raise ConfigError(problems)


def _read(cache: "Cache", size: tuple[int, ...], options: FrozenOptions, axis: int) -> "ProbeData":
    from medssl.evaluation.bags import read_bags
    from medssl.evaluation.probe_data import Target, read_probe_data

    if options.bags == "none":
        target: Target = "structures" if options.target == "structures" else "class"
        return read_probe_data(cache, size, target, options.crops)
    return read_bags(cache, size, options.bags, axis, options.slices)


def encoder_names(files: Sequence[Path]) -> list[str]:
    """Names of encoders in tables, each another one."""
    names = [path.resolve().parent.name if path.stem.startswith("encoder") else path.stem for path in files]
    return names if len(set(names)) == len(names) else [f"{name} {n + 1}" for n, name in enumerate(names)]


def _announced(names: Sequence[str], data: "ProbeData", cache: "Cache", options: FrozenOptions, device: str) -> str:
    counts = ", ".join(f"{len(data.rows(split))} {split}" for split in ("train", "val", "test"))
    return (
        f"evaluate: frozen features of {', '.join(names)} beside {options.random_seeds} encoder(s) with random "
        f"weights on {device}; {len(data.names)} question(s) about images of {cache.path}: {counts}\n"
        "Not a medical device: for research only."
    )


def described(path: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """What results.json says of an encoder file."""
    method = meta.get("method", {}).get("class_path", "").rpartition(".")[2]
    provenance = {name: meta.get("provenance", {}).get(name) for name in ("cases", "steps", "device_hours", "seed")}
    return {"file": str(path.resolve()), "sha256": sha256(path), "method": method, **provenance}


def _warnings(cache: "Cache", data: "ProbeData", target: str) -> list[str]:
    from medssl.evaluation.probe_data import not_probed
    from medssl.evaluation.subgroups import few_patients, unread_ages

    found = not_probed(cache, "structures" if target == "structures" else "class")
    for split in ("train", "val", "test"):
        found += few_patients(split, {data.patients[int(row)] for row in data.rows(split)})
    return found + unread_ages([case for case in cache.cases if case.split == "test"])


def encoder_warnings(
    names: Sequence[str], metas: Sequence[dict[str, Any]], cache: "Cache", axis: int | None = None
) -> list[str]:
    """What may spoil the comparison of encoders on a cache, one sentence each.

    Args:
        names: What they are called.
        metas: Their descriptions.
        cache: Prepared cache.
        axis: That counts the slices of volumes, for 2D encoders; None for that of the pretraining.
    """
    from medssl.evaluation.frozen import slice_axis

    found = []
    for name, meta in zip(names, metas, strict=True):
        then, now = meta.get("preprocess") or {}, cache.preprocess
        if then.get("spatial_dims") == 2 and now.spatial_dims == 3:  # it sees slices of these volumes
            now = now.of_slices(slice_axis(axis, meta))
        other = now.differences(then) if then else {}
        if other:
            found.append(f"{name} was pretrained on images prepared otherwise ({', '.join(other)}): this may lower it.")
        known = meta.get("channels", [])
        if known and other_channels(known, cache.channels):
            now_named = ", ".join(cache.channels)
            found.append(f"{name} was pretrained on the channels {', '.join(known)}, these are {now_named}.")
    return found


def _other_crops(names: Sequence[str], metas: Sequence[dict[str, Any]], size: Sequence[int]) -> list[str]:
    """A sentence for each encoder that is shown crops of another size than it was pretrained on."""
    known = {name: meta.get("provenance", {}).get("crop") for name, meta in zip(names, metas, strict=True)}
    shown = " x ".join(str(n) for n in size)
    return [
        f"{name} was pretrained on crops of {' x '.join(str(n) for n in crop)} and is shown {shown}: this may lower it."
        for name, crop in known.items()
        if crop and list(crop) != list(size)
    ]


def seen_warnings(names: Sequence[str], files: Sequence[Path], patients: Collection[str]) -> list[str]:
    """What to say of encoders that may have seen patients of split test, a sentence each; also on the console."""
    from medssl.evaluation.seen_patients import seen_in_pretraining
    from medssl.training.run_folder import encoder_patients

    found = [
        sentence
        for name, path in zip(names, files, strict=True)
        for sentence in seen_in_pretraining(name, encoder_patients(path), patients, "test")
    ]
    for sentence in found:
        say(f"WARNING: {sentence}")
    return found


def _rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """A line an arm, number of labels and probe; of the other arms with what the judged encoder differs by."""
    return [
        {
            "arm": name, "labels": labels, "probe": probe, "auroc": entry["auroc"]["estimate"],
            "low": entry["auroc"]["low"], "high": entry["auroc"]["high"], "val": entry["val"],
            "each": " ".join(str(value) for value in entry["each"]),
            **({} if name == results["arm"] else _difference(results["differences"][name][labels][probe])),
        }
        for name, arm in results["arms"].items()
        for labels, probes in arm["probes"].items()
        for probe, entry in probes.items()
    ]  # fmt: skip


def _difference(found: dict[str, Any]) -> dict[str, Any]:
    ends = {"difference": found["estimate"], "difference_low": found["low"], "difference_high": found["high"]}
    return {**ends, **{key: found[key] for key in ("p_value", "p_value_corrected", "verdict")}}


def _tell(results: dict[str, Any], out: Path) -> None:
    from medssl.evaluation.report.frozen import sentences

    for sentence in sentences(results):
        say(sentence)
    say(f"report: {out / 'report.html'}")
