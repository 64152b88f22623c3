"""Manifest of the hippocampus application: which files belong to which person.

Reads the folder of the Medical Segmentation Decathlon's Task04_Hippocampus as published (`imagesTr`, `labelsTr`) or
the same files as `images`, `labels`. Files `hippocampus_<id>.nii.gz` with the ids 2k-1 and 2k are the two sides of one
person, so both go into one split.
"""

import re
from pathlib import Path

from medssl.imaging.errors import ManifestError
from medssl.imaging.manifest import Manifest, Row

_NAME = re.compile(r"hippocampus_(\d+)\.nii(\.gz)?$")
_FOLDERS = (("imagesTr", "labelsTr"), ("images", "labels"))


def make_manifest(data: Path, out: Path) -> None:
    """Write the manifest of the data folder; labels are taken where they are, splits are left to `medssl prepare`.

    Args:
        data: Folder with `imagesTr` and `labelsTr`, or `images` and `labels`; other folders of images are unlabelled.
        out: Manifest to write.

    Raises:
        ManifestError: No such image in the folder.
    """
    rows = [_row(path, data, out.parent) for path in sorted(data.rglob("*.nii*")) if _is_image(path)]
    if not rows:
        raise ManifestError(
            f"no hippocampus_<id>.nii.gz below {data}: give the folder of the Decathlon's Task04_Hippocampus",
            reason="no-images",
        )
    Manifest.from_rows(rows, root=out.parent).write(out)


def _is_image(path: Path) -> bool:
    return bool(_NAME.match(path.name)) and path.parent.name not in {labels for _, labels in _FOLDERS}


def _row(path: Path, data: Path, root: Path) -> Row:
    match = _NAME.match(path.name)
    number = int(match.group(1)) if match else 0
    label = next((data / labels / path.name for images, labels in _FOLDERS if path.parent == data / images), None)
    return Row(
        case=f"hippocampus_{number:03d}",
        patient=f"p{(number + 1) // 2:03d}",
        image=str(path),
        label=str(label) if label and label.exists() else "",
        modality="MR",
        licence="CC-BY-SA-4.0 (Medical Segmentation Decathlon)",
    )
