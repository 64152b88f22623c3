"""Find the cases that are most like a case or an image, by their features."""

import difflib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medssl.commands.console import say
from medssl.evaluation.options import EmbedOptions
from medssl.imaging.errors import ConfigError, ImageError
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
) -> None:
    """Print the nearest cases of each query: exact, by the cosine of their features.

    A query is a case of FEATURES (CASE, or CASE#SLICE where slices have rows of their own) or an image file, which is
    prepared and embedded as FEATURES were. Likeness of features is no likeness of findings. Not a medical device: for
    research only.

    Args:
        features: Folders written by `medssl embed`; several are searched as one and must be of one encoder,
            preprocessing and options.
        query: Cases, or image files.
        top: How many.
        patients: `others`: those of the query's own patient are left out. `all`: only the query itself is.
        encoder: Where the encoder file is now, for images; as FEATURES say when left out.
        out: Folder for neighbours.csv and neighbours.png; nothing is written without it.

    Raises:
        ConfigError: A query that is neither a case nor a file.
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
    asked = _queries(table, query, encoder)
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
    if out is not None:
        with atomic_folder(out) as temporary:
            write_text(temporary / "neighbours.csv", csv_text(_HEADER, rows))
            _sheet(table, asked, found, temporary / "neighbours.png")
        say(f"search: {out / 'neighbours.csv'}, {out / 'neighbours.png'}")


def _queries(table: "FeatureTable", names: Sequence[str], encoder: Path | None) -> list[Query]:
    """Rows that are meant, and images, which are embedded.

    Raises:
        ConfigError: All names that are neither.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for row, (case, name) in enumerate(zip(table.columns["case"], table.names, strict=True)):
        for known in {case, name}:
            rows[known].append(row)
    unknown = [n for n in names if n not in rows and not split_field(n.split(";")[0])[0].exists()]
    if unknown or not names:
        near = {n: difflib.get_close_matches(n, rows, n=1) for n in unknown}
        told = [
            f"query {n!r} is no case of these features and no file" + (f"; did you mean {c[0]!r}?" if c else "")
            for n, c in near.items()
        ]
        raise ConfigError(told or ["query: name a case of FEATURES, or an image file"])
    embedder = _embedder(table, encoder) if any(n not in rows for n in names) else None
    found: list[Query] = []
    for name in names:
        if name in rows:
            patients = table.columns["patient"]
            found += [Query(table.names[r], table.vectors[r], table.pictures[r], r, patients[r]) for r in rows[name]]
        elif embedder is not None:
            found += _of_image(name, embedder)
    return found


def _embedder(table: "FeatureTable", encoder: Path | None) -> "Embedder":
    """What made the features.

    Raises:
        MedsslError: The encoder is not the one that made them.
    """
    from medssl.evaluation.embedding import Embedder
    from medssl.evaluation.feature_files import require_same
    from medssl.imaging.preprocess import Preprocess

    about = table.about
    file = Path(about["encoder"]["file"]) if encoder is None else encoder
    if not file.is_file():
        raise ConfigError([f"encoder {file} does not exist: images are embedded by it; give its place with --encoder"])
    options = EmbedOptions.from_json(about["options"])
    found = Embedder(file, Preprocess.from_json(about["preprocess"]), about["channels"], options)
    require_same(about, json.loads(json.dumps(found.about)), "FEATURES", str(file))
    return found


def _of_image(name: str, embedder: "Embedder") -> list[Query]:
    from medssl.evaluation.feature_files import jpeg
    from medssl.imaging.readers.open import read_channels

    try:
        shown = embedder.shown(read_channels(name, Path()))
    except ImageError as error:
        said = error.message if name in error.message else f"{name}: {error.message}"
        raise ImageError(said, reason=error.reason) from error
    vectors, images = embedder.features([shown], [name]), list(shown.values())
    of_volume = embedder.of_slices or bool(split_slice(name)[1])
    return [
        Query(
            name if number is None else f"{name}#{number}",
            vector,
            jpeg(images[len(images) // 2 if number is None else place], of_volume),
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
