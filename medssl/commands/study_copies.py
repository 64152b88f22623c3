"""Which found images a study must not be pretrained on: those of held-out patients, and copies of its own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl.commands.console import say
from medssl.imaging.duplicates import voxel_hash
from medssl.imaging.errors import ImageError
from medssl.imaging.manifest import Row
from medssl.imaging.naming import split_slice
from medssl.imaging.progress import Progress
from medssl.imaging.readers.open import read_volume


@dataclass(frozen=True)
class Known:
    """What tells images again.

    Args:
        patients: Their patients: as the manifest has them, and the pseudonyms of DICOM's PatientID.
        contents: Their paths and the hashes of their voxels.
    """

    patients: frozenset[str] = frozenset()
    contents: frozenset[str] = frozenset()

    def has_content(self, other: "Known") -> bool:
        """Whether one of the other's images is one of these, wherever it lies and whatever its format is."""
        return bool(self.contents & other.contents)

    def has(self, other: "Known") -> bool:
        """Whether one of the other's images is one of these, or of one of these patients."""
        return self.has_content(other) or bool(self.patients & other.patients)


def rows_of(cache: Path) -> tuple[list[Row], list[Row]]:
    """The study's training images and its others, without labels."""
    from medssl.data.cache import Cache

    cases = Cache.open(cache).cases
    rows = [
        Row(c.case, c.patient, c.image_field, "", "", c.modality, "train", c.site, c.scanner, c.sex, c.age)
        for c in cases
    ]
    learned = {case.case for case in cases if case.split == "train"}
    return [row for row in rows if row.case in learned], [row for row in rows if row.case not in learned]


def allowed(found: Sequence[Row], training: Sequence[Row], held_out: Sequence[Row], name: str) -> list[Row]:
    """Found images without those of held-out patients, copies of their images, and copies of the training images.

    Every image is decoded once; a slice stands for its whole volume.

    Args:
        found: Rows with absolute paths.
        training: The study's training images that are pretrained on beside those found.
        held_out: The study's other images.
        name: Of the set, for what is told.

    Raises:
        ImageError: An image of the study cannot be read, so that its copies could not be told.
    """
    with Progress(f"compare {name}", len(found) + len(training) + len(held_out), "image") as progress:
        tested, learned = (_union(_known(rows, progress)) for rows in (held_out, training))
        known = _known(found, progress, found=True)
    other = [(row, own) for row, own in zip(found, known, strict=True) if not tested.has(own)]
    new = [row for row, own in other if not learned.has_content(own)]
    if len(other) < len(found):
        say(f"curve: {name}: {len(found) - len(other)} image(s) of patients that are held out are left out")
    if len(new) < len(other):
        say(f"curve: {name}: {len(other) - len(new)} image(s) are training images of the study: taken once")
    return new


def _known(rows: Sequence[Row], progress: Progress, found: bool = False) -> list[Known]:
    """What tells each row's images again; of a found one that cannot be read its path, as it is left out later on."""
    seen: dict[str, Known] = {}
    known = []
    for row in rows:
        images = list(dict.fromkeys(split_slice(part.strip())[0] for part in row.image.split(";")))
        for image in images:
            if image not in seen:
                seen[image] = _look(image, found)
        known.append(_union([Known(frozenset({row.patient})), *(seen[image] for image in images)]))
        progress.advance()
    return known


def _look(image: str, found: bool) -> Known:
    try:
        volume = read_volume(image, resample_irregular=True)
    except (ImageError, OSError):
        if not found:
            raise
        return Known(contents=frozenset({image}))
    return Known(frozenset({volume.source.patient} - {""}), frozenset({image, voxel_hash(volume)}))


def _union(known: Iterable[Known]) -> Known:
    every = list(known)
    return Known(frozenset().union(*(k.patients for k in every)), frozenset().union(*(k.contents for k in every)))
