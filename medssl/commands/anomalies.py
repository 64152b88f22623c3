"""Find cases to look at again: likely wrong classes, and images unlike all others."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.commands.console import say
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.imaging.files import atomic_folder, csv_text, write_json, write_text

if TYPE_CHECKING:
    from medssl.evaluation.anomalies import Doubts, Numbers
    from medssl.evaluation.feature_files import FeatureTable
    from medssl.evaluation.retrieval import Neighbour

POSITIONAL = ("features",)
_HEADER = ("kind", "case", "patient", "split", "class", "suggested", "score", "reason", "nearest", "image")


def anomalies(
    features: list[Path],
    out: Path,
    neighbours: int = 20,
    folds: int = 5,
    outlier: float = 3.0,
    top: int = 50,
    seed: int = 0,
) -> None:
    """List mislabel and outlier candidates, with scores, reasons and pictures; a person has to judge them.

    A class is doubted where most neighbours, by number and weighted by likeness, are of another one, or where a linear
    probe that did not learn from the patient is sure of another one; those doubted by both come first. Neighbours are
    of other patients, always. OUT gets candidates.csv, scores.csv (every row), mislabelled.png, outliers.png and
    anomalies.json. Not a medical device: for research only.

    Args:
        features: Folders written by `medssl embed`, of one encoder, preprocessing and options.
        out: Folder of the results; must not exist.
        neighbours: How many are asked.
        folds: Of the cross-validation, by patient.
        outlier: Modified z-score of the distance to the neighbours from which a row is an outlier.
        top: At most so many candidates of each kind, the most suspicious ones.
        seed: Seed of the folds.

    Raises:
        ConfigError: Options outside their range.
        MedsslError: Features that cannot be used or compared, or of too few patients.
    """
    import numpy as np

    from medssl.evaluation.anomalies import judged_rows, label_doubts, outlier_scores
    from medssl.evaluation.feature_files import read_features
    from medssl.evaluation.retrieval import Neighbours

    _check(out, neighbours, folds, outlier, top)
    table = read_features(features)
    patients = table.columns["patient"]
    if len(set(patients)) < 3:
        raise MedsslError(
            f"the features are of {len(set(patients))} patient(s): neighbours of other patients say nothing with fewer "
            "than 3",
            reason="too-few-patients",
        )
    near = Neighbours(table, distances=True).of(table.vectors, neighbours, patients)
    far = outlier_scores(near)
    rows, notes = judged_rows(table)
    notes = [*table.warnings, *notes]
    doubts = None
    if len(rows):
        own = [patients[row] for row in rows]
        others = Neighbours(table, rows.tolist()).of(table.vectors[rows], neighbours, own)
        doubts = label_doubts(table, rows, others, folds, seed)
    doubted, wrong = (0, []) if doubts is None else _doubted(table, doubts, near, top)
    outliers, odd = _outliers(table, far, near, outlier, top)
    for note in notes:
        say(f"anomalies: {note}")
    with atomic_folder(out) as temporary:
        write_text(temporary / "candidates.csv", csv_text(_HEADER, [c for _, c in (*wrong, *odd)]))
        write_text(temporary / "scores.csv", _scores(table, far, doubts))
        for name, found in (("mislabelled", wrong), ("outliers", odd)):
            _sheet(table, found, near, temporary / f"{name}.png", name)
        about = {
            "rows": len(table),
            "patients": len(set(patients)),
            "judged": len(rows),
            "mislabelled": doubted,
            "outliers": outliers,
            "options": {"neighbours": neighbours, "folds": folds, "outlier": outlier, "top": top, "seed": seed},
            "notes": notes,
            "features": [str(folder) for folder in features],
            "encoder_sha256": table.about["encoder"]["sha256"],
            "median_outlier_score": float(np.median(far)),
        }
        write_json(temporary / "anomalies.json", about)
    say(f"anomalies: {doubted} classes to look at again and {outliers} outliers among {len(table)} rows")
    if wrong or odd:
        say(f"anomalies: of each {top} at most, the most suspicious, are in {out / 'candidates.csv'}, with pictures")


def _check(out: Path, neighbours: int, folds: int, outlier: float, top: int) -> None:
    problems = [f"out: {out} exists already: choose another folder; nothing is overwritten"] if out.exists() else []
    problems += [f"{n} must be 1 or more, got {v}" for n, v in (("neighbours", neighbours), ("top", top)) if v < 1]
    if folds < 2:
        problems.append(f"folds must be 2 or more, got {folds}")
    if not outlier > 0:
        problems.append(f"outlier must be above 0, got {outlier}")
    if problems:
        raise ConfigError(problems)


Line = tuple[int, list[object]]


def _doubted(
    table: "FeatureTable", doubts: "Doubts", near: "Sequence[Sequence[Neighbour]]", top: int
) -> tuple[int, list[Line]]:
    """How many rows are doubted; row and line of the table of the first of them, doubted by both before others."""
    import numpy as np

    neighbours, probes, scores = doubts.by_neighbours, doubts.by_probe, doubts.scores
    signs = (neighbours >= 0).astype(int) + (probes >= 0)
    order = np.lexsort((-scores, -signs))[: np.count_nonzero(signs)]
    found = []
    for place in order[:top]:
        row, own, neighbour, probe = int(doubts.rows[place]), doubts.given[place], neighbours[place], probes[place]
        reasons = []
        if probe >= 0:
            sure, self_sure = doubts.probe[place, probe], doubts.probe[place, own]
            reasons.append(f"probe: {doubts.classes[probe]} {sure:.2f}, own class {self_sure:.2f}")
        if neighbour >= 0:
            share, own_share = doubts.neighbours[place, neighbour], doubts.neighbours[place, own]
            reasons.append(
                f"neighbours: {doubts.classes[neighbour]} {share:.2f}, own class {own_share:.2f}, by likeness"
            )
        suggested = doubts.classes[probe if probe >= 0 else neighbour]
        found.append((row, _line("mislabelled", table, row, suggested, scores[place], "; ".join(reasons), near)))
    return len(order), found


def _outliers(
    table: "FeatureTable", far: "Numbers", near: "Sequence[Sequence[Neighbour]]", least: float, top: int
) -> tuple[int, list[Line]]:
    """How many rows are outliers; row and line of the table of the farthest."""
    rows = sorted((n for n, score in enumerate(far) if score > least), key=lambda n: -far[n])
    return len(rows), [
        (row, _line("outlier", table, row, "", far[row], f"far from its {len(near[row])} neighbours", near))
        for row in rows[:top]
    ]


def _line(
    kind: str,
    table: "FeatureTable",
    row: int,
    suggested: str,
    score: float,
    reason: str,
    near: "Sequence[Sequence[Neighbour]]",
) -> list[object]:
    patient, split, name, image = (table.columns[column][row] for column in ("patient", "split", "class", "image"))
    nearest = table.names[near[row][0].row]
    return [kind, table.names[row], patient, split, name, suggested, f"{score:.3f}", reason, nearest, image]


def _scores(table: "FeatureTable", far: "Numbers", doubts: "Doubts | None") -> str:
    """Every row with its numbers; empty where its class is not judged."""
    judged: dict[int, list[str]] = {}
    if doubts is not None:
        for place, (row, own) in enumerate(zip(doubts.rows, doubts.given, strict=True)):
            numbers = doubts.scores[place], doubts.neighbours[place, own], doubts.probe[place, own]
            judged[int(row)] = [f"{number:.4f}" for number in numbers]
    rows = [
        [name, table.columns["patient"][n], table.columns["class"][n], f"{far[n]:.3f}", *judged.get(n, ["", "", ""])]
        for n, name in enumerate(table.names)
    ]
    return csv_text(["case", "patient", "class", "outlier", "doubt", "neighbours_own_class", "probe_own_class"], rows)


def _sheet(
    table: "FeatureTable", found: Sequence[Line], near: "Sequence[Sequence[Neighbour]]", path: Path, kind: str
) -> None:
    """Each candidate before its nearest neighbour of another patient."""
    from medssl.evaluation.feature_files import decoded
    from medssl.imaging.writers.sheet import write_sheet

    pictures = []
    for row, line in found:
        given, suggested, score = line[4], line[5], line[6]
        said = f"{given}? {suggested}" if suggested else f"outlier {score}"
        pictures.append((decoded(table.pictures[row]), f"{table.names[row][-16:]}\n{said}"))
        other = near[row][0].row
        pictures.append((decoded(table.pictures[other]), f"nearest\n{table.columns['class'][other]}"))
    write_sheet(pictures, path, f"{kind}: {len(found)} candidates, each before its nearest neighbour")
