"""Draw a map of features: which images are alike, by class, site and scanner, with pictures."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.commands.console import say
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.imaging.files import atomic_folder, csv_text, write_text

if TYPE_CHECKING:
    from medssl.evaluation.feature_files import FeatureTable
    from medssl.evaluation.report.embedding_map import Places

POSITIONAL = ("features",)
_FEWEST = 10  # images; of fewer there is nothing to draw


def feature_map(features: list[Path], out: Path, neighbours: int = 15, min_dist: float = 0.1, seed: int = 0) -> None:
    """Write OUT/report.html, one self-contained page with the map, OUT/map.csv with the place of each image, and
    OUT/map.png, the map of pictures, for `evaluate --feature_map`.

    The map is UMAP's (McInnes, Healy and Melville 2018) with the cosine of the features; the same features, options and
    versions give the same map. Not a medical device: for research only.

    Args:
        features: Folders written by `medssl embed`, of one encoder, preprocessing and options.
        out: Folder of the results; must not exist.
        neighbours: Images that each one is drawn near to: few show detail, many show the whole.
        min_dist: Least distance of points; smaller packs clumps more tightly.
        seed: Seed of the map.

    Raises:
        ConfigError: Options outside their range.
        MedsslError: Features that cannot be used or compared, or too few.
    """
    from medssl.evaluation.feature_files import read_features
    from medssl.evaluation.report.embedding_map import map_sections, thumbnail_map
    from medssl.evaluation.report.page import write_report

    problems = [f"out: {out} exists already: choose another folder; nothing is overwritten"] if out.exists() else []
    if neighbours < 2:
        problems.append(f"neighbours must be 2 or more, got {neighbours}")
    if not 0 <= min_dist <= 1:
        problems.append(f"min_dist must lie in [0, 1], got {min_dist}")
    if problems:
        raise ConfigError(problems)
    table = read_features(features)
    if len(table) < _FEWEST:
        raise MedsslError(f"{len(table)} images are too few for a map: it needs {_FEWEST}", reason="too-few")
    for warning in table.warnings:
        say(f"WARNING: {warning}")
    say(f"feature-map: {len(table)} images; the first half minute goes into compiling UMAP")
    places = umap_places(table, neighbours, min_dist, seed)
    thumbnails = thumbnail_map(places, table.pictures)
    sections = map_sections(table, places, _agreements(table), thumbnails)
    rows = [
        [name, table.columns["patient"][n], table.columns["class"][n], f"{x:.4f}", f"{y:.4f}"]
        for n, (name, (x, y)) in enumerate(zip(table.names, places, strict=True))
    ]
    subtitle = f"{', '.join(str(folder) for folder in features)}; UMAP, {neighbours} neighbours, seed {seed}"
    with atomic_folder(out) as temporary:
        write_text(temporary / "map.csv", csv_text(["case", "patient", "class", "x", "y"], rows))
        (temporary / "map.png").write_bytes(thumbnails)
        write_report(temporary, sections, "Map of features", subtitle)
    say(f"report: {out / 'report.html'}")


def umap_places(table: "FeatureTable", neighbours: int, min_dist: float, seed: int) -> "Places":
    """(N, 2) place of each row; a function of its arguments alone."""
    import numpy as np

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # of a part of umap that needs tensorflow
        from umap import UMAP
    # one thread, because more would make the map depend on their timing; umap sets it where a seed is given
    model = UMAP(
        n_neighbors=min(neighbours, len(table) - 1), min_dist=min_dist, metric="cosine", random_state=seed, n_jobs=1
    )
    centred = table.vectors - table.vectors.mean(0)
    return np.asarray(model.fit_transform(centred), dtype=np.float32)


def _agreements(table: "FeatureTable") -> dict[str, float]:
    """Share of alike neighbours of each column that holds several values, among the rows that have one."""
    from medssl.evaluation.report.embedding_map import COLOURED
    from medssl.evaluation.retrieval import Neighbour, Neighbours, agreement

    found = {}
    for name in COLOURED:
        values = table.columns[name]
        rows = [row for row, value in enumerate(values) if value]
        if len({values[row] for row in rows}) < 2:
            continue
        patients = [table.columns["patient"][row] for row in rows]
        near: list[list[Neighbour]] = [[] for _ in values]
        for row, own in zip(rows, Neighbours(table, rows).of(table.vectors[rows], 10, patients), strict=True):
            near[row] = own
        found[name] = agreement(values, near)
    return found
