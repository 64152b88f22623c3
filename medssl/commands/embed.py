"""Features of all cases of a cache by an encoder as it is, in Parquet files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.commands.console import say
from medssl.commands.evaluate_frozen import encoder_file, encoder_names, encoder_warnings
from medssl.evaluation.options import Device, EmbedOptions
from medssl.imaging.errors import CacheError, ConfigError
from medssl.imaging.naming import some
from medssl.imaging.progress import Progress

if TYPE_CHECKING:
    from medssl.data.cache import Cache, CachedCase
    from medssl.evaluation.embedding import Embedder

POSITIONAL = ("run",)
_OPTIONS = EmbedOptions()


def embed(
    run: Path,
    data: Path,
    out: Path,
    embed: EmbedOptions = _OPTIONS,
    batch_size: int = 16,
    shard: int = 512,
    device: Device = "auto",
) -> None:
    """Write the features of every case of a prepared cache, for `search`, `anomalies`, `feature-map` or programs.

    Run it again to resume: finished files are kept. OUT gets features.json (what made them) and part-NNNNN.parquet, a
    row an image: what the manifest says of it, a small picture, and its features. These are data of patients: keep them
    as you keep the images. Not a medical device: for research only.

    Args:
        run: Encoder file, or folder of a pretraining run.
        data: Prepared cache.
        out: Folder of the features.
        embed: What is made of an image.
        batch_size: Cases at once.
        shard: Cases a file; what is lost when a run is killed.
        device: Where the encoder computes; `auto` takes a GPU where there is one.

    Raises:
        CheckpointError: The encoder cannot be used.
        ConfigError: It does not fit the cache, or the device is not there.
        CacheError: The cache cannot be read.
        MedsslError: OUT holds other features, or features of a case are no numbers.
    """
    from medssl.data.cache import Cache
    from medssl.evaluation.device import chosen_device, missing_device
    from medssl.evaluation.embedding import Embedder
    from medssl.evaluation.feature_files import claim, described, part
    from medssl.models.weights import read_encoder

    cache = Cache.open(data)
    file = encoder_file(run, cache.spatial_dims)
    problems = [f"{n} must be 1 or more, got {v}" for n, v in (("batch_size", batch_size), ("shard", shard)) if v < 1]
    problems += missing_device(device, "device")
    if file is None:
        problems.append(f"{run} is no encoder: name an encoder.safetensors, or the folder of a pretraining run")
    if problems or file is None:
        raise ConfigError(problems)
    if not cache.cases:
        raise CacheError(f"{data} has no cases", reason="no-cases")
    where = chosen_device(device, "device")
    embedder = Embedder(file, cache.preprocess, cache.channels, embed, where)
    _refuse_idle(embed, embedder)
    warnings = encoder_warnings(encoder_names([file]), [read_encoder(file)[1]], cache, embed.slice_axis)
    warnings += _not_prepared(cache)
    source = {
        "cache": str(cache.path.resolve()), "data_sha256": cache.data_sha256, "classes": list(cache.classes),
        "resample_irregular": cache.resample_irregular, "warnings": warnings,
    }  # fmt: skip
    about = described(embedder.about, source, len(cache.cases), shard)
    claim(out, about)
    for warning in warnings:
        say(f"embed: {warning}")
    waiting = [number for number in range(about["parts"]) if not part(out, number).is_file()]
    done = about["parts"] - len(waiting)
    say(f"embed: {len(cache.cases)} cases of {data} by {file} on {where}; {done} of {about['parts']} files are there")
    with Progress("embed", len(cache.cases), start=min(done * shard, len(cache.cases))) as progress:
        for number in waiting:
            cases = cache.cases[number * shard : (number + 1) * shard]
            _write(part(out, number), embedder, cache, cases, batch_size, about, progress)
    say(f"embed: features of {len(cache.cases)} cases in {out}; next: medssl anomalies {out} --out FOLDER")


def _refuse_idle(options: EmbedOptions, embedder: "Embedder") -> None:
    """Refuse options for slices where none are seen: features that are the same could not be compared for them.

    Raises:
        ConfigError: All of them.
    """
    usual, names = EmbedOptions(), ("volumes", "slices", "slice_axis")
    idle = [name for name in names if getattr(options, name) != getattr(usual, name)]
    if idle and not embedder.of_slices:
        so = "is for a 2D encoder on volumes, and this one sees whole images: leave it out"
        raise ConfigError([f"embed.{name} {so}" for name in idle])


def _not_prepared(cache: "Cache") -> list[str]:
    """The warning that some cases have no features."""
    lost = [case for split in ("train", "val", "test", "") for case in cache.not_prepared(split)]
    if not lost:
        return []
    return [
        f"{len(lost)} case(s) could not be prepared and have no features ({some(lost)}): such scans are often the "
        f"harder ones. Why stands in {cache.path / 'problems.csv'}."
    ]


def _write(
    path: Path,
    embedder: "Embedder",
    cache: "Cache",
    cases: Sequence["CachedCase"],
    batch_size: int,
    about: dict[str, Any],
    progress: Progress,
) -> None:
    import numpy as np

    from medssl.evaluation.feature_files import COLUMNS, jpeg, write_part

    vectors, pictures = [], []
    columns: dict[str, list[str]] = {name: [] for name in COLUMNS}
    for first in range(0, len(cases), batch_size):
        batch = cases[first : first + batch_size]
        shown = [embedder.of_case(cache, case) for case in batch]
        vectors.append(embedder.features(shown, [case.case for case in batch]))
        for case, images in zip(batch, shown, strict=True):
            listed = list(images.values())
            for place, number in enumerate(embedder.rows(images)):
                image = listed[len(listed) // 2 if number is None else place]
                pictures.append(jpeg(image, embedder.turned(case.image_field)))
                for name, text in _texts(case, number).items():
                    columns[name].append(text)
        progress.advance(len(batch))
    write_part(path, columns, np.concatenate(vectors), pictures, about)


def _texts(case: "CachedCase", number: int | None) -> dict[str, str]:
    return {
        "case": case.case,
        "slice": "" if number is None else str(number),
        "class": case.class_name,
        "image": case.image_field,
        **{name: getattr(case, name) for name in ("patient", "split", "modality", "site", "sex", "age", "scanner")},
    }
