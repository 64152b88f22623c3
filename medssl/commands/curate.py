"""Choose images before pretraining: without near-duplicates, without useless ones, or like a target set."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.commands.console import say
from medssl.commands.curate_images import UNREADABLE, Image, embed, held, look, picture_of, taken_apart
from medssl.commands.curate_likeness import Left, nothing_compared, refuse_too_many, unlike
from medssl.commands.curate_target import Target, read_target
from medssl.data.curate_options import CoresetOptions, LikenessOptions, QualityOptions
from medssl.evaluation.options import Device
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.imaging.files import atomic_folder, csv_text, write_json, write_text
from medssl.imaging.manifest import Manifest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

POSITIONAL: tuple[str, ...] = ("manifest",)

_SHOWN = 100  # images on the sheet
_LIKENESS, _QUALITY, _CORESET = LikenessOptions(), QualityOptions(), CoresetOptions()


def curate(
    manifest: Path,
    out: Path,
    slices: int | None = None,
    likeness: LikenessOptions = _LIKENESS,
    quality: QualityOptions = _QUALITY,
    coreset: CoresetOptions = _CORESET,
    encoder: Path | None = None,
    target: Path | None = None,
    workers: int = 2,
    device: Device = "auto",
    resample_irregular: bool = False,
) -> None:
    """Write a smaller manifest of the images worth pretraining on, with the reason for every image that is left out.

    Pictures are compared as they are stored, without a window, in all their channels; of a volume, unless it is taken
    apart, the middle slice is. Images with a label or a class and those of splits val and test are always kept; slices
    have no label map, so those of a volume that has one are looked at as any other. OUT gets manifest.csv (for `medssl
    prepare`), left_out.csv, left_out.png (up to a hundred pictures, evenly picked) and curation.json.

    Args:
        manifest: Manifest made by `medssl index`.
        out: Folder of the results; must not exist.
        slices: Take volumes, also those of the target, apart into the slices across this axis of the file (0, 1, 2),
            each a 2D image.
        likeness: Which images are too much like another one.
        quality: Which are left out whatever they are like.
        coreset: What is taken of them because it is like the target set.
        encoder: Encoder file whose features are compared, for rule `embedding` and for the coreset.
        target: Manifest of the target set; its images of splits val and test are not looked at. Labelled ones need
            splits in it, which `medssl prepare` would draw too late.
        workers: Processes that read images.
        device: Where the encoder computes; `auto` takes a GPU where there is one.
        resample_irregular: Resample DICOM series with uneven slices instead of leaving them out as unreadable; give it
            to `medssl prepare` as well.

    Raises:
        ConfigError: Options that contradict one another, or a target set that cannot be used.
        ManifestError: A manifest that cannot be used.
        MedsslError: Nothing would be left.
    """
    _check(out, slices, likeness, coreset, encoder, target)
    where = _where(encoder, device)
    listed = Manifest.read(manifest)
    goal = (
        Target()
        if target is None
        else read_target(target, slices, quality, encoder, workers, where, resample_irregular)
    )
    images, broken = taken_apart(listed, slices, irregular=resample_irregular)
    count = len(images) + len(broken)
    unlabelled = 0 if slices is None else sum(bool(row.label) for row in listed.rows)
    always = [image for image in images if held(image)]
    asked = [image for image in images if not held(image)]
    refuse_too_many(asked, likeness)
    useful, useless = look(asked, quality, likeness.rule, workers)
    left = [Left(image, reason) for image, reason in (*broken, *useless)]
    warnings = [*goal.warnings, *nothing_compared(useful, likeness)]
    kept, alike = unlike(useful, likeness, encoder, where)
    left += alike
    curve: list[float] = []
    if goal.vectors is not None:
        kept, others, curve = _coreset(kept, goal.vectors, coreset, encoder, where)
        left += others
    chosen = sorted([*always, *kept], key=lambda image: image.number)
    if not chosen:
        raise MedsslError(f"nothing of {count} images would be left: see the options", reason="nothing-left")
    counts = Counter(entry.reason for entry in left)
    with atomic_folder(out) as temporary:
        rows = [replace(image.row, **{name: _absolute(image, name) for name in ("image", "label")}) for image in chosen]
        Manifest.from_rows(rows, root=out.resolve()).write(temporary / "manifest.csv")
        write_text(temporary / "left_out.csv", _csv(left))
        _sheet(left, temporary / "left_out.png")
        about = {
            "images": count,
            "kept": len(chosen),
            "kept_always": len(always),
            "left_out": dict(counts),
            "target_left_out": goal.unused,
            "target_useless": goal.useless,
            "similarity_curve": curve,
            "warnings": warnings,
            "label_maps_left_out": unlabelled,
            "options": {
                "slices": slices, "likeness": asdict(likeness), "quality": asdict(quality), "coreset": asdict(coreset),
            },
            "manifest_sha256": listed.sha256,
        }  # fmt: skip
        write_json(temporary / "curation.json", about)
    why = ", ".join(f"{n} {reason}" for reason, n in counts.most_common()) or "none"
    say(f"curate: {len(chosen)} of {count} images kept ({len(always)} of them always); left out: {why}")
    if unlabelled:
        say(f"curate: slices have no label map: those of {unlabelled} volume(s) are not in the new manifest")
    flat = "" if slices is None else " --preprocess.spatial_dims 2"
    say(f"curate: look at {out / 'left_out.png'}, then medssl prepare {out / 'manifest.csv'} --out CACHE{flat}")


def _check(
    out: Path,
    slices: int | None,
    likeness: LikenessOptions,
    coreset: CoresetOptions,
    encoder: Path | None,
    target: Path | None,
) -> None:
    problems = [f"out: {out} exists already: choose another folder; nothing is overwritten"] if out.exists() else []
    if slices is not None and slices not in (0, 1, 2):
        problems.append(f"slices must be 0, 1 or 2, the axis of the file that counts them, got {slices}")
    problems += [f"{p} does not exist" for p in (encoder, target) if p is not None and not p.is_file()]
    if encoder is None and (likeness.rule == "embedding" or coreset.budget):
        problems.append("likeness.rule embedding and coreset.budget need --encoder, an encoder.safetensors")
    if bool(coreset.budget) != (target is not None):
        problems.append("coreset.budget and --target belong together: how many images, and like which")
    problems += _idle(likeness, coreset, encoder, target)
    if problems:
        raise ConfigError(problems)


def _idle(likeness: LikenessOptions, coreset: CoresetOptions, encoder: Path | None, target: Path | None) -> list[str]:
    """Options that would do nothing, a sentence each; those that are as they are by default are taken for not given."""
    rule, wanted = likeness.rule, bool(coreset.budget or target)
    threshold = likeness.threshold is not None and rule in ("none", "every_n")
    wrong = {
        f"likeness.every is for likeness.rule every_n, and it is {rule}": likeness.every != _LIKENESS.every
        and rule != "every_n",
        f"likeness.threshold does nothing with likeness.rule {rule}": threshold,
        "likeness.scope does nothing with likeness.rule none": likeness.scope != _LIKENESS.scope and rule == "none",
        "coreset.stop and coreset.seed do nothing without coreset.budget": not wanted and coreset != _CORESET,
        "encoder is for likeness.rule embedding and for coreset.budget": encoder is not None
        and rule != "embedding"
        and not wanted,
    }
    return [f"{words}: leave it out" for words, given in wrong.items() if given]


def _coreset(
    images: Sequence[Image], goal: "npt.NDArray[np.float32]", options: CoresetOptions, encoder: Path | None, device: str
) -> tuple[list[Image], list[Left], list[float]]:
    """Images that are taken, those that are not, and the mean cosine of each round."""
    from medssl.data.curate import coreset

    vectors, images, odd = embed(images, encoder, device)
    left = [Left(image, reason) for image, reason in odd]
    if not images:
        say("curate: no image is left to take a coreset of")
        return [], left, []
    taken, utilities = coreset(goal, vectors, options.budget, options.stop, options.seed)
    ends = f"{utilities[0]:.3f} to {utilities[-1]:.3f}"
    say(f"curate: coreset of {len(taken)} images in {len(utilities)} rounds, cosine {ends}")
    inside = set(taken)
    left += [Left(image, "less like the target") for n, image in enumerate(images) if n not in inside]
    return [images[n] for n in taken], left, utilities


def _where(encoder: Path | None, device: Device) -> str:
    """Where an encoder computes."""
    if encoder is None:
        return "cpu"
    from medssl.evaluation.device import chosen_device

    return chosen_device(device, "device")


def _absolute(image: Image, column: str) -> str:
    """Files of a column of the manifest, by paths that hold wherever it lies."""
    parts = [part.strip() for part in getattr(image.row, column).split(";") if part.strip()]
    return ";".join(str((image.root / part).resolve()) for part in parts)


def _csv(left: Sequence[Left]) -> str:
    rows = [
        [
            entry.image.row.case, entry.image.row.patient, entry.image.row.image, entry.reason,
            "" if entry.like is None else entry.like.row.case,
            "" if entry.value is None else f"{entry.value:.4g}",
        ]
        for entry in sorted(left, key=lambda e: e.image.number)
    ]  # fmt: skip
    return csv_text(["case", "patient", "image", "reason", "like", "value"], rows)


def _sheet(left: Sequence[Left], path: Path) -> None:
    """Evenly picked images that were left out; each beside the one that it is like, where there is one."""
    from medssl.imaging.writers.sheet import write_sheet

    pictures, known = [], [entry for entry in left if not entry.reason.startswith(UNREADABLE)]
    for entry in known[:: max(1, -(-2 * len(known) // _SHOWN))]:
        image = picture_of(entry.image)
        if image is None:
            continue
        why = entry.reason if entry.value is None else f"left out: {entry.value:.3g}"
        pictures.append((image, f"{entry.image.row.case[-16:]}\n{why}"))
        if entry.like is not None and (other := picture_of(entry.like)) is not None:
            pictures.append((other, f"{entry.like.row.case[-16:]}\nkept"))
    write_sheet(pictures, path, f"{len(left)} images left out; {len(pictures)} pictures shown")
