"""List the images of a folder in a manifest, and say what cannot be used."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medssl.commands.console import say
from medssl.imaging.errors import ConfigError
from medssl.imaging.index import IndexSummary, index_tree
from medssl.imaging.problems import Problem, problems_beside

POSITIONAL = ("folder",)
_WIDTH = 200
_NOTES = 40


def index(
    folder: Path, out: Path = Path("manifest.csv"), overwrite: bool = False, resample_irregular: bool = False
) -> None:
    """Find every image below a folder and write a manifest; files that cannot be used go to problems.csv, with reasons.

    The manifest is a CSV file, one line a case, that opens in a spreadsheet: correct it there, above all the columns
    patient, split and class. Images: DICOM (folders, mixed series, zip files), NIfTI, NRRD, MHA, PNG, JPEG, TIFF.
    Labels are found in `labels` or `masks` folders beside `images`, as NAME_mask, NAME_seg or NAME.seg beside NAME, in
    the Decathlon's dataset.json, and as DICOM-SEG or RTSTRUCT of other programs. NAME_0000 and NAME_0001 are channels
    of one case where a folder holds several such sets (nnU-Net). Pictures in sibling folders get the folder's name as
    their class.

    Patients come from a CSV file with the columns `file` (a path from the CSV file or from the folder searched, or a
    name alone; or `id`, `case`, `image`) and `patient`; from the PatientID; where there is none, from others of the
    study or of the same name and date of birth, which count as one person; or from `sub-` names (BIDS). Of what DICOM
    says hashes are written, which those who know it can compute: no de-identification.

    Args:
        folder: Folder to search.
        out: Manifest to write. Files that cannot be used are listed beside it, in problems.csv beside manifest.csv and
            NAME.problems.csv beside NAME.csv.
        overwrite: Replace a manifest and its list of problems that are there.
        resample_irregular: List DICOM series with uneven or missing slices as well: `medssl prepare` resamples them
            where it is given the same option, and leaves them out where not; `medssl curate` cannot read them.

    Raises:
        ConfigError: One of the two files is there already.
        ImageError: The folder does not exist, or no image in it can be used.
    """
    there = [path for path in (out, problems_beside(out)) if path.exists()]
    if there and not overwrite:
        raise ConfigError([f"{path} exists already: choose another --out, or --overwrite" for path in there])
    say(f"index: looking at every file below {folder}")
    summary = index_tree(folder, out, resample_irregular=resample_irregular)
    say(_told(summary, out))


def _told(summary: IndexSummary, out: Path) -> str:
    rows = summary.rows
    modalities = Counter(row.modality or "unknown modality" for row in rows)
    lines = [
        f"found {len(rows)} cases of {len({row.patient for row in rows})} patients "
        f"({', '.join(f'{n} {m}' for m, n in modalities.most_common())}), "
        f"{sum(bool(row.label) for row in rows)} with a label map",
    ]
    classes = Counter(row.class_name for row in rows if row.class_name)
    if classes:
        lines.append(f"classes by folder: {', '.join(f'{name} ({n})' for name, n in sorted(classes.items()))}")
    lines += _troubles(summary.problems)
    lines += _first(summary.notes)
    lines.append(f"manifest: {out}; every file that was not used, with the reason: {problems_beside(out)}")
    lines.append("check the column patient: all cases of one person need one name, or test results will be too good")
    return "\n".join(lines)


def _troubles(problems: Sequence[Problem]) -> list[str]:
    """One line a reason, the commonest first, with its first file and what to do."""
    first = {(p.action, p.reason): p for p in reversed(problems)}
    counts = Counter((p.action, p.reason) for p in problems)
    return [
        f"  {action}: {n} file(s), {reason}, for instance {first[action, reason].path}\n"
        f"      {_short(first[action, reason].message)}"
        for (action, reason), n in counts.most_common()
    ]


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 4]} ..."


def _first(notes: Sequence[str]) -> list[str]:
    more = [f"and {len(notes) - _NOTES} more remarks of this kind"] if len(notes) > _NOTES else []
    return [*notes[:_NOTES], *more]
