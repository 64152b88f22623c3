"""What it costs to check the cache: `python tests/benchmarks/cache_checksums.py [FOLDER_OF_CT]`.

One 512x512x300 CT as int16 in the layout of the cache, pages in memory, one thread: hashes of the whole file beside the
chunks that a 96^3 crop touches, in turns.
"""

import sys
import tempfile
import zlib
from pathlib import Path

import blosc2
import numpy as np

from medssl.commands.benchmarks.comparison import median_seconds
from medssl.commands.benchmarks.data import ct_volume
from medssl.data.checksums import ChunkChecks, checksums_of, open_array
from medssl.imaging.files import sha256, write_json

_CROP, _ROUNDS = 96, 15


def main(folder: Path | None) -> None:
    """Measure and print a line each."""
    volume, rng = ct_volume(folder, (512, 512, 300), 0), np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="medssl-bench-") as name:
        path = Path(name) / "image.b2nd"
        written = blosc2.asarray(
            volume, urlpath=str(path), chunks=(64,) * 3, blocks=(16,) * 3,
            cparams={"codec": blosc2.Codec.LZ4, "clevel": 5, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1},
        )  # fmt: skip
        write_json(Path(name) / "case.json", {"extra": {"checksums": {path.name: checksums_of(written)}}})
        array = open_array(path)

        def place() -> tuple[slice, ...]:
            return tuple(slice(first, first + _CROP) for first in (int(rng.integers(n - _CROP)) for n in volume.shape))

        seconds = median_seconds(
            {
                "whole file, CRC-32": lambda: zlib.crc32(path.read_bytes()),
                "whole file, SHA-256": lambda: sha256(path),
                "all chunks of a case, once": lambda: ChunkChecks().check(path, array, ...),
                "a crop of 96^3, read": lambda: np.asarray(array[place()]),
                "a crop of 96^3, its chunks checked for the first time": lambda: ChunkChecks().check(
                    path, array, place()
                ),
            },
            _ROUNDS,
        )
        sys.stdout.write(f"{path.stat().st_size / 2**20:.0f} MiB on the disk\n")
        sys.stdout.writelines(f"{what}: {1000 * took:.1f} ms\n" for what, took in seconds.items())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
