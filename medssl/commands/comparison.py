"""The runs of a comparison: a method pretrained on a set or on two, its frozen encoders probed."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medssl.commands.comparison_sets import cache_of
from medssl.commands.finished import is_finished, refuse_unfinished
from medssl.commands.keys import files_named, key_of
from medssl.commands.parsing import read_yaml, run_verb
from medssl.commands.probing import auroc_of_probes
from medssl.commands.side_by_side import side_by_side
from medssl.evaluation.benchmark_plan import BenchmarkPlan, MethodPlan, SetPlan, merged
from medssl.imaging.errors import message_of
from medssl.imaging.files import write_text

if TYPE_CHECKING:
    from medssl.evaluation.benchmark_table import Judged
    from medssl.models.encoder import Encoder


@dataclass(frozen=True)
class Run:
    """A pretraining and what is judged by it.

    Args:
        out: Folder of the comparison.
        method: What is run.
        sets: Where it learns and is judged: one set, or one of 2D and one of 3D images for a mixed method.
        options: Options of `medssl pretrain`.
        seed: Its seed.
    """

    out: Path
    method: MethodPlan
    sets: tuple[SetPlan, ...]
    options: dict[str, Any]
    seed: int

    @cached_property
    def pretraining(self) -> dict[str, Any]:
        """Options of `medssl pretrain`: its configuration with the plan's changes and the seed."""
        options = with_config({"config": self.method.config_for(self.sets[0]), **self.options})
        return {**options, "train": {**options.get("train", {}), "seed": self.seed}}

    @property
    def config(self) -> str:
        """The same as YAML."""
        return yaml.safe_dump(self.pretraining)

    @cached_property
    def key(self) -> str:
        """Of all that decides the result; with another plan the run is another one, in a folder of its own."""
        files = files_named([self.pretraining, *[images.prepare.options for images in self.sets]])
        return key_of([self.config, *[asdict(images) for images in self.sets], *files])

    @property
    def folder(self) -> Path:
        """Run folder."""
        sets = "+".join(s.name for s in self.sets)
        return self.out / "runs" / sets / self.method.name / f"seed{self.seed}-{self.key}"

    @property
    def about(self) -> str:
        """What it is, in words."""
        return f"{' and '.join(s.name for s in self.sets)}, {self.method.name}, seed {self.seed}"

    def cache(self, images: SetPlan) -> Path:
        """The prepared set."""
        return cache_of(images, self.out)

    def encoder(self, images: SetPlan) -> Path:
        """Encoder file for a set."""
        name = f"encoder_{len(images.size)}d" if self.method.mixed else "encoder"
        return self.folder / f"{name}.safetensors"

    def probes(self, images: SetPlan) -> Path:
        """What the probes found on a set."""
        path = self.encoder(images)
        return path.with_name(f"{path.stem.replace('encoder', 'probes')}.json")

    @property
    def cut_off(self) -> bool:
        """Whether its folder holds weights from before the last step: what was found with them is no result."""
        return any(path.is_file() and not is_finished(path) for path in map(self.encoder, self.sets))


def runs_of(plan: BenchmarkPlan, out: Path, methods: Sequence[str], sets: Sequence[str], seeds: int) -> list[Run]:
    """Every run that is asked for, seed by seed, so that a comparison that is stopped has something of all methods."""
    return [
        Run(out, method, group, plan.changes(method, group[0]), seed)
        for seed in range(seeds or plan.seeds)
        for method in plan.methods
        if not methods or method.name in methods
        for group in plan.groups(method, sets)
    ]


def joint_embedding(runs: Sequence[Run]) -> set[str]:
    """Names of the methods that nearest neighbours must show to learn, beside a trained probe: by their cards.

    Raises:
        ConfigError: A method that cannot be imported.
    """
    from medssl.models.component import resolve

    paths = {run.method.name: (run.pretraining.get("method") or {}).get("class_path") for run in runs}
    kinds = {name: resolve(path) for name, path in paths.items() if path}  # pretrain says what else is wrong
    return {name for name, kind in kinds.items() if hasattr(kind, "card") and kind.card.joint_embedding}


def judged(runs: Sequence[Run], jobs: int, device: str) -> "Iterator[tuple[Run, list[Judged]]]":
    """Results as they come; a pretraining or a probe that is finished is kept.

    Args:
        runs: What is run.
        jobs: Runs at a time.
        device: Where the frozen encoders compute.
    """
    logs = [run.folder.with_name(f"{run.folder.name}.log") for run in runs]
    return side_by_side(partial(_judge, device=device), runs, logs, jobs)


def with_config(options: dict[str, Any]) -> dict[str, Any]:
    """Options over those of the configuration that `config` names, where it names one."""
    given = dict(options)
    if "config" not in given:
        return given
    return merged(read_yaml(str(given.pop("config"))), given)


def _judge(run: Run, device: str) -> "list[Judged]":
    """Pretrain and probe, unless it was done already: one result a set."""
    from medssl.evaluation.benchmark_table import Judged

    try:
        _pretrain(run)
        return [_probe(run, images, device) for images in run.sets]
    except Exception as error:  # of memory, of the disk, of a method: whatever it is, the others can still be compared
        method, failed = run.method, message_of(error)
        return [Judged(s.name, method.name, method.family, {}, run.seed, run.key, {}, 0.0, failed) for s in run.sets]


def _pretrain(run: Run) -> None:
    if all(is_finished(run.encoder(images)) for images in run.sets):
        return
    for images in run.sets:
        run.probes(images).unlink(missing_ok=True)  # of weights from before the last step
    config = run.folder.with_name(f"{run.folder.name}.yaml")
    write_text(config, run.config)
    first, *second = (str(run.cache(images)) for images in run.sets)
    arguments = ["--config", str(config), "--data", first, *[word for s in second for word in ("--also.data", s)]]
    resume = ["--resume"] if (run.folder / "run.json").is_file() else []
    run_verb("pretrain", [*arguments, "--out", str(run.folder), *resume])
    for images in run.sets:
        refuse_unfinished(run.encoder(images), run.about)


def _probe(run: Run, images: SetPlan, device: str) -> "Judged":
    from medssl.data.cache import Cache
    from medssl.evaluation.benchmark_table import Judged
    from medssl.evaluation.frozen import pretrained_encoder
    from medssl.models.weights import read_encoder

    cache, path = Cache.open(run.cache(images)), run.encoder(images)
    meta = read_encoder(path)[1]

    def encoder() -> "Encoder":
        return pretrained_encoder(path, cache.spatial_dims, cache.channels).to(device)

    test, val = auroc_of_probes(run.probes(images), cache.path, images, encoder)
    method, hours = run.method, float(meta["provenance"]["device_hours"])
    return Judged(images.name, method.name, method.family, meta["encoder"], run.seed, run.key, test, hours, val=val)
