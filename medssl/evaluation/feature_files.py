"""Features of many cases in a folder of Parquet files, each of which says what made it.

FEATURES/features.json             what made them, and how many files there are; written first
FEATURES/part-00000.parquet        some cases: one row an image, with its vector and a small picture
"""

import io
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

from medssl.imaging.errors import MedsslError
from medssl.imaging.files import atomic_path, write_json
from medssl.imaging.writers.sheet import laid_plane, small_picture

SCHEMA_VERSION = 1
COLUMNS = (
    "case", "slice", "patient", "split", "class", "modality", "site", "sex", "age", "scanner", "image",
)  # fmt: skip
"""Texts of a row; `slice` is empty where a row is a whole case."""

_SAME = {"encoder": "encoder", "preprocess": "preprocessing", "channels": "channels", "options": "options of embed"}
"""Must agree where vectors are compared."""
_KINDS = {**dict.fromkeys(("encoder", "preprocess", "options"), dict), "channels": list, "parts": int}
_READ = {"encoder": ("file", "sha256", "method"), "options": ("size", "pooling")}
_KEY = b"medssl"
_QUALITY = 85

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FeatureTable:
    """Features of N images.

    Args:
        about: What made them: encoder, preprocess, channels, options, data.
        columns: Name to N texts.
        vectors: (N, E).
        pictures: Small JPEG of each.
        warnings: What to know of several folders that are one table, a sentence each.
    """

    about: dict[str, Any]
    columns: dict[str, tuple[str, ...]]
    vectors: Array = field(repr=False)
    pictures: tuple[bytes, ...] = field(repr=False)
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.vectors)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each row: its case, or CASE#SLICE."""
        return tuple(f"{c}#{s}" if s else c for c, s in zip(self.columns["case"], self.columns["slice"], strict=True))


def jpeg(image: npt.NDArray[Any], of_volume: bool) -> bytes:
    """Small picture of the first channel of an image (C, *S)."""
    buffer = io.BytesIO()
    picture = small_picture(np.asarray(laid_plane(image[0], of_volume), dtype=np.float32))
    picture.save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.getvalue()


def decoded(picture: bytes) -> Array:
    """Values (H, W) of a small picture."""
    with PIL.Image.open(io.BytesIO(picture)) as opened:
        return np.asarray(opened.convert("L"), dtype=np.float32)


def part(folder: Path, number: int) -> Path:
    """One of the files."""
    return folder / f"part-{number:05d}.parquet"


def claim(folder: Path, about: dict[str, Any]) -> None:
    """Take a folder for features, or go on with one that was begun.

    Raises:
        MedsslError: It holds other features, or something else.
    """
    path = folder / "features.json"
    if path.is_file():
        before, now = _identity(_about(folder)), _identity(about)
        changed = [name for name in now if before.get(name) != now[name]]
        if changed and not any(folder.glob("part-*.parquet")):
            write_json(path, about)  # nothing came of what was begun
        elif changed:
            raise MedsslError(
                f"{folder} was begun otherwise ({', '.join(_SAME.get(name, name) for name in changed)} differ): choose "
                "another folder, or remove it",
                reason="other-features",
            )
    elif folder.exists() and any(folder.iterdir()):
        raise MedsslError(f"{folder} is not empty and holds no features: choose another folder", reason="not-empty")
    else:
        write_json(path, about)


def described(embedder: dict[str, Any], data: dict[str, Any], cases: int, shard: int) -> dict[str, Any]:
    """Content of features.json.

    Args:
        embedder: What makes vectors comparable.
        data: Where they are from: cache, data_sha256, classes, warnings.
        cases: How many.
        shard: Cases a file.
    """
    about: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        **embedder,
        **data,
        "cases": cases,
        "shard": shard,
        "parts": -(-cases // shard),
        "versions": {name: version(name) for name in ("medssl", "torch", "numpy", "pyarrow")},
    }
    plain: dict[str, Any] = json.loads(json.dumps(about))  # as it is read back: tuples become lists
    return plain


def write_part(
    path: Path, columns: dict[str, list[str]], vectors: Array, pictures: Sequence[bytes], about: Any
) -> None:
    """Write a file, whole or not at all."""
    width = vectors.shape[1]
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
    arrays = [pa.array(columns[name], pa.string()) for name in COLUMNS]
    arrays += [pa.FixedSizeListArray.from_arrays(flat, width), pa.array(pictures, pa.binary())]
    table = pa.table(dict(zip([*COLUMNS, "features", "picture"], arrays, strict=True)))
    table = table.replace_schema_metadata({_KEY: json.dumps(about, sort_keys=True).encode()})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_features(folders: Sequence[Path]) -> FeatureTable:
    """Features of one folder, or of several as one table.

    Raises:
        MedsslError: No features, unfinished or damaged ones, some that are no numbers, or folders whose features are
            of another encoder, preprocessing or options and so cannot be compared.
    """
    tables = [_read(Path(folder)) for folder in folders]
    if not tables:
        raise MedsslError("no folder of features is named", reason="no-features")
    for folder, table in zip(folders[1:], tables[1:], strict=True):
        require_same(tables[0].about, table.about, str(folders[0]), str(folder))
    columns = {name: tuple(v for table in tables for v in table.columns[name]) for name in COLUMNS}
    vectors = np.concatenate([table.vectors for table in tables])
    pictures = tuple(picture for table in tables for picture in table.pictures)
    merged = FeatureTable(tables[0].about, columns, vectors, pictures, _shared_patients(tables))
    names = merged.names
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        remedy = (
            "name each once"
            if len({table.about.get("data_sha256") for table in tables}) < len(tables)
            else ("where they are of two data sets, rename it in one manifest, prepare and embed again")
        )
        raise MedsslError(f"case {twice[0]!r} is in two of these folders: {remedy}", reason="case-twice")
    broken = [names[int(n)] for n in np.flatnonzero(~np.isfinite(vectors).all(1))]
    if broken:
        raise MedsslError(
            f"the features of {len(broken)} case(s) are no numbers (NaN), first {broken[0]!r}: embed again",
            reason="nan",
        )
    return merged


