"""The images that `medssl curate` looks at: slices of volumes, their pictures, and their features."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.commands.console import say
from medssl.commands.side_by_side import in_workers
from medssl.data.curate_options import QualityOptions, Rule
from medssl.evaluation.options import EmbedOptions
from medssl.imaging.errors import ConfigError, ImageError
from medssl.imaging.manifest import Manifest, Row
from medssl.imaging.naming import split_slice
from medssl.imaging.preprocess import Preprocess
from medssl.imaging.progress import Progress
from medssl.imaging.target_grid import shown_plane
from medssl.imaging.writers.sheet import laid_plane

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from medssl.evaluation.embedding import Embedder, Shown
    from medssl.imaging.volume import Volume

_SIDE = 64  # of pictures that ssim and mutual information compare
_BATCH = 32
_FLAT = "a 2D image, no volume"
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Image:
    """An image to keep or to leave out.

    Args:
        number: Its place in the list.
        row: Its line of the manifest.
        volume: Case or file that it is a slice of, or the case that it is.
        root: Folder of the manifest.
        irregular: Whether unevenly spaced slices of it are resampled instead of refused.
        code: What is compared: a hash or a small picture of each channel; None before it was looked at.
    """

    number: int
    row: Row
    volume: str
    root: Path
    irregular: bool = False
    code: Any = None


def taken_apart(
    listed: Manifest, axis: int | None, flat_stay: bool = False, irregular: bool = False
) -> tuple[list[Image], list[tuple[Image, str]]]:
    """The images of a manifest, or the slices of its volumes across an axis, one 2D image each, without label maps.

    Args:
        listed: The manifest.
        axis: Of the files; None leaves volumes whole.
        flat_stay: 2D images stay as they are beside the slices; else they are left out, but for slices of volumes.
        irregular: Resample unevenly spaced slices instead of refusing them.

    Returns:
        These, and what cannot be taken apart, because it cannot be read or is 2D, with the reason.

    Raises:
        ConfigError: All images are 2D.
    """
    if axis is None:
        return [Image(n, row, _volume_of(row), listed.root, irregular) for n, row in enumerate(listed.rows)], []
    found: list[Image] = []
    left: list[tuple[Image, str]] = []
    with Progress("volumes", len(listed.rows)) as progress:
        for row in listed.rows:
            progress.advance()
            parts = [part.strip() for part in row.image.split(";")]
            try:
                shape = _shape(listed.root / parts[0], irregular)
            except ImageError as error:
                left.append((Image(len(found) + len(left), row, row.case, listed.root), unreadable(error)))
                continue
            if len(shape) != 3:
                image = Image(len(found) + len(left), row, _volume_of(row), listed.root, irregular)
                if flat_stay or _is_slice(image):
                    found.append(image)
                else:
                    left.append((image, _FLAT))
                continue
            for k in range(shape[axis]):
                field = ";".join(f"{part}#slice={axis}:{k}" for part in parts)
                own = replace(row, case=f"{row.case}_s{k:04d}", image=field, label="")
                found.append(Image(len(found) + len(left), own, row.case, listed.root, irregular))
    if not found and (flat := [image.row.case for image, reason in left if reason == _FLAT]):
        raise ConfigError(
            [f"slices {axis}: case {flat[0]!r} is a 2D image, and no other is a volume: leave --slices out"]
        )
    return found, left


def unreadable(error: ImageError) -> str:
    """Why an image that cannot be read is left out."""
    return f"{UNREADABLE} ({error.reason})"


def _shape(path: Path, irregular: bool) -> tuple[int, ...]:
    """Shape of an image; that of a NIfTI file stands in its header, which tells whether it is whole.

    Raises:
        ImageError: It cannot be read.
    """
    from medssl.imaging.readers.nifti import whole_nifti_header
    from medssl.imaging.readers.open import read_volume

    if path.is_file() and path.name.lower().endswith((".nii", ".nii.gz")):
        with suppress(PermissionError):  # of which read_volume says more
            return whole_nifti_header(path).shape
    return read_volume(path, resample_irregular=irregular).geometry.shape


def _volume_of(row: Row) -> str:
    """The file that an image is a slice of, with the axis; the case itself where it is none."""
    file, place = split_slice(row.image.split(";")[0].strip())
    return f"{file}#{place.split(':')[0]}" if place else row.case


def held(image: Image) -> bool:
    """Whether an image is kept whatever it is like: those with answers, and those that measure."""
    row = image.row
    return bool(row.label or row.class_name) or row.split in ("val", "test")


def look(
    images: Sequence[Image], quality: QualityOptions, rule: Rule, workers: int
) -> tuple[list[Image], list[tuple[Image, str]]]:
    """Images of use with what the rule compares, and the others with the reason."""
    seen: list[tuple[Image, str]] = []
    with Progress("look", len(images), "image") as progress:
        for part in in_workers(partial(_look, quality=quality, rule=rule), _parts(images), workers):
            seen += part
            progress.advance(len(part))
    seen.sort(key=lambda one: one[0].number)
    return [image for image, reason in seen if not reason], [(image, reason) for image, reason in seen if reason]


def _parts(images: Sequence[Image]) -> list[list[Image]]:
    """Images to be looked at together: the slices of a volume, which is read once, or some whole images."""
    parts: list[list[Image]] = []
    for _, group in groupby(images, key=lambda image: image.volume):
        own = list(group)
        if parts and len(parts[-1]) + len(own) <= _BATCH:
            parts[-1] += own
        else:
            parts.append(own)
    return parts


def _look(images: Sequence[Image], quality: QualityOptions, rule: Rule) -> list[tuple[Image, str]]:
    """Each image with what the rule compares, or with why it is of no use."""
    found: list[tuple[Image, str]] = []
    for _, of_one in groupby(images, key=_files):
        ends: list[tuple[float, float]] = []
        group = iter(list(of_one))
        for image in group:
            try:
                volume = _volume(image)
                ends = ends or _ends(image, volume)
            except ImageError as error:
                others = () if error.reason == "no-such-slice" else group  # a damaged volume is read once
                found += [(one, unreadable(error)) for one in (image, *others)]
                continue
            channels = _planes(image, volume)
            reason = _useless(image.row, channels, ends, quality)
            found.append((image if reason else replace(image, code=_code(channels, rule)), reason))
    return found


def _files(image: Image) -> tuple[str, ...]:
    """Files of an image; slices of one volume have the same."""
    return tuple(split_slice(part.strip())[0] for part in image.row.image.split(";"))


def _ends(image: Image, volume: "Volume") -> list[tuple[float, float]]:
    """What is dark and bright in each channel: the ends of a 2D image, robust ends of the whole of a volume.

    A slice of air has no ends of its own but noise: between these almost every pixel would be bright.
    """
    from medssl.imaging.intensities import robust_ends
    from medssl.imaging.readers.open import whole_volumes

    parts = [part.strip() for part in image.row.image.split(";")]
    paths = [image.root / part for part in parts]
    wholes = whole_volumes(paths, resample_irregular=image.irregular) if _is_slice(image) else [volume]
    channels = [channel for whole in wholes for channel in whole.array]
    return [robust_ends(c) if c.ndim == 3 else (float(c.min()), float(c.max())) for c in channels]


def picture_of(image: Image) -> "npt.NDArray[np.float32] | None":
    """The image's first channel (H, W) that is not constant; None where it cannot be read."""
    try:
        channels = _planes(image, _volume(image))
    except ImageError:
        return None
    return next((channel for channel in channels if channel.min() < channel.max()), channels[0])


