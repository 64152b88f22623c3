"""Manifest of the COVID-CT application: one case a slice, grouped by patient or paper.

Reads a folder with `images/` and `labels.csv` (`image`, `covid` 0 or 1, and where they are there `split` and
`group_patient_or_paper`). Slices without a line in the table are unlabelled and serve pretraining. Without a group each
slice counts as a patient of its own, which is wrong where a patient has several: give the column.
"""

import csv
from pathlib import Path

from medssl.imaging.errors import ManifestError
from medssl.imaging.manifest import Manifest, Row

_CLASSES = {"0": "no_covid", "1": "covid"}
_SUFFIXES = {".png", ".jpg", ".jpeg"}


def make_manifest(data: Path, out: Path) -> None:
    """Write the manifest of the data folder; splits are taken where the table has them, else left to `medssl prepare`.

    Args:
        data: Folder with `images/` and `labels.csv`.
        out: Manifest to write.

    Raises:
        ManifestError: No table, no image, or a line without a known answer.
    """
    table = data / "labels.csv"
    if not table.is_file():
        raise ManifestError(f"{data} has no labels.csv: give the folder with images/ and labels.csv", reason="no-table")
    with table.open(newline="", encoding="utf-8-sig") as stream:
        answers = {row["image"]: row for row in csv.DictReader(stream) if row.get("image")}
    paths = sorted(path for path in (data / "images").glob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise ManifestError(f"no picture in {data / 'images'}", reason="no-images")
    there = {path.name for path in paths}
    problems = [f"{table}: {name} is not in {data / 'images'}" for name in answers if name not in there]
    problems += [
        f"{table}: {name} has covid {row.get('covid')!r}, 0 or 1 is expected"
        for name, row in answers.items()
        if row.get("covid") not in _CLASSES
    ]
    if problems:
        raise ManifestError("\n".join(problems[:20]), reason="bad-table")
    # one split in the manifest stands for all: `medssl prepare` draws them only where there is none
    spare = "train" if any(answer.get("split") for answer in answers.values()) else ""
    Manifest.from_rows([_row(path, answers.get(path.name), spare) for path in paths], root=out.parent).write(out)


def _row(path: Path, answer: dict[str, str] | None, spare: str) -> Row:
    """A line of the manifest; `spare` is the split of slices without an answer."""
    if answer is None:
        return Row(case=path.stem, patient=path.stem, image=str(path), modality="CT", split=spare)
    return Row(
        case=path.stem,
        patient=answer.get("group_patient_or_paper") or path.stem,
        image=str(path),
        class_name=_CLASSES[answer["covid"]],
        modality="CT",
        split=answer.get("split", ""),
        licence="research only, as the papers the figures come from (COVID-CT, arXiv 2003.13865)",
    )
