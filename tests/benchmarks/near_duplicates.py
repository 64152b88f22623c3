"""The near-duplicate search of `docs/curation.md`: `python tests/benchmarks/near_duplicates.py [FOLDER_OF_CT]`.

100 000 hashes and embeddings made like those of slices: volumes of 100, of 40 kinds, a slice differing little from
the one before. Each way keeps the same images; `--oracle` runs the
plain rule as well, minutes. With a folder of CT volumes: slices read,
hashed and searched by what `medssl curate --slices 2` calls.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from slow_likeness import by_cosine

from medssl.commands.benchmarks.data import ct_volume
from medssl.commands.curate_images import look, taken_apart
from medssl.data.curate import exemplars
from medssl.data.curate_options import QualityOptions
from medssl.data.likeness import by_bits
from medssl.data.near_duplicates import CosineSearch, HashSearch, distinct
from medssl.imaging.geometry import Geometry
from medssl.imaging.manifest import Manifest, Row
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti

_SLICES, _KINDS, _WIDTH = 100, 40, 512


def hashes_of_slices(count: int, rng: np.random.Generator) -> np.ndarray:
    """Of each kind a hash, of each volume that with 8 bits turned, of each slice the one before but for 1.5 bits."""
    kinds = rng.integers(0, 2, (_KINDS, 64), dtype=np.uint8)
    volumes = kinds[rng.integers(0, _KINDS, count // _SLICES)] ^ (rng.random((count // _SLICES, 64)) < 8 / 64)
    steps = rng.random((count // _SLICES, _SLICES, 64)) < 1.5 / 64
    return np.packbits(
        np.bitwise_xor.accumulate(steps, axis=1).reshape(-1, 64) ^ np.repeat(volumes, _SLICES, 0), axis=1
    )


def embeddings_of_slices(count: int, rng: np.random.Generator) -> np.ndarray:
    """The same as vectors: walks around the centre of each volume's kind."""
    volumes = rng.normal(size=(_KINDS, _WIDTH))[rng.integers(0, _KINDS, count // _SLICES)]
    volumes += 0.3 * rng.normal(size=volumes.shape)
    walks = np.cumsum(0.06 * rng.normal(size=(count // _SLICES, _SLICES, _WIDTH)), axis=1)
    return (volumes[:, None] + walks).reshape(-1, _WIDTH).astype(np.float32)


def blocked(hashes: np.ndarray, most: int, block: int = 256) -> tuple[list[int], None]:
    """Images kept by the same rule in plain numpy, a block of images against all that are kept."""
    codes, kept = hashes.view(np.uint64).ravel(), np.empty(0, np.uint64)
    numbers: list[int] = []
    for first in range(0, len(codes), block):
        own = codes[first : first + block]
        fresh = np.flatnonzero(~(np.bitwise_count(own[:, None] ^ kept) <= most).any(1))
        near = np.bitwise_count(own[fresh][:, None] ^ own[fresh]) <= most
        left = np.ones(len(fresh), bool)
        for n in range(len(fresh)):
            if left[n]:
                left[n + 1 :] &= ~near[n, n + 1 :]
        numbers += (first + fresh[left]).tolist()
        kept = np.concatenate([kept, own[fresh[left]]])
    return numbers, None


def timed(name: str, run: Callable[[], tuple[list[Any], Any]]) -> tuple[list[Any], Any]:
    """Run, and say how long it took, how many are kept, and the largest memory so far."""
    wall, processor = time.perf_counter(), time.process_time()
    found = run()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(
        f"{name}: {wall:.1f} s ({processor:.1f} s of processors), {len(found[0])} kept, peak {peak:.0f} MiB\n"
    )
    sys.stdout.flush()
    return found


def main() -> None:
    rng = np.random.default_rng(0)
    hashes, everything = hashes_of_slices(100_000, rng), ["all"] * 100_000
    within = [f"v{n // _SLICES}" for n in range(len(hashes))]
    search = HashSearch(hashes, 6)
    found = timed("100 000 hashes, one set, faiss", partial(distinct, search, everything))
    plain = timed("100 000 hashes, one set, blocked numpy", partial(blocked, hashes, 6))
    timed("100 000 hashes, within volumes, faiss", partial(distinct, search, within))
    vectors = embeddings_of_slices(100_000, rng)
    timed("100 000 embeddings of 512, one set, faiss", partial(distinct, CosineSearch(vectors, 0.98), everything))
    same = [found[0] == plain[0]]
    if "--oracle" in sys.argv:
        slow = timed(
            "100 000 hashes, one set, plain rule", partial(exemplars, lambda own: by_bits(hashes[own]), everything, -6)
        )
        part, names = vectors[:5000], everything[:5000]
        others = timed("5000 embeddings, plain rule", partial(exemplars, lambda own: by_cosine(part[own]), names, 0.98))
        fast = timed("5000 embeddings, faiss", partial(distinct, CosineSearch(part, 0.98), names))
        same += [slow == found, others[0] == fast[0]]
    sys.stdout.write(f"all keep the same images: {all(same)}\n")
    for folder in [Path(name) for name in sys.argv[1:] if not name.startswith("--")]:
        hash_ct(folder)


def hash_ct(folder: Path) -> None:
    """Read, hash and search the slices of real CT: as it is, and a volume enlarged to 512x512x300."""
    shared = {path.stem.partition(".")[0]: path for path in sorted((folder / "images").iterdir())}
    with tempfile.TemporaryDirectory() as temporary:
        large = Path(temporary) / "large.nii.gz"
        array = ct_volume(folder, (512, 512, 300), 0)[None]
        write_nifti(Volume(array, Geometry(np.diag([0.8, 0.8, 1.0, 1.0]), array.shape[1:])), large)
        for name, rows in (
            ("real", [Row(case, case, str(path)) for case, path in shared.items()]),
            ("512x512", [Row("large", "large", str(large))]),
        ):
            images, _ = taken_apart(Manifest.from_rows(rows, folder), 2)
            read = partial(look, images, QualityOptions(), "dhash")
            codes = np.stack(
                [image.code[0] for image in timed(f"{len(images)} {name} CT slices read and hashed", read)[0]]
            )
            search = HashSearch(codes, 6)
            timed("and searched", partial(distinct, search, ["all"] * len(codes)))


if __name__ == "__main__":
    main()
