"""A map of features: near on it are images with like features; coloured by site, class and more, and with pictures."""

import io
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import PIL.Image
from matplotlib.figure import Figure

from medssl.evaluation.feature_files import FeatureTable
from medssl.evaluation.report.figures import COLOURS, blank, legend_of
from medssl.evaluation.report.page import Picture, Section, Table, figure_picture

COLOURED = ("class", "site", "scanner", "sex", "modality", "split")
"""Columns that colour a map where they hold several values."""

CONVENTIONS = (
    "Near points have like features; distances between far points, sizes of clumps and empty space say little, and "
    "another seed turns and bends the map.",
    "Clumps by site or scanner are a warning: a network may learn the device instead of the disease.",
    "Neighbours are counted in the features themselves, not on the map, and never of the same patient.",
)

_SIDE, _CELLS = 48, 24
_OTHER = "0.75"

Places = npt.NDArray[np.float32]


def map_sections(table: FeatureTable, places: Places, agreements: dict[str, float], thumbnails: bytes) -> list[Section]:
    """Summary, a map for each column, and one of pictures.

    Args:
        table: The features.
        places: (N, 2) of each row.
        agreements: Column to the share of neighbours of other patients with the row's own value; rows without one
            are left out.
        thumbnails: The map of pictures, by `thumbnail_map`.
    """
    encoder = table.about["encoder"]
    rows = len(table)
    text = (
        f"{rows} images of {len(set(table.columns['patient']))} patients, features of {encoder['method'] or 'an'} "
        f"encoder {encoder['sha256'][:12]}, pooling {table.about['options']['pooling']}.",
    )
    lines = tuple(
        (name, str(len(set(values) - {""})), _percent(share), _percent(_chance(values, table.columns["patient"])))
        for name, share in agreements.items()
        for values in [table.columns[name]]
    )
    header = ("column", "values", "neighbours alike", "by chance")
    caption = (
        "How often a neighbour has the same value as the image itself, and how often a random image of another patient "
        "has. Images without a value are left out."
    )
    tables = (Table(header, lines, caption),) if lines else ()
    coloured = tuple(
        figure_picture(coloured_figure(places, table.columns[name], name), f"Each image a point, coloured by {name}.")
        for name in agreements
    )
    pictures = Picture(thumbnails, "The same map: of each place one image, first channel.")
    return [
        Section("Summary", text, tables=tables, notes=CONVENTIONS),
        Section("Map", pictures=(*coloured, pictures)),
    ]


def coloured_figure(places: Places, values: Sequence[str], name: str) -> Figure:
    """Points by the value of a column; the rarest of many are grey."""
    figure, axes = blank(4.4)
    known = [value for value, _ in Counter(v for v in values if v).most_common(len(COLOURS))]
    own = np.array(values)
    rest = ~np.isin(own, known)
    size = float(np.clip(4000 / max(len(values), 1), 2, 30))
    drawn = {}
    if rest.any():
        drawn["others, or not told"] = axes.scatter(
            places[rest, 0], places[rest, 1], s=size, color=_OTHER, linewidths=0
        )
    for value, colour in zip(sorted(known), COLOURS, strict=False):
        drawn[value] = axes.scatter(
            places[own == value, 0], places[own == value, 1], s=size, color=colour, alpha=0.75, linewidths=0
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    legend_of(figure, list(drawn.values()), list(drawn), title=name, markerscale=2)
    return figure


def thumbnail_map(places: Places, pictures: Sequence[bytes]) -> bytes:
    """PNG: a grid over the map, in each cell the picture of the image nearest to its middle."""
    low, high = places.min(0), places.max(0)
    scaled = (places - low) / np.maximum(high - low, 1e-9) * (_CELLS - 1e-3)
    scaled[:, 1] = _CELLS - 1e-3 - scaled[:, 1]  # rows of a picture go down
    cells = np.clip(scaled.astype(int), 0, _CELLS - 1)
    far = np.linalg.norm(scaled - cells - 0.5, axis=1)
    chosen: dict[tuple[int, int], int] = {}
    for row in np.argsort(-far, kind="stable"):  # the nearest comes last and stays
        chosen[int(cells[row, 0]), int(cells[row, 1])] = int(row)
    sheet = PIL.Image.new("L", (_CELLS * _SIDE, _CELLS * _SIDE), 255)
    for (column, line), row in sorted(chosen.items()):
        with PIL.Image.open(io.BytesIO(pictures[row])) as opened:
            picture = opened.convert("L")
        picture.thumbnail((_SIDE - 2, _SIDE - 2))
        sheet.paste(picture, (column * _SIDE + 1, line * _SIDE + 1))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.0%}"


def _chance(values: Sequence[str], patients: Sequence[str]) -> float:
    """How often a random image of another patient has the same value, of images that have one; NaN without any."""
    known = [(value, patient) for value, patient in zip(values, patients, strict=True) if value]
    alike, own, both = Counter(v for v, _ in known), Counter(p for _, p in known), Counter(known)
    others = {patient: len(known) - count for patient, count in own.items()}
    shares = [(alike[v] - both[v, p]) / others[p] for v, p in known if others[p]]
    return float(np.mean(shares)) if shares else math.nan