def _planes(image: Image, volume: "Volume") -> "list[npt.NDArray[np.float32]]":
    """The image's channels, (H, W) each, of a volume the middle slice.

    2D images lie as viewers show them. Slices of volumes, whose first axis runs across, keep it so: rows down, the
    second axis up where it runs to anterior or superior, down as it is stored in DICOM.
    """
    import numpy as np

    codes = volume.geometry.orientation
    if volume.spatial_dims == 2 and not _is_slice(image):
        planes = [shown_plane(channel, codes) for channel in volume.array]
    else:
        middle = [laid_plane(channel, True) for channel in volume.array]
        planes = middle if codes[1] in "AS" else [plane[::-1] for plane in middle]
    return [np.asarray(plane, dtype=np.float32) for plane in planes]


def _is_slice(image: Image) -> bool:
    return bool(split_slice(image.row.image.split(";")[0])[1])


def embed(
    images: Sequence[Image], encoder: Path | None, device: str
) -> "tuple[npt.NDArray[np.float32], list[Image], list[tuple[Image, str]]]":
    """Features of images, prepared as those that the encoder was pretrained on; the middle of each.

    Args:
        images: At least one.
        encoder: Encoder file.
        device: Where it computes.

    Returns:
        (N, E), the N images, and those that cannot be embedded, with the reason.

    Raises:
        ConfigError: An encoder that does not say how its images were prepared, or is for others.
    """
    import numpy as np

    from medssl.evaluation.embedding import Embedder
    from medssl.models.weights import read_encoder

    if encoder is None:
        raise ConfigError(["an encoder is needed"])
    meta = read_encoder(encoder)[1]
    if not meta.get("preprocess"):
        raise ConfigError([f"{encoder} does not say how its images were prepared"])
    embedder = Embedder(encoder, Preprocess.from_json(meta["preprocess"]), meta["channels"], EmbedOptions(), device)
    vectors: list[npt.NDArray[np.float32]] = []
    kept: list[Image] = []
    odd: list[tuple[Image, ImageError]] = []
    with Progress("embed", len(images), "image") as progress:
        for first in range(0, len(images), _BATCH):
            seen = [(image, _shown(image, embedder)) for image in images[first : first + _BATCH]]
            odd += [(image, one) for image, one in seen if isinstance(one, ImageError)]
            good = [(image, one) for image, one in seen if not isinstance(one, ImageError)]
            if good:
                vectors.append(embedder.features([one for _, one in good], [image.row.case for image, _ in good]))
            kept += [image for image, _ in good]
            progress.advance(len(seen))
    for image, error in odd[:1]:
        more = f"{len(odd)} of {len(images)} images cannot be embedded and are left out"
        say(f"curate: {more}; the first, {image.row.case!r}: {error.message}")
    left = [(image, f"not embedded ({error.reason})") for image, error in odd]
    return np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32), kept, left


