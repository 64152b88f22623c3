"""Find the cases that are most like a case or an image, by their features."""

import difflib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medssl.commands.console import say
from medssl.commands.evaluate_frozen import encoder_file
from medssl.evaluation.options import Device, EmbedOptions
from medssl.imaging.errors import ConfigError, ImageError, MedsslError
from medssl.imaging.files import atomic_folder, csv_text, write_text
from medssl.imaging.naming import split_field, split_slice

if TYPE_CHECKING:
    from medssl.evaluation.embedding import Array, Embedder
    from medssl.evaluation.feature_files import FeatureTable
    from medssl.evaluation.retrieval import Neighbour

POSITIONAL = ("features",)
_HEADER = ("query", "rank", "case", "patient", "split", "class", "site", "cosine", "image")


@dataclass(frozen=True)
class Query:
    """What is asked about.

    Args:
        name: Its name.
        vector: (E,).
        picture: Small JPEG.
        row: Its row, -1 for an image that is in no table.
        patient: Its patient, empty for an image.
    """

    name: str
    vector: "Array" = field(repr=False, compare=False)
    picture: bytes = field(repr=False)
    row: int = -1
    patient: str = ""


def search(
    features: list[Path],
    query: list[str],
    top: int = 5,
    patients: Literal["others", "all"] = "others",
    encoder: Path | None = None,
    out: Path | None = None,
    device: Device = "auto",
) -> None:
    """Print the nearest cases of each query: exact, by the cosine of their features.

    A query is a case of FEATURES (CASE, or CASE#SLICE where slices have rows of their own) or an image file: the file
    of a case is that case, any other is prepared and embedded as FEATURES were, and its patient is not known. Likeness
    of features is no likeness of findings. Not a medical device: for research only.

    Args:
        features: Folders written by `medssl embed`; several are searched as one and must be of one encoder,
            preprocessing and options.
        query: Cases, or image files.
        top: How many.
        patients: `others`: those of the query's own patient are left out, where it is a case. `all`: only the query
            itself is.
        encoder: Where the encoder file is now, for images; as FEATURES say when left out.
        out: Folder for neighbours.csv and neighbours.png; nothing is written without it.
        device: Where the encoder computes, for images; `auto` takes a GPU where there is one.

    Raises:
        ConfigError: A query that is neither a case nor a file, or a device that is not there.
        ImageError: An image that cannot be read.
        MedsslError: Features that cannot be used or compared.
    """
    import numpy as np

    from medssl.evaluation.feature_files import read_features
    from medssl.evaluation.retrieval import Neighbours

    if top < 1:
        raise ConfigError([f"top must be 1 or more, got {top}"])
    if out is not None and out.exists():
        raise ConfigError([f"out: {out} exists already: choose another folder; nothing is overwritten"])
    table = read_features(features)
    for warning in table.warnings:
        say(f"WARNING: {warning}")
    if len(table) < 2:
        raise MedsslError(
            "the features are of one image: likeness is taken from their mean, which needs 2 or more; give features of "
            "more images",
            reason="too-few",
        )
    asked = _queries(table, query, encoder, device)
    own = [q.patient for q in asked] if patients == "others" else []
    found = Neighbours(table).of(np.stack([q.vector for q in asked]), top, own, [q.row for q in asked])
    columns = table.columns
    rows = [
        [
            q.name, rank, table.names[n.row], *(columns[name][n.row] for name in ("patient", "split", "class", "site")),
            f"{n.likeness:.4f}", columns["image"][n.row],
        ]
        for q, nears in zip(asked, found, strict=True)
        for rank, n in enumerate(nears, 1)
    ]  # fmt: skip
    say(_table(rows))
    _say_lacking(asked, found, patients)
    if out is not None:
        with atomic_folder(out) as temporary:
            write_text(temporary / "neighbours.csv", csv_text(_HEADER, rows))
            _sheet(table, asked, found, temporary / "neighbours.png")
        say(f"search: {out / 'neighbours.csv'}, {out / 'neighbours.png'}")


def _say_lacking(asked: Sequence[Query], found: "Sequence[Sequence[Neighbour]]", patients: str) -> None:
    """What the table does not show: queries without an answer, and whose patient could not be left out."""
    if bare := [query.name for query in asked if query.row < 0]:
        say(
            f"search: the patient of {', '.join(bare)} is not known, so that images of the same patient may be among "
            "those found"
        )
    for query, nears in zip(asked, found, strict=True):
        if not nears:
            more = ": --patients all finds those of its own" if patients == "others" else ""
            say(f"search: there is no image of another patient than that of {query.name}{more}")


