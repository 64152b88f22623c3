"""Preprocess the images of a manifest into a cache for training."""

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medssl.commands.console import say
from medssl.commands.side_by_side import in_workers
from medssl.imaging.environment import command
from medssl.imaging.errors import CacheError, ConfigError, MedsslError
from medssl.imaging.files import HOPELESS, known_sha256, sha256, write_json
from medssl.imaging.labels import Code, Label
from medssl.imaging.manifest import Manifest, Row
from medssl.imaging.naming import plain, some, split_field
from medssl.imaging.preprocess import Preprocess
from medssl.imaging.problems import Problem, in_short, read_problems, write_problems
from medssl.imaging.progress import Progress
from medssl.imaging.readers.open import is_dicom_label
from medssl.imaging.target_grid import SHOWN

POSITIONAL = ("manifest",)
_BYTES_A_SECOND = 5e6
"""Of the originals, one worker (compressed CT and MR, 1 to 2 mm); only for the estimate before the first case."""
_SHOWN = 20
"""Remarks and left out cases on the console; all stand in files."""
_LABEL_RULES = "the later class is taken"
"""How overlapping segments are read; cases of a cache from before are prepared anew."""
_SECONDS_A_CASE = 0.03
"""What a case takes however small it is."""


@dataclass(frozen=True)
class LabelOptions:
    """One foreground class, for `labels` in a configuration file."""

    name: str
    """Short name."""
    value: int
    """Voxel value, 1 to 255."""
    type: Code | None = None
    """Coded property type, needed for DICOM-SEG: value, scheme, meaning."""
    category: Code | None = None
    """Coded property category, needed for DICOM-SEG."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to prepare one case."""

    row: Row
    root: Path
    cache: Path
    preprocess: Preprocess
    labels: tuple[Label, ...]
    label_map: dict[int, int] = field(default_factory=dict)
    ignore_label: int | None = None
    resample_irregular: bool = False


def prepare(
    manifest: Path,
    out: Path,
    preprocess: Preprocess = Preprocess(),
    labels: list[LabelOptions] | None = None,
    label_map: dict[int, int] | None = None,
    ignore_label: int | None = None,
    channels: list[str] | None = None,
    split: str = "70/15/15",
    seed: int = 0,
    resample_irregular: bool = False,
    workers: int = 2,
) -> None:
    """Bring the images of a manifest to one orientation, voxel size and intensity scale, stored for fast crops.

    Run it again to resume: finished cases are kept. Cases that cannot be used are listed in OUT/problems.csv with the
    reason; the others are finished all the same, the cache is usable, and the exit code is 2.

    Args:
        manifest: Manifest written by `medssl index` or by hand.
        out: Folder of the cache.
        preprocess: Orientation (3D; 2D images are laid as viewers show them), voxel size, crop and intensities.
        labels: Foreground classes; left out, every value found becomes a class. DICOM segments go by these names, and
            of two that overlap the later class is taken: organs stand before what lies in them.
        label_map: Value in the label files to value wanted.
        ignore_label: Label value that counts neither in losses nor in metrics, usually 255.
        channels: Names of the channels.
        split: Shares of patients for train/val/test, where the manifest has no split.
        seed: Seed of the split.
        resample_irregular: Resample DICOM series with uneven slices instead of leaving them out.
        workers: Processes.

    Raises:
        CacheError: OUT holds another cache, one number means several segments, or cases were left out.
        ManifestError: The manifest contradicts itself.
    """
    from medssl.data.cache import SCHEMA_VERSION

    if preprocess.spatial_dims == 2:
        preprocess = replace(preprocess, orientation=SHOWN)
    listed = Manifest.read(manifest)
    for note in listed.notes:
        say(f"WARNING: {note}")
    rows = _with_splits(listed.rows, split, seed)
    classes = tuple(Label(option.value, option.name, option.type, option.category) for option in labels or ())
    _check_labels(classes)
    settings = {
        "schema_version": SCHEMA_VERSION,
        "preprocess": preprocess.to_json(),
        "labels": [label.to_json() for label in classes],
        "label_map": {str(k): v for k, v in (label_map or {}).items()},
        "ignore_label": ignore_label,
        "resample_irregular": resample_irregular,
    }
    _claim(out, settings)
    own = any(row.split for row in listed.rows)
    say("splits: as the manifest says" if own else f"splits: {split} of the labelled patients, seed {seed}")
    pending = _pending_bytes(out, rows, listed.root)
    _tell_space(out, pending)
    jobs = [
        Job(row, listed.root, out, preprocess, classes, label_map or {}, ignore_label, resample_irregular)
        for row in rows
    ]
    seconds = pending / _BYTES_A_SECOND + (_SECONDS_A_CASE * len(jobs) if pending else 0)
    say(
        f"prepare: {len(jobs)} cases with {workers} worker(s) into {out}; {pending / 2**20:.0f} MiB to read, about "
        f"{_minutes(seconds / max(1, workers))} (a guess; time left is shown once the first are done)"
    )
    problems = _run(jobs, workers)
    write_problems(out / "problems.csv", problems)
    contents = _finish(out, settings, jobs, {Path(p.path).name for p in problems}, listed, channels)
    _summary(out, jobs, problems, contents, given=bool(classes))