def _shown(image: Image, embedder: "Embedder") -> "Shown | ImageError":
    """What the encoder sees of an image, or why it cannot."""
    try:
        return embedder.shown(_volume(image))
    except ImageError as error:
        return error


def _volume(image: Image) -> "Volume":
    from medssl.imaging.readers.open import read_channels

    return read_channels(image.row.image, image.root, resample_irregular=image.irregular)


def _useless(
    row: Row,
    channels: "Sequence[npt.NDArray[np.float32]]",
    ends: Sequence[tuple[float, float]],
    quality: QualityOptions,
) -> str:
    """Why an image is of no use; empty where one of its channels is."""
    telling = [one for one in zip(channels, ends, strict=True) if one[0].min() < one[0].max()]
    if not telling:
        return "constant"
    if quality.modality and row.modality and row.modality != quality.modality:
        return f"modality {row.modality}"
    reasons = [_empty_or_cut(channel, own, quality) for channel, own in telling]
    return reasons[0] if all(reasons) else ""


def _empty_or_cut(picture: "npt.NDArray[np.float32]", ends: tuple[float, float], quality: QualityOptions) -> str:
    import numpy as np

    low, high = ends
    bright = picture > low + 0.1 * (high - low)
    if float(bright.mean()) < quality.foreground:
        return "almost empty"
    frame = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    return "cut by the field of view" if quality.border and float(frame.mean()) > quality.border else ""


def _code(channels: "Sequence[npt.NDArray[np.float32]]", rule: Rule) -> Any:
    """(C, ...), what the rule compares of each channel."""
    import numpy as np

    from medssl.data.likeness import difference_hash, grey_levels, rescaled

    if rule == "dhash":
        return np.stack([difference_hash(channel) for channel in channels])
    if rule not in ("ssim", "mutual_information"):
        return None
    small = np.stack([rescaled(channel, _SIDE, _SIDE) for channel in channels])
    return small if rule == "ssim" else grey_levels(small)