def _queries(table: "FeatureTable", names: Sequence[str], encoder: Path | None, device: Device) -> list[Query]:
    """Rows that are meant, and images, which are embedded.

    Raises:
        ConfigError: All names that are neither.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for row, (case, name) in enumerate(zip(table.columns["case"], table.names, strict=True)):
        for known in {case, name}:
            rows[known].append(row)
    for name, found_rows in _rows_of_files(table, [n for n in names if n not in rows]).items():
        rows[name] = found_rows
    unknown = [n for n in names if n not in rows and not split_field(n.split(";")[0])[0].exists()]
    if unknown or not names:
        near = {n: difflib.get_close_matches(n, rows, n=1) for n in unknown}
        told = [
            f"query {n!r} is no case of these features and no file" + (f"; did you mean {c[0]!r}?" if c else "")
            for n, c in near.items()
        ]
        raise ConfigError(told or ["query: name a case of FEATURES, or an image file"])
    embedder = _embedder(table, encoder, device) if any(n not in rows for n in names) else None
    found: list[Query] = []
    for name in names:
        if name in rows:
            patients = table.columns["patient"]
            found += [Query(table.names[r], table.vectors[r], table.pictures[r], r, patients[r]) for r in rows[name]]
        elif embedder is not None:
            found += _of_image(name, embedder, bool(table.about.get("resample_irregular", False)))
    return found


def _rows_of_files(table: "FeatureTable", names: Sequence[str]) -> dict[str, list[int]]:
    """Rows of the case whose image a file is: else it would find itself, and its own patient."""
    wanted = {name: place for name in names if (place := _place(name))}
    files = {Path(path).name for place in wanted.values() for path, _, _ in place[:1]}
    rows: dict[tuple[tuple[str, str, str], ...], list[int]] = defaultdict(list)
    for row, image in enumerate(table.columns["image"]):
        if any(file in image for file in files):  # to look at every file of a large table takes long
            place = _place(image)
            for known in {place, tuple((path, "", number) for path, _, number in place)}:  # a folder without its series
                rows[known].append(row)
    found = {name: rows[place] for name, place in wanted.items() if place in rows}
    return {name: own for name, own in found.items() if len({table.columns["case"][row] for row in own}) == 1}


def _place(field: str) -> tuple[tuple[str, str, str], ...]:
    """Path without links, series and slice of each channel of an image; empty where there is no such file."""
    parts = [part.strip() for part in field.split(";") if part.strip()]
    split = [(*split_field(part), split_slice(part)[1]) for part in parts]
    if not all(path.exists() for path, _, _ in split):
        return ()
    return tuple((str(path.resolve()), series, number) for path, series, number in split)


def _embedder(table: "FeatureTable", encoder: Path | None, device: Device) -> "Embedder":
    """What made the features.

    Raises:
        ConfigError: No encoder file, or no such device.
        MedsslError: The encoder is not the one that made them.
    """
    from medssl.evaluation.device import chosen_device
    from medssl.evaluation.embedding import Embedder
    from medssl.evaluation.feature_files import require_same
    from medssl.imaging.preprocess import Preprocess

    about = table.about
    preprocess = Preprocess.from_json(about["preprocess"])
    file = Path(about["encoder"]["file"]) if encoder is None else encoder_file(encoder, preprocess.spatial_dims)
    if file is None or not file.is_file():
        named = encoder if file is None else file
        raise ConfigError([f"encoder {named} is none: images are embedded by it; give its place with --encoder"])
    options, where = EmbedOptions.from_json(about["options"]), chosen_device(device, "device")
    found = Embedder(file, preprocess, about["channels"], options, where)
    require_same(about, json.loads(json.dumps(found.about)), "FEATURES", str(file))
    return found


def _of_image(name: str, embedder: "Embedder", irregular: bool) -> list[Query]:
    from medssl.evaluation.feature_files import jpeg
    from medssl.imaging.readers.open import read_channels

    try:
        shown = embedder.shown(read_channels(name, Path(), resample_irregular=irregular))
    except ImageError as error:
        said = error.message if name in error.message else f"{name}: {error.message}"
        raise ImageError(said, reason=error.reason) from error
    vectors, images = embedder.features([shown], [name]), list(shown.values())
    return [
        Query(
            name if number is None else f"{name}#{number}",
            vector,
            jpeg(images[len(images) // 2 if number is None else place], embedder.turned(name)),
        )
        for place, (number, vector) in enumerate(zip(embedder.rows(shown), vectors, strict=True))
    ]


def _table(rows: Sequence[Sequence[object]]) -> str:
    """The table as text, without the last column."""
    shown = [[str(cell) for cell in row[:-1]] for row in (_HEADER, *rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in shown)


def _sheet(table: "FeatureTable", asked: Sequence[Query], found: "Sequence[Sequence[Neighbour]]", path: Path) -> None:
    from medssl.evaluation.feature_files import decoded
    from medssl.imaging.writers.sheet import write_sheet

    pictures = []
    for query, nears in zip(asked, found, strict=True):
        pictures.append((decoded(query.picture), f"QUERY\n{query.name[-16:]}"))
        for near in nears:
            text = f"{table.names[near.row][-16:]}\n{near.likeness:.3f} {table.columns['class'][near.row]}"
            pictures.append((decoded(table.pictures[near.row]), text))
    write_sheet(pictures, path, f"{len(asked)} queries, each before its nearest cases; cosine of features below")
