"""What the encoders of a comparison are worth, frozen: pretrained ones, and the same with random weights."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.commands.keys import files_named, key_of
from medssl.commands.side_by_side import side_by_side
from medssl.evaluation.benchmark_plan import BenchmarkPlan, SetPlan
from medssl.imaging.files import write_json

if TYPE_CHECKING:
    from medssl.evaluation.benchmark_table import Judged, RandomWeights
    from medssl.models.encoder import Encoder


@dataclass(frozen=True)
class RandomRun:
    """An encoder with random weights that is judged on a set.

    Args:
        cache: The prepared set.
        images: What is asked of it.
        architecture: The encoder's class and arguments.
        seed: Seed of the weights.
    """

    cache: Path
    images: SetPlan
    architecture: dict[str, Any]
    seed: int

    @property
    def key(self) -> str:
        """Of the set and the architecture: what is measured once serves all methods that have it."""
        return key_of([self.architecture, asdict(self.images), *files_named(self.images.prepare.options)])

    @property
    def file(self) -> Path:
        """Where the result is kept."""
        return self.cache.with_name("random") / f"{key_of(self.architecture)}_seed{self.seed}.json"

    @property
    def about(self) -> str:
        """What it is, in words."""
        from medssl.evaluation.benchmark_table import encoder_name

        return f"{self.images.name}, {encoder_name(self.architecture)} with random weights, seed {self.seed}"


def random_runs(plan: BenchmarkPlan, caches: dict[str, Path], rows: "Sequence[Judged]") -> list[RandomRun]:
    """Random weights for every architecture and set in a table.

    Args:
        plan: The comparison.
        caches: Name of a set to the prepared set.
        rows: Results so far.
    """
    sets = {images.name: images for images in plan.all_sets}
    of_key = {
        run.key: run
        for row in rows
        if not row.failed
        for run in [RandomRun(caches[row.images], sets[row.images], row.architecture, 0)]
    }
    return [
        RandomRun(run.cache, run.images, run.architecture, seed)
        for seed in range(plan.random_seeds)
        for run in of_key.values()
    ]


def measured(runs: Sequence[RandomRun], jobs: int, device: str) -> "Iterator[tuple[RandomRun, RandomWeights]]":
    """Results as they come; the encoders compute on the device."""
    return side_by_side(partial(_measure, device=device), runs, [run.file.with_suffix(".log") for run in runs], jobs)


def auroc_of_probes(
    path: Path, cache: Path, images: SetPlan, make: "Callable[[], Encoder]"
) -> tuple[dict[str, float], dict[str, float]]:
    """AUROC of each probe on split test and on split val, from the file or measured and written to it.

    Args:
        path: File of the result.
        cache: The prepared set.
        images: What is asked of it.
        make: Gives the encoder.
    """
    from medssl.data.cache import Cache
    from medssl.evaluation.frozen import judge
    from medssl.evaluation.probe_data import draw_labelled, read_probe_data

    if not path.is_file():
        data = read_probe_data(Cache.open(cache), images.size, images.target, images.crops)
        draws = draw_labelled(data, images.labels_used, images.draws, option=f"labels_used of set {images.name}")
        write_json(path, judge(make(), data, draws))
    content = json.loads(path.read_text(encoding="utf-8"))
    test, val = ({name: float(entry[split]) for name, entry in content.items()} for split in ("test", "val"))
    return test, val


def _measure(run: RandomRun, device: str) -> "RandomWeights":
    from medssl.data.cache import Cache
    from medssl.evaluation.benchmark_table import RandomWeights
    from medssl.evaluation.frozen import random_encoder
    from medssl.models.component import Component

    cache, component = Cache.open(run.cache), Component.from_json(run.architecture)

    def encoder() -> "Encoder":
        return random_encoder(component, cache.spatial_dims, cache.channels, run.seed).to(device)

    test, val = auroc_of_probes(run.file, run.cache, run.images, encoder)
    return RandomWeights(run.images.name, run.architecture, run.seed, run.key, test, val)
