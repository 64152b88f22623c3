"""List the images of a folder in a manifest, and say what cannot be used."""

from collections import Counter
from pathlib import Path

from medssl.commands.console import say
from medssl.imaging.errors import ConfigError
from medssl.imaging.index import IndexSummary, index_tree

POSITIONAL = ("folder",)


def index(folder: Path, out: Path = Path("manifest.csv"), overwrite: bool = False) -> None:
    """Find every image below a folder and write a manifest; files that cannot be used go to problems.csv, with reasons.

    Understands DICOM trees, NIfTI, NRRD, MHA and picture folders, `images`/`labels` siblings, the Decathlon's
    dataset.json, nnU-Net's `_0000` channels, DICOM-SEG and RTSTRUCT, and folders named by class.

    Args:
        folder: Folder to search.
        out: Manifest to write; check its patient column before you go on.
        overwrite: Replace a manifest that is there.

    Raises:
        ImageError: No image can be used.
    """
    if out.exists() and not overwrite:
        raise ConfigError([f"out {out} exists already: choose another name, or --overwrite"])
    say(f"index: looking at every file below {folder}")
    summary = index_tree(folder, out)
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
    reasons = Counter((p.action, p.reason) for p in summary.problems)
    lines += [f"  {action}: {n} file(s), {reason}" for (action, reason), n in reasons.most_common()]
    lines += list(summary.notes)
    lines.append(f"manifest: {out}; every file that was not used, with the reason: {out.parent / 'problems.csv'}")
    lines.append("check the column patient: all cases of one person need one name, or test results will be too good")
    return "\n".join(lines)