def _with_splits(rows: Sequence[Row], split: str, seed: int) -> list[Row]:
    """Splits of the manifest where it has any, else by patient; unlabelled patients go into training."""
    from medssl.data.splits import assign_splits, empty_splits, parse_fractions

    if any(row.split for row in rows):
        return [replace(row, split=row.split or "train") for row in rows]
    fractions = parse_fractions(split)
    labelled = {row.patient for row in rows if row.label or row.class_name}
    chosen = assign_splits([row.patient for row in rows if row.patient in labelled], fractions, seed)
    if labelled and (empty := empty_splits(fractions, chosen)):
        say(
            f"WARNING: {len(labelled)} labelled patient(s) are too few for --split {split}: no patient for "
            f"{' and '.join(empty)}, so nothing can be learned or measured there; label more patients, or train with "
            "--folds"
        )
    return [replace(row, split=chosen.get(row.patient, "train")) for row in rows]


def _check_labels(labels: Sequence[Label]) -> None:
    values = Counter(label.value for label in labels)
    names = Counter(label.name for label in labels)
    doubled = [str(k) for counter in (values, names) for k, n in counter.items() if n > 1]
    if doubled:
        raise ConfigError([f"labels: {', '.join(doubled)} occurs twice; each class has a value and a name of its own"])


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Take the folder for these settings, or refuse one that was made with others."""
    path = out / "settings.json"
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CacheError(
                f"{path} is damaged ({error}): remove {out} and prepare again", reason="bad-cache"
            ) from error
        before["preprocess"] = {**asdict(Preprocess()), **before.get("preprocess", {})}  # an earlier one had fewer
        now = json.loads(json.dumps(settings))  # as it is read back: tuples become lists
        different = [key for key in now if before.get(key) != now[key]]
        if different:
            raise CacheError(
                f"{out} was begun with other settings ({', '.join(different)}): choose another folder, or remove it",
                reason="cache-settings",
            )
    elif out.exists() and any(out.iterdir()):
        raise CacheError(f"{out} is not empty and holds no cache: choose another folder", reason="not-empty")
    else:
        write_json(path, settings)


def _pending_bytes(out: Path, rows: Sequence[Row], root: Path) -> int:
    """Size of the originals of the cases that are not there yet."""
    waiting = (row for row in rows if not (out / "cases" / row.case / "case.json").is_file())
    paths = {root / part.strip().partition("#")[0] for row in waiting for part in row.image.split(";")}
    return sum(file.stat().st_size for path in paths for file in _files(path))


def _files(path: Path) -> list[Path]:
    """The file itself, or all below a folder, in order."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(1, round(seconds))} s"


def _tell_space(out: Path, originals: int) -> None:
    """A cache takes about as much as its originals unpacked, less where voxels become larger or images are cropped."""
    free = shutil.disk_usage(out).free
    if free < originals:
        say(
            f"WARNING: {out} has {free >> 20} MiB free, the originals take {originals >> 20} MiB: the cache may not "
            "fit. Where the disk gets full, this stops; make room then and call it again, finished cases are kept"
        )


def _run(jobs: Sequence[Job], workers: int) -> list[Problem]:
    problems: list[Problem] = []
    with Progress("prepare", len(jobs), "case") as progress:
        for problem in in_workers(prepare_case, jobs, workers):
            if problem is not None:
                problems.append(problem)
            progress.advance(note=f"{len(problems)} left out" if problems else "")
    return sorted(problems, key=lambda problem: problem.path)


def prepare_case(job: Job) -> Problem | None:
    """Prepare one case, unless it is there already and whole; returns what is wrong with it."""
    folder = job.cache / "cases" / job.row.case
    try:
        digest = _case_hash(job.row, job.root)
        if (folder / "case.json").is_file() and _known_hash(folder) == digest and _is_whole(folder):
            return None
        _write(job, digest)
    except MedsslError as error:
        return _left_out(folder, error.reason, error.message)
    except OSError as error:
        if error.errno in HOPELESS:
            raise
        return _left_out(folder, "unreadable", f"{type(error).__name__}: {error}")
    except Exception as error:  # one odd file must not keep the other cases from being finished
        return _left_out(folder, "internal-error", f"{type(error).__name__}: {error}")
    return None


