"""Manifest of the synthetic cohort: `medssl index` finds it, then virtual patients are put into splits."""

from dataclasses import replace
from pathlib import Path

from medssl.imaging.index import index_tree
from medssl.imaging.manifest import Manifest

_TRAIN, _VAL = 6, 2


def make_manifest(data: Path, out: Path) -> None:
    """Write the manifest: six labelled patients to learn from, two to validate, the others to test; DICOM unlabelled.

    Args:
        data: Folder that `medssl quickstart` made.
        out: Manifest to write.
    """
    summary = index_tree(data, out)
    labelled = sorted(row.patient for row in summary.rows if row.label)
    split = dict.fromkeys(labelled[:_TRAIN], "train") | dict.fromkeys(labelled[_TRAIN : _TRAIN + _VAL], "val")
    split |= dict.fromkeys(labelled[_TRAIN + _VAL :], "test")
    rows = [replace(row, split=split.get(row.patient, "train"), licence="synthetic") for row in summary.rows]
    Manifest.from_rows(rows, out.parent).write(out)
