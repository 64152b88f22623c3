"""Which file is the label of which image, which are channels of one case: by folders and names, never by guess."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medssl.imaging.naming import split_field
from medssl.imaging.readers.scan import FoundImage, FoundLabel
from medssl.imaging.tables import Decathlon, stem

_NNUNET_FOLDER = re.compile(r"^images(Tr|Ts|Va)$")
_CHANNEL = re.compile(r"^(.*)_(\d{4})$")
# Whole words, as in `train_labels` and `labelsTr`, not in `unlabelled`.
_IMAGE_WORD = re.compile(r"(?<![A-Za-z])[Ii]mages?(?![a-z])")
_LABEL_WORD = re.compile(r"(?<![A-Za-z])([Ll]abels?|[Mm]asks?|[Ss]egmentations?|[Aa]nnotations?)(?![a-z])")
_INSTANCES = re.compile(r"(?<![A-Za-z])[Ii]nstances?(?![a-z])")
_MASK_NAME = re.compile(r"^(?:(.+)[._-])?(?:seg|segmentation|mask|label|labelmap|annotation)$", re.IGNORECASE)
_DOUBLE = re.compile(r"\.seg$", re.IGNORECASE)
"""3D Slicer ends the names of segmentations so."""
SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "test", "testing")


@dataclass
class Case:
    """Images of one case (several: its channels), and its label."""

    name: str
    images: list[FoundImage]
    label: str = ""
    class_name: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def place(self) -> Path:
        """File of the image, or folder of the series."""
        return split_field(self.images[0].field)[0]


def pair(root: Path, images: Sequence[FoundImage], labels: Sequence[FoundLabel], listed: Decathlon) -> list[Case]:
    """Cases of a tree.

    Label maps are the files that a `dataset.json` lists as such, those below a folder named like `labels`, `masks` or
    `segmentations`, and those named `NAME_mask`, `NAME_seg`, `NAME.seg` and the like. A label belongs to the image it
    is listed with; to the image of the same name in the folder of the same name with `images`, or, where only one label
    folder beside it holds that name, in any folder (masks of instances are no class maps); or to the one image beside
    it called `NAME` (or `NAME_` and more). DICOM-SEG and RTSTRUCT belong to the series they refer to. Files
    `NAME_0000`, `NAME_0001` are channels in nnU-Net's folders, and where several names have the same numbers.
    """
    by_file = {image.files[0].resolve(): image for image in images if image.format != "dicom"}
    known = {by_file[label].field for label in listed.labels.values() if label in by_file}
    foldered = [image for image in images if image.field in known or _in_label_folder(image, root)]
    set_apart = {image.field for image in foldered}
    others = [image for image in images if image.field not in set_apart]
    beside = [image for image in others if image.format != "dicom" and _MASK_NAME.match(stem(image.files[0]))]
    masks = {image.field for image in beside}
    cases = _channels([image for image in others if image.field not in masks])
    by_name: dict[str, list[FoundImage]] = defaultdict(list)
    for mask in foldered:
        by_name[_DOUBLE.sub("", stem(mask.files[0]))].append(mask)
    for case in cases:
        truth = by_file.get(listed.labels.get(case.images[0].files[0].resolve(), Path()))
        case.label = truth.field if truth else _by_folder(case, by_name, root)
    _by_suffix(cases, beside)
    _by_reference(cases, labels)
    _classes(cases, root)
    return cases


def _in_label_folder(image: FoundImage, root: Path) -> bool:
    folders = image.files[0].relative_to(root).parts[:-1] if image.files[0].is_relative_to(root) else ()
    return image.format != "dicom" and any(
        _LABEL_WORD.search(folder) and not _IMAGE_WORD.search(folder) for folder in folders
    )


def _channels(images: Sequence[FoundImage]) -> list[Case]:
    groups: dict[tuple[Path, str], list[FoundImage]] = defaultdict(list)
    cases = []
    for image in images:
        match = _CHANNEL.match(stem(image.files[0])) if image.format != "dicom" else None
        if match:
            groups[image.files[0].parent, match.group(1)].append(image)
        else:
            cases.append(Case(_dicom_name(image) if image.format == "dicom" else stem(image.files[0]), [image]))
    holds_channels = _channel_folders(groups)
    for (folder, name), members in groups.items():
        ordered = sorted(members, key=lambda image: image.files[0].name)
        if folder in holds_channels and _numbers(ordered) == list(range(len(ordered))):
            cases.append(Case(name, ordered))
        else:  # a running number, not channels
            cases += [Case(stem(image.files[0]), [image]) for image in ordered]
    return sorted(cases, key=lambda case: case.images[0].field)


def _channel_folders(groups: Mapping[tuple[Path, str], Sequence[FoundImage]]) -> set[Path]:
    """Folders where `_0000` is a channel: nnU-Net's, or those with several names that all have the same numbers.

    One name alone with `_0000`, `_0001` is as likely a series of pictures.
    """
    sets: dict[Path, list[list[int]]] = defaultdict(list)
    for (folder, _), members in groups.items():
        sets[folder].append(sorted(_numbers(members)))
    return {
        folder
        for folder, numbers in sets.items()
        if _NNUNET_FOLDER.match(folder.name) or (len(numbers) > 1 and all(n == numbers[0] for n in numbers))
    }


def _numbers(images: Sequence[FoundImage]) -> list[int]:
    return [int(stem(image.files[0])[-4:]) for image in images]


def _dicom_name(image: FoundImage) -> str:
    path = split_field(image.field)[0]
    name = stem(path)
    return f"{name}_{image.series_uid.rsplit('.', 1)[-1]}" if split_field(image.field)[1] else name


def _by_folder(case: Case, masks: Mapping[str, Sequence[FoundImage]], root: Path) -> str:
    """Label of the same name in the folder that is called after labels where this one is called after images."""
    names = {case.name, stem(case.images[0].files[0]), case.place.name}
    named = [mask for name in sorted(names) for mask in masks.get(name, ())]
    found = [mask for mask in named if _counterpart(case.place.parent, mask.files[0].parent, root)]
    if not found:  # `images` and `lung_masks` side by side; numbered objects are no classes
        here = case.place.parent.parent if case.place.parent != root else root
        found = [m for m in named if m.files[0].parent.parent == here and not _INSTANCES.search(m.files[0].parent.name)]
    if len(found) > 1:
        case.notes.append(f"{len(found)} label files have the name of one image; none was taken")
    return found[0].field if len(found) == 1 else ""


def _counterpart(images: Path, labels: Path, root: Path) -> bool:
    """True where two folders differ in one name, and there only by the words for images and labels."""
    if not images.is_relative_to(root):
        return False
    ours, theirs = images.relative_to(root).parts, labels.relative_to(root).parts
    if len(ours) != len(theirs):
        return bool(theirs) and theirs[:-1] == ours and bool(_LABEL_WORD.fullmatch(theirs[-1]))
    different = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    if len(different) != 1:
        return False
    own, other = different[0]
    return _IMAGE_WORD.sub("", own).lower() == _LABEL_WORD.sub("", other).lower()


def _by_suffix(cases: Sequence[Case], masks: Sequence[FoundImage]) -> None:
    """`NAME_mask` belongs to `NAME`, or to the only image whose name starts so; `mask` to the only image beside it."""
    folders: dict[Path, list[Case]] = defaultdict(list)
    for case in cases:
        folders[case.place.parent].append(case)
    claims: dict[int, list[FoundImage]] = defaultdict(list)
    for mask in masks:
        name = stem(mask.files[0])
        match = _MASK_NAME.match(_DOUBLE.sub("", name)) or _MASK_NAME.match(name)
        base = (match.group(1) if match else None) or ""
        beside = folders[mask.files[0].parent]
        exact = [case for case in beside if base == case.name]
        close = [case for case in beside if not base or case.name.startswith((f"{base}_", f"{base}-"))]
        if len(exact or close) == 1:
            claims[id((exact or close)[0])].append(mask)
    for case in cases:
        claimed = claims[id(case)]
        if len(claimed) == 1 and not case.label:
            case.label = claimed[0].field
        elif claimed:
            case.notes.append(f"{len(claimed)} label files beside one image could be meant; none was taken")


def _by_reference(cases: Sequence[Case], labels: Sequence[FoundLabel]) -> None:
    by_series: dict[str, list[FoundLabel]] = defaultdict(list)
    for label in labels:
        for uid in label.series_uids:
            by_series[uid].append(label)
    for case in cases:
        objects = by_series.get(case.images[0].series_uid, []) if not case.label else []
        if len(objects) == 1:
            case.label = str(objects[0].path)
        elif objects:
            case.notes.append(
                f"warning: {len(objects)} label objects refer to one series; none was taken: write the one that is "
                "meant into the column label, or join them in one object"
            )


def _classes(cases: Iterable[Case], root: Path) -> None:
    """Class of pictures sorted into two or more sibling folders, also below `train`, `test` and the like."""
    pictures = [case for case in cases if case.images[0].format == "raster" and not case.label]
    parents = {case.place.parent for case in pictures}
    if len({parent.name for parent in parents}) < 2 or root in parents:
        return
    above = {parent.parent for parent in parents}
    splits = len({folder.parent for folder in above}) == 1 and all(f.name.lower() in SPLIT_FOLDERS for f in above)
    if not (len(above) == 1 or splits):
        return
    if any(_IMAGE_WORD.search(parent.name) or parent.name.lower() in SPLIT_FOLDERS for parent in parents):
        return
    for case in pictures:
        case.class_name = case.place.parent.name
