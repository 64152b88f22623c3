"""The table of cache layouts in `docs/decisions.md`: `python tests/benchmarks/cache_layouts.py [FOLDER_OF_CT]`.

Random 96^3 crops of one 512x512x300 CT, one thread, the layouts in turns. Cold: the file's pages are dropped before
each crop and the array is opened anew.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import blosc2
import numpy as np
import numpy.typing as npt

from medssl.commands.benchmarks.comparison import median_seconds
from medssl.commands.benchmarks.data import ct_volume

_CROP, _ROUNDS, _COLD_ROUNDS = 96, 30, 7


@dataclass(frozen=True)
class Layout:
    """One way to store a volume; `block` 0 is a plain memory map."""

    name: str
    kind: str
    codec: blosc2.Codec = blosc2.Codec.LZ4
    level: int = 5
    block: int = 16
    chunk: int = 64
    filter: blosc2.Filter = blosc2.Filter.SHUFFLE


_LAYOUTS = (
    Layout("float32, zstd-8, blocks 16^3 (what nnU-Net's rule gives)", "float32", blosc2.Codec.ZSTD, 8),
    Layout("int16, LZ4-5, 16^3 in 64^3", "int16"),
    Layout("int16, LZ4-5, 32^3 in 64^3", "int16", block=32),
    Layout("int16, LZ4-5, 24^3 in 96^3", "int16", block=24, chunk=96),
    Layout("int16, LZ4-5, bit shuffle, 16^3 in 64^3", "int16", filter=blosc2.Filter.BITSHUFFLE),
    Layout("int16, zstd-1, 32^3 in 64^3", "int16", blosc2.Codec.ZSTD, 1, block=32),
    Layout("int16, not compressed, 32^3 in 64^3", "int16", level=0, block=32),
    Layout("int16, plain memory map", "int16", block=0),
    Layout("float16, window of -160 to 240 HU, LZ4-5, 16^3 in 64^3", "window"),
    Layout("float16, window, LZ4-5, 32^3 in 64^3", "window", block=32),
    Layout("float16, z-score, LZ4-5, 16^3 in 64^3", "zscore"),
    Layout("float16, z-score, LZ4-5, 32^3 in 64^3", "zscore", block=32),
    Layout("float16, z-score, zstd-1, 32^3 in 64^3", "zscore", blosc2.Codec.ZSTD, 1, block=32),
)


def _as(kind: str, volume: npt.NDArray[np.int16]) -> npt.NDArray[np.generic]:
    if kind == "window":
        return ((np.clip(volume, -160, 240) + 160) / 400).astype(np.float16)
    if kind == "zscore":
        return ((volume - volume.mean()) / volume.std()).astype(np.float16)
    return volume.astype(kind)


def _write(layout: Layout, volume: npt.NDArray[np.int16], path: Path) -> None:
    array = _as(layout.kind, volume)
    if not layout.block:
        np.save(path, array)
        return
    blosc2.asarray(
        array,
        urlpath=str(path),
        chunks=(layout.chunk,) * 3,
        blocks=(layout.block,) * 3,
        cparams={"codec": layout.codec, "clevel": layout.level, "filters": [layout.filter], "nthreads": 1},
    )


def _open(layout: Layout, path: Path) -> npt.NDArray[np.generic]:
    if not layout.block:
        return np.load(path, mmap_mode="r")
    return blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})


def _crop(array: npt.NDArray[np.generic], rng: np.random.Generator) -> npt.NDArray[np.generic]:
    x, y, z = (int(rng.integers(n - _CROP + 1)) for n in array.shape)
    return np.array(array[x : x + _CROP, y : y + _CROP, z : z + _CROP])


def _cold(layout: Layout, path: Path, rng: np.random.Generator) -> float:
    times = []
    for _ in range(_COLD_ROUNDS):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        _crop(_open(layout, path), rng)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main(folder: Path | None) -> None:
    """Measure all layouts and print the table."""
    volume, rng = ct_volume(folder, (512, 512, 300), 0), np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="medssl-bench-") as name:
        paths = {layout: Path(name) / f"{n}{'.b2nd' if layout.block else '.npy'}" for n, layout in enumerate(_LAYOUTS)}
        for layout, path in paths.items():
            _write(layout, volume, path)
        os.sync()
        programs: dict[str, Callable[[], object]] = {
            layout.name: partial(_crop, _open(layout, path), rng) for layout, path in paths.items()
        }
        warm = median_seconds(programs, _ROUNDS)
        first = warm[_LAYOUTS[0].name]
        sys.stdout.write(
            "| stored as | disk, MiB | compression | warm, ms | faster | cold, ms |\n|---|---|---|---|---|---|\n"
        )
        for layout, path in paths.items():
            size, raw, seconds = (
                path.stat().st_size,
                _as(layout.kind, volume[:1]).itemsize * volume.size,
                warm[layout.name],
            )
            sys.stdout.write(
                f"| {layout.name} | {size >> 20} | {raw / size:.2f} | {1000 * seconds:.1f} | {first / seconds:.1f} | "
                f"{1000 * _cold(layout, path, rng):.0f} |\n"
            )


if __name__ == "__main__":
    blosc2.set_nthreads(1)
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