def changed_cases(listed: Manifest, cache: Path) -> dict[str, str]:
    """Cases of a manifest in which it is no longer what a finished cache was prepared from, and what became of each.

    Of cases that were left out nothing is known, so that they are passed over; so are splits that the manifest leaves
    to `prepare`.

    Raises:
        CacheError: The cache is damaged.
    """
    from medssl.data.cache import Cache

    known, rows = {case.case: case for case in Cache.open(cache).cases}, {row.case: row for row in listed.rows}
    left_out = {Path(problem.path).name for problem in read_problems(cache / "problems.csv")}
    found = {name: "is gone" for name in known if name not in rows}
    for name, row in rows.items():
        if name in known:
            then = replace(row, split=row.split or known[name].split)
            if _case_hash(then, listed.root) != _known_hash(cache / "cases" / name):
                found[name] = "has another row in the manifest, or other files"
        elif name not in left_out:
            found[name] = "is new"
    return found


def _case_hash(row: Row, root: Path) -> str:
    """Hash over all that a case is prepared from, and over the rules by which DICOM labels are read."""
    rules = _LABEL_RULES if row.label and is_dicom_label(root / row.label) else ""
    return source_hash(row, root, f"{row!r}{row.study}{rules}")


def _known_hash(folder: Path) -> str:
    """The same of a prepared case, as it was then."""
    return str(json.loads((folder / "case.json").read_text(encoding="utf-8"))["extra"]["source_sha256"])


def _is_whole(folder: Path) -> bool:
    """Whether all that the case holds can be read."""
    from medssl.data.checksums import check_case

    try:
        check_case(folder)
    except Exception:  # damaged bytes make libraries raise errors of any kind
        return False
    return True


def _left_out(folder: Path, reason: str, message: str) -> Problem:
    shutil.rmtree(folder, ignore_errors=True)
    return Problem(str(folder), reason, "left out", message)


def source_hash(row: Row, root: Path, about: str) -> str:
    """Hash over a text and the bytes of a row's files (names and sizes for folders, whose bytes are many)."""
    digest = hashlib.sha256(about.encode())
    for part in filter(None, (p.strip() for p in f"{row.image};{row.label}".split(";"))):
        path = split_field(root / part)[0]
        if path.is_dir():
            for file in _files(path):
                digest.update(f"{file.relative_to(path)} {file.stat().st_size}".encode())
        elif path.is_file():
            digest.update(known_sha256(path).encode())
    return digest.hexdigest()


def _write(job: Job, digest: str) -> None:
    from medssl.data.cache import LABEL_UIDS, CachedCase, write_case
    from medssl.data.fingerprint import case_fingerprint
    from medssl.imaging.preprocess import prepare_label, prepare_volume
    from medssl.imaging.readers.open import read_channels, read_label

    row = job.row
    volume = read_channels(row.image, job.root, resample_irregular=job.resample_irregular)
    prepared = prepare_volume(volume, job.preprocess)
    remarks = tuple(text for _, text in volume.source.doubts)
    label, segments = None, dict[int, str]()
    reference = job.root / row.label if row.label else None
    if reference:
        native = read_label(reference, volume, job.labels, job.label_map, job.ignore_label)
        label = prepare_label(native, prepared.record)
        remarks += native.source.notes
        segments = native.source.names
    case = CachedCase(
        case=row.case,
        patient=row.patient,
        split=row.split,
        modality=row.modality or volume.modality,
        class_name=row.class_name,
        site=row.site,
        sex=row.sex,
        age=row.age,
        shape=prepared.record.prepared.shape,
        spacing_mm=prepared.record.prepared.spacing_mm,
        has_label=label is not None,
        image_field=";".join(str((job.root / p.strip()).resolve()) for p in row.image.split(";")),
        label_field=str(reference.resolve()) if reference else "",
        label_sha256=sha256(reference) if reference and reference.is_file() else "",
        record=prepared.record,
        notes=(*volume.source.notes, *prepared.notes, *remarks),
        scanner=row.scanner,
        study=row.study,
        calibrated=volume.source.calibrated,
        to_scale=volume.source.to_scale,
        uids={name: uid for name, uid in volume.source.uids.items() if name in LABEL_UIDS},
    )
    channels = job.preprocess.channels_of(volume.channels)
    extra = {"source_sha256": digest, "fingerprint": case_fingerprint(volume, label), "channels": channels}
    extra |= {"remarks": remarks, "segments": segments}
    write_case(job.cache, case, prepared.array, label, extra)


