"""`medssl bench data`: random crops from CT caches beside MONAI's and nnssl's ways of storing them."""

import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medssl.commands.benchmarks.comparison import Comparison, median_seconds
from medssl.commands.console import say
from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti

_Array = npt.NDArray[np.int16]
_NOISE_HU = 28.0
"""Standard deviation in even tissue, measured in 1.25 mm slices of a real body CT (25 to 31 HU, standard kernel)."""


def run(
    folder: Path | None = None, shape: tuple[int, int, int] = (512, 512, 300), crop: int = 96, rounds: int = 30
) -> list[Comparison]:
    """Random crops a second, one thread, page cache warm; two volumes, in turns, ratio of medians.

    Args:
        folder: Folder with CT volumes in NIfTI to enlarge; generated ones when None.
        shape: Size of the volumes.
        crop: Side of a crop.
        rounds: Crops timed on each side.
    """
    work = Path(tempfile.mkdtemp(prefix="medssl-bench-"))
    try:
        volumes = [ct_volume(folder, shape, number) for number in range(2)]
        ours, ours_size = _ours(work, volumes, crop)
        nnssl, nnssl_size = _nnssl(work, volumes, crop)
        monai, monai_size = _monai(work, volumes, crop)
        raw = sum(v.nbytes for v in volumes)
        say(
            f"disk for {raw >> 20} MiB of int16 CT: medssl {ours_size >> 20} MiB (compression {raw / ours_size:.2f}), "
            f"float32 zstd-8 {nnssl_size >> 20} MiB, MONAI {monai_size >> 20} MiB"
        )
        fast = median_seconds({"ours": ours, "nnssl": nnssl}, rounds)
        slow = median_seconds({"ours": ours, "monai": monai}, max(3, rounds // 10), warmup=1)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    name = f"random {crop}^3 crop of a {'x'.join(map(str, shape))} CT"
    return [
        Comparison(
            name, "crops/s", 1 / slow["ours"], 1 / slow["monai"],
            f"MONAI {version('monai')} PersistentDataset + RandSpatialCrop", slow["monai"] / slow["ours"],
        ),
        Comparison(
            name, "crops/s", 1 / fast["ours"], 1 / fast["nnssl"], "blosc2 float32 zstd-8, as nnssl stores it",
            fast["nnssl"] / fast["ours"],
        ),
        Comparison(
            f"disk of {name}", "MiB", ours_size / 2**20, nnssl_size / 2**20, "blosc2 float32 zstd-8",
            nnssl_size / ours_size,
        ),
    ]  # fmt: skip


def ct_volume(folder: Path | None, shape: tuple[int, int, int], number: int) -> _Array:
    """A CT of the size: a real one enlarged, or smooth blobs, with the noise of a scanner on top.

    Shared CT is often not calibrated, so the real one is scaled to HU by its air (-1000) and its tissue (40).
    """
    from scipy import ndimage

    from medssl.imaging.readers.open import read_volume

    rng = np.random.default_rng(number)
    files = sorted(folder.rglob("*.nii*")) if folder else []
    images = [file for file in files if "label" not in file.relative_to(folder or file).as_posix().lower()]
    if images:
        small = read_volume(images[number % len(images)]).array[0].astype(np.float32)
        air, tissue = np.percentile(small, [1, 75])
        small = (small - air) / (tissue - air) * 1040 - 1000
    else:
        small = ndimage.gaussian_filter(rng.normal(size=(64, 64, 40)), 4).astype(np.float32) * 8000
    large = ndimage.zoom(small, [n / m for n, m in zip(shape, small.shape, strict=True)], order=1)
    large += rng.normal(0, _NOISE_HU, size=large.shape).astype(np.float32)
    volume: _Array = np.clip(np.rint(large), -1024, 3071).astype(np.int16)
    return volume


def _start(rng: np.random.Generator, shape: tuple[int, ...], crop: int) -> tuple[int, ...]:
    return tuple(int(rng.integers(n - crop + 1)) for n in shape)


def _disk(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _ours(work: Path, volumes: list[_Array], crop: int) -> tuple[Callable[[], object], int]:
    from medssl.data.cache import Cache, CachedCase, write_case
    from medssl.imaging.files import write_json
    from medssl.imaging.preprocess import Intensity, Preprocess, Restoration

    path = work / "ours"
    for number, volume in enumerate(volumes):
        grid = Geometry(np.eye(4), volume.shape)
        case = CachedCase(
            f"c{number}", f"p{number}", "train", "CT", "", "", "", "", volume.shape, grid.spacing_mm, False, "", "",
            Restoration(grid, grid),
        )  # fmt: skip
        write_case(path, case, volume[None].astype(np.float32), None, {})
    content = {
        "schema_version": 1,
        "preprocess": Preprocess(intensity=Intensity("none")).to_json(),
        "channels": ["CT"],
        "cases": [f"c{n}" for n in range(len(volumes))],
    }
    write_json(path / "cache.json", content)
    cache, rng = Cache.open(path), np.random.default_rng(0)

    def draw() -> object:
        case = cache.cases[int(rng.integers(len(cache.cases)))]
        return cache.crop_image(case, _start(rng, case.shape, crop), (crop,) * 3)

    return draw, _disk(path)


def _nnssl(work: Path, volumes: list[_Array], crop: int) -> tuple[Callable[[], object], int]:
    import blosc2

    path = work / "nnssl"
    path.mkdir()
    for number, volume in enumerate(volumes):
        blosc2.asarray(
            volume[None].astype(np.float32),
            urlpath=str(path / f"{number}.b2nd"),
            chunks=(1, 64, 64, 64),
            blocks=(1, 16, 16, 16),  # what nnU-Net's rule gives for patches of 96^3 and the caches of a CPU
            cparams={"codec": blosc2.Codec.ZSTD, "clevel": 8},
        )
    rng = np.random.default_rng(0)

    def draw() -> object:
        number = int(rng.integers(len(volumes)))
        array = blosc2.open(str(path / f"{number}.b2nd"), mode="r", mmap_mode="r", dparams={"nthreads": 1})
        x, y, z = _start(rng, volumes[number].shape, crop)
        return array[:, x : x + crop, y : y + crop, z : z + crop]

    return draw, _disk(path)


def _monai(work: Path, volumes: list[_Array], crop: int) -> tuple[Callable[[], object], int]:
    import torch
    from monai.data.dataset import PersistentDataset
    from monai.transforms.compose import Compose
    from monai.transforms.croppad.dictionary import RandSpatialCropd
    from monai.transforms.io.dictionary import LoadImaged
    from monai.transforms.utility.dictionary import EnsureChannelFirstd

    path = work / "monai"
    path.mkdir()
    for number, volume in enumerate(volumes):
        write_nifti(Volume(volume[None], Geometry(np.eye(4), volume.shape)), path / f"{number}.nii")
    cropped = RandSpatialCropd("image", (crop,) * 3, random_size=False)
    transform = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), cropped])
    items = [{"image": str(path / f"{number}.nii")} for number in range(len(volumes))]
    dataset = PersistentDataset(items, transform, cache_dir=work / "monai_cache")
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    return lambda: dataset[int(rng.integers(len(items)))], _disk_after(dataset, work / "monai_cache")


def _disk_after(dataset: object, path: Path) -> int:
    for number in range(2):
        dataset[number]  # type: ignore[index]  # the first look writes the cache
    return _disk(path)