def _shared_patients(tables: Sequence[FeatureTable]) -> tuple[str, ...]:
    """The warning that data sets have patients of one name, who are taken for the same person."""
    owners: dict[str, set[str]] = defaultdict(set)
    for table in tables:
        for patient in table.columns["patient"]:
            owners[patient].add(str(table.about.get("data_sha256")))
    shared = sorted(patient for patient, data in owners.items() if len(data) > 1)
    if not shared:
        return ()
    return (
        f"{len(shared)} patient name(s) are in several of these data sets, first {shared[0]!r}, and are taken for one "
        "person each, whose images are never neighbours: if they are other people, name them apart in the manifests",
    )


def require_same(first: dict[str, Any], second: dict[str, Any], name: str, other: str) -> None:
    """Refuse to compare vectors that mean different things.

    Raises:
        MedsslError: Which of encoder, preprocessing, channels and options differ.
    """
    for key, what in _SAME.items():
        ours, theirs = first[key], second[key]
        if key == "encoder":
            ours, theirs = ours["sha256"], theirs["sha256"]
        if ours != theirs:
            where = [k for k in ours if ours[k] != theirs.get(k)] if isinstance(ours, dict) else []
            told = f" ({', '.join(f'{k}: {ours[k]} and {theirs.get(k)}' for k in where)})" if where else ""
            raise MedsslError(
                f"features of {name} and {other} cannot be compared: {what} differ{told}; embed both in one way",
                reason=f"other-{what.split()[0]}",
            )


def _identity(about: dict[str, Any]) -> dict[str, Any]:
    """What must not change between the sessions of a folder: not where files lie, nor versions, nor what was said."""
    kept = {name: value for name, value in about.items() if name not in ("versions", "cache", "warnings")}
    return {**kept, "encoder": about["encoder"]["sha256"]}


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "features.json"
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema = int(about["schema_version"])
    except FileNotFoundError as error:
        raise MedsslError(
            f"{folder} holds no features (features.json is missing): medssl embed ENCODER --data CACHE --out {folder}",
            reason="no-features",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise MedsslError(f"{path} is damaged ({error}): embed again", reason="bad-features") from error
    if schema > SCHEMA_VERSION:
        raise MedsslError(
            f"{folder} has version {schema}, this medssl reads up to {SCHEMA_VERSION}: update medssl",
            reason="newer-version",
        )
    return _complete(about, path, "embed again")


def _complete(about: dict[str, Any], path: Path, remedy: str) -> dict[str, Any]:
    """What made features, where nothing that is read of it is missing."""
    wrong = [name for name, kind in _KINDS.items() if not isinstance(about.get(name), kind)]
    for group, names in _READ.items():
        if group not in wrong:
            wrong += [f"{group}.{name}" for name in names if name not in about[group]]
    if wrong:
        raise MedsslError(
            f"{path} is damaged ({', '.join(wrong)} missing or of another kind): {remedy}", reason="bad-features"
        )
    return about


def _read(folder: Path) -> FeatureTable:
    about = _about(folder)
    paths = [part(folder, number) for number in range(about["parts"])]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise MedsslError(
            f"{folder} is not finished: {len(missing)} of {len(paths)} files are missing, first {missing[0]}; run "
            "medssl embed again with the same options, it goes on",
            reason="unfinished",
        )
    found, again = [], "remove it and run medssl embed again"
    for path in paths:
        try:
            table = pq.read_table(path)
            written = dict(json.loads((table.schema.metadata or {})[_KEY]))
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise MedsslError(f"{path} is damaged ({error}): {again}", reason="bad-features") from error
        _complete(written, path, again)
        require_same(about, written, "features.json", path.name)
        found.append(table)
    whole = pa.concat_tables(found).combine_chunks()
    vectors = whole["features"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    columns = {name: tuple(whole[name].to_pylist()) for name in COLUMNS}
    return FeatureTable(
        about, columns, vectors.reshape(len(whole), -1).astype(np.float32), tuple(whole["picture"].to_pylist())
    )