def _finish(
    out: Path,
    settings: dict[str, Any],
    jobs: Sequence[Job],
    failed: set[str],
    listed: Manifest,
    channels: Sequence[str] | None,
) -> list[dict[str, Any]]:
    """Write cache.json over the cases that are there; returns what each case.json holds."""
    from medssl.data.fingerprint import merge, propose

    names = [job.row.case for job in jobs if job.row.case not in failed]
    if not names:
        table = out / "problems.csv"
        raise CacheError(
            f"no case could be prepared ({in_short(read_problems(table))}); {table} lists all", reason="no-cases"
        )
    contents = [json.loads((out / "cases" / n / "case.json").read_text(encoding="utf-8")) for n in names]
    counts = {content["extra"]["channels"] for content in contents}
    if len(counts) > 1 or (channels and counts != {len(channels)}):
        examples = [
            f"{n} in {next(c['case'] for c in contents if c['extra']['channels'] == n)!r}" for n in sorted(counts)
        ]
        raise CacheError(
            f"all cases need one number of channels, found {', '.join(examples)}; names given: {list(channels or ())}. "
            "Mend the manifest's image column or the channels",
            reason="channels",
        )
    fingerprint = merge([content["extra"]["fingerprint"] for content in contents])
    if not settings["labels"]:
        _refuse_renamed(contents)
        found = [int(v) for v in fingerprint["label_voxels"] if int(v) not in (0, settings["ignore_label"])]
        settings = {**settings, "labels": [Label(v, f"class_{v}").to_json() for v in found]}
    dims = int(settings["preprocess"]["spatial_dims"])
    write_json(
        out / "cache.json",
        {
            **settings,
            "channels": list(channels or [f"channel_{c}" for c in range(counts.pop())]),
            "classes": sorted({c["class_name"] for c in contents if c["class_name"]}),
            "cases": names,
            "not_prepared": {job.row.case: job.row.split for job in jobs if job.row.case in failed},
            "manifest_sha256": listed.sha256,
            "data_sha256": hashlib.sha256(
                json.dumps([settings["preprocess"], [c["extra"]["source_sha256"] for c in contents]]).encode()
            ).hexdigest(),
            "fingerprint": fingerprint,
            "proposals": propose(fingerprint, dims),
            "versions": {"medssl": version("medssl")},
            "command": command(),
        },
    )
    return contents


def _refuse_renamed(contents: Sequence[dict[str, Any]]) -> None:
    """Numbers of segments are those of one object: what is 1 for one patient may be 2 for the next.

    Raises:
        CacheError: A number has several names.
    """
    known: dict[str, tuple[str, str]] = {}
    for content in contents:
        named = {number: name for number, name in content["extra"].get("segments", {}).items() if name}
        for number, name in named.items():
            other, case = known.setdefault(number, (name, content["case"]))
            if plain(other) != plain(name):
                raise CacheError(
                    f"segment {number} is called {other!r} in case {case!r} and {name!r} in case {content['case']!r}, "
                    "and classes would go by the number: name the classes with labels, and prepare into another folder",
                    reason="label-names",
                )


def _remarks(contents: Sequence[dict[str, Any]]) -> list[str]:
    """What was done to labels, and what of images may be missing, with the cases that it is about."""
    about: dict[str, list[str]] = defaultdict(list)
    for content in contents:
        for text in content["extra"].get("remarks", ()):
            about[text].append(content["case"])
    lines = [f"  remark: {text}: {some(cases)}" for text, cases in about.items()]
    more = (
        [f"  and {len(lines) - _SHOWN} more remarks; each case's stand in its case.json"] if len(lines) > _SHOWN else []
    )
    return lines[:_SHOWN] + more


def _summary(
    out: Path, jobs: Sequence[Job], problems: Sequence[Problem], contents: Sequence[dict[str, Any]], given: bool
) -> None:
    content = json.loads((out / "cache.json").read_text(encoding="utf-8"))
    kept = set(content["cases"])
    splits = Counter(job.row.split for job in jobs if job.row.case in kept)
    labelled = sum(bool(job.row.label) for job in jobs if job.row.case in kept)
    say(
        f"prepared {len(kept)} cases ({', '.join(f'{n} {s}' for s, n in sorted(splits.items()))}), "
        f"{labelled} with a label map\n" + "\n".join(f"  suggestion: {line}" for line in content["proposals"])
    )
    found = [label["name"] for label in content["labels"]]
    if found:
        how = "" if given else " (no labels were given, so each value found is one)"
        say(f"label classes: {', '.join(found)}{how}")
    if lines := _remarks(contents):
        say("\n".join(lines))
    if content["classes"]:
        say(f"image classes: {', '.join(content['classes'])}")
    if problems:
        shown = "\n".join(f"  - {Path(p.path).name}: {p.message} ({p.reason})" for p in problems[:_SHOWN])
        raise CacheError(
            f"{len(problems)} of {len(jobs)} cases were left out; the cache of the others is complete and usable. "
            f"All reasons: {out / 'problems.csv'}\n{shown}",
            reason="cases-left-out",
        )
