"""Find a point of one scan in others."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medssl.commands.console import say
from medssl.evaluation.options import Device
from medssl.imaging.errors import ConfigError, ImageError
from medssl.imaging.files import write_json
from medssl.imaging.labels import Label
from medssl.imaging.volume import Volume

if TYPE_CHECKING:
    from medssl.evaluation.matching import EmbeddedScan, Match

POSITIONAL: tuple[str, ...] = ("run", "template", "queries")

_SURE, _BACK_MM = 0.7, 10.0  # a match below this similarity, or that leads back farther from the point, is called weak
_DOT_MM = 2.5


def match(
    run: Path,
    template: str,
    queries: list[str],
    point: tuple[float, ...],
    space: Literal["voxel", "ras", "lps"] = "voxel",
    out: Path | None = None,
    resample_irregular: bool = False,
    device: Device = "auto",
) -> None:
    """Click a point in one scan, find it in others: by embeddings of a run of `sam`.

    Says for each scan where the point lies, as voxel index and in mm, how similar the place is, and how far from the
    point one arrives when the match is looked up in the first scan again. Not a medical device: for research only.

    Args:
        run: Folder of a pretraining run of `sam`.
        template: NIfTI, NRRD, MHA or picture file, DICOM folder, or `FOLDER#SeriesInstanceUID`; channels joined by `;`.
        queries: Scans to look in.
        point: Where in the template, a number an axis; in `ras` and `lps` always three.
        space: `voxel`: index from 0 along the axes of the file (column, row, slice in DICOM). `ras`: mm to the right,
            anterior, superior, as NIfTI viewers show it. `lps`: mm to the left, posterior, superior, as DICOM has it.
        out: Folder for matches.json and a picture of each scan with the point; nothing is written without it.
        resample_irregular: Resample DICOM series with uneven slices instead of refusing them.
        device: Where the network computes; `auto` takes a GPU where there is one.

    Raises:
        ConfigError: A point of the wrong length, an OUT that is not empty, or a device that is not there.
        CheckpointError: RUN is no run of `sam`.
        ImageError: A scan cannot be read or does not fit the run, or the point lies outside the template.
    """
    from medssl.evaluation.device import chosen_device
    from medssl.evaluation.matching import Matcher
    from medssl.imaging.readers.open import read_channels

    if out is not None and out.exists() and any(out.iterdir()):
        raise ConfigError([f"out {out} is not empty: choose another folder"])
    matcher = Matcher(run, chosen_device(device, "device"))

    def embedded(name: str) -> "EmbeddedScan":
        try:
            return matcher.embed(read_channels(name, Path(), resample_irregular=resample_irregular))
        except ImageError as error:
            said = error.message if name in error.message else f"{name}: {error.message}"
            raise ImageError(said, reason=error.reason) from error

    known = embedded(template)
    world_mm = _world(known.volume, point, space)
    rows: list[dict[str, Any]] = []
    pictures = {"template": (known.volume, world_mm)}
    for number, name in enumerate(queries):
        scan = embedded(name)
        place = matcher.find(known, world_mm, scan)
        rows.append(_row(name, scan.volume, place))
        pictures[f"query_{number}"] = scan.volume, place.world_mm
        say(_told(rows[-1]))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, (volume, world) in pictures.items():
            _draw(out / f"{name}.png", volume, world)
        content = {"run": str(run), "template": template, "point_ras_mm": list(world_mm), "matches": rows}
        write_json(out / "matches.json", content)


def _world(volume: Volume, point: tuple[float, ...], space: str) -> tuple[float, ...]:
    """The point in RAS+ mm."""
    wanted = volume.spatial_dims if space == "voxel" else 3
    if len(point) != wanted:
        raise ConfigError([f"point needs {wanted} numbers in space {space}, got {list(point)}"])
    if space == "voxel":
        return tuple(volume.geometry.to_world([*point, 0.0][:3]).tolist())
    return point if space == "ras" else (-point[0], -point[1], point[2])


def _row(name: str, volume: Volume, place: "Match") -> dict[str, Any]:
    doubts = [f"similarity below {_SURE}"] if place.similarity < _SURE else []
    doubts += [f"leads back {place.back_mm:.1f} mm from the point"] if place.back_mm > _BACK_MM else []
    x, y, z = place.world_mm
    shape = volume.geometry.shape
    return {
        "query": name,
        "voxel": [round(n, 2) for n in place.index],
        "nearest_voxel": [min(max(round(n), 0), size - 1) for n, size in zip(place.index, shape, strict=True)],
        "ras_mm": [x, y, z],
        "lps_mm": [-x, -y, z],
        "similarity": place.similarity,
        "back_mm": place.back_mm,
        "weak": "; ".join(doubts),
    }


def _told(row: dict[str, Any]) -> str:
    ras = ", ".join(f"{n:.1f}" for n in row["ras_mm"])
    weak = f"; WEAK: {row['weak']}" if row["weak"] else ""
    return (
        f"{row['query']}: voxel {row['nearest_voxel']}, RAS ({ras}) mm, similarity {row['similarity']:.2f}, "
        f"back within {row['back_mm']:.1f} mm{weak}"
    )


def _draw(path: Path, volume: Volume, world_mm: tuple[float, ...]) -> None:
    """A picture of the planes through the point, which is a small ball."""
    from medssl.imaging.writers.overlay import write_overlay

    geometry = volume.geometry
    axes = [np.arange(n, dtype=np.float64) for n in (*geometry.shape, 1)[:3]]
    squared = np.zeros(tuple(len(axis) for axis in axes), dtype=np.float32)
    for world, row in enumerate(geometry.affine[:3]):
        along = [factor * axis for factor, axis in zip(row[:3], axes, strict=True)]
        squared += (along[0][:, None, None] + along[1][:, None] + along[2] + row[3] - world_mm[world]) ** 2
    radius = max(_DOT_MM, *geometry.spacing_mm)
    ball = (squared <= max(radius**2, squared.min())).reshape(geometry.shape).astype(np.uint8)
    write_overlay(volume, Volume(ball[None], geometry), (Label(1, "point"),), path)
