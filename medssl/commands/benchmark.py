"""Compare self-supervised methods: frozen features against the same encoders with random weights."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from medssl.commands.console import say
from medssl.commands.parsing import read_options, resolve_folder, run_verb
from medssl.evaluation.benchmark_plan import BenchmarkPlan, MethodPlan, SetPlan, merged
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.imaging.files import write_json, write_text
from medssl.imaging.manifest import Manifest, Row

if TYPE_CHECKING:
    from medssl.evaluation.benchmark_table import Judged
    from medssl.evaluation.probe_data import ProbeData
    from medssl.models.component import Component

POSITIONAL: tuple[str, ...] = ("plan",)


def benchmark(
    plan: Path, data: Path, out: Path, methods: tuple[str, ...] = (), sets: tuple[str, ...] = (), seeds: int = 0
) -> None:
    """Pretrain every method of a plan on every set and seed, probe the frozen encoders, and write OUT/table.md.

    Each encoder is judged beside one of the same architecture with random weights, by the same probes with the same
    grids, chosen on split val. Run it again to resume: what is finished is kept. A run that fails is told in the table.

    Args:
        plan: YAML file of the comparison, or the name of a built-in one, for instance `methods_small`.
        data: Folder of the images that the plan names.
        out: Folder of the comparison: caches, runs, results.json, results.csv, table.md.
        methods: Only these, out of the plan.
        sets: Only these, out of the plan.
        seeds: Only so many; 0 = as the plan says.

    Raises:
        ConfigError: Every mistake in the plan, before anything is run.
    """
    wanted = read_options(BenchmarkPlan, resolve_folder("configs", plan))
    _check(wanted, data, methods, sets, seeds)
    rows: list[Judged] = []
    for images in (entry for entry in wanted.sets if not sets or entry.name in sets):
        probed = _Probed(images, data, out)
        for method in (entry for entry in wanted.methods if not methods or entry.name in methods):
            for seed in range(seeds or wanted.seeds):
                rows.append(probed.judged(method, wanted.changes(method, images), seed))
                _write(out, rows)
    say(f"benchmark: {out / 'table.md'}, {out / 'results.json'}")


def _check(plan: BenchmarkPlan, data: Path, methods: tuple[str, ...], sets: tuple[str, ...], seeds: int) -> None:
    problems = [f"data {data} does not exist"] if not data.is_dir() else []
    problems += [f"seeds must be 0 (as the plan says) or more, got {seeds}"] if seeds < 0 else []
    for option, asked, entries in (("methods", methods, plan.methods), ("sets", sets, plan.sets)):
        known = [entry.name for entry in entries]
        problems += [f"{option} {name!r} is not in the plan: {known}" for name in asked if name not in known]
    for method in plan.methods:
        for images in plan.sets:
            try:
                _config(method, images)
            except ConfigError as error:
                problems += [f"methods: {method.name}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def _config(method: MethodPlan, images: SetPlan) -> Path:
    return resolve_folder("configs", Path(f"{method.config}{len(images.size)}d"))


class _Probed:
    """A set, prepared, with what random encoders reach on it."""

    def __init__(self, images: SetPlan, data: Path, out: Path) -> None:
        from medssl.data.cache import Cache
        from medssl.evaluation.probe_data import draw_labelled, read_probe_data

        self._images, self._out = images, out
        folder = out / "sets" / images.name
        _manifest(images, data).write(folder / "manifest.csv")
        options = dict(images.prepare.options)
        start = ["--config", str(resolve_folder("configs", Path(options.pop("config"))))] if "config" in options else []
        write_text(folder / "prepare.yaml", yaml.safe_dump(options))
        arguments = [str(folder / "manifest.csv"), "--out", str(folder / "cache"), *start]
        run_verb("prepare", [*arguments, "--config", str(folder / "prepare.yaml")])
        self._cache: Cache = Cache.open(folder / "cache")
        self._data: ProbeData = read_probe_data(self._cache, images.size, images.target, images.crops)
        self._draws = draw_labelled(self._data, images.labels_used, images.draws)

    def judged(self, method: MethodPlan, changes: dict[str, Any], seed: int) -> "Judged":
        """Pretrain and probe, unless it was done already."""
        from medssl.evaluation.benchmark_table import Judged
        from medssl.evaluation.frozen import pretrained_encoder
        from medssl.models.component import Component
        from medssl.models.weights import read_encoder

        folder = self._out / "runs" / self._images.name / method.name / f"seed{seed}"
        about = (self._images.name, method.name, method.family)
        try:
            self._pretrain(method, changes, seed, folder)
        except MedsslError as error:
            say(f"benchmark: {method.name} failed: {error.message}")
            return Judged(*about, "", seed, {}, {}, 0.0, error.message)
        path = folder / "encoder.safetensors"
        meta = read_encoder(path)[1]
        component = Component.from_json(meta["encoder"])
        dims, channels = self._cache.spatial_dims, self._cache.channels
        found = self._once(folder / "probes.json", lambda: pretrained_encoder(path, dims, channels))
        hours = float(meta["provenance"]["device_hours"])
        name = component.class_path.rpartition(".")[2]
        return Judged(*about, name, seed, found, self._random(component, seed), hours)

    def _pretrain(self, method: MethodPlan, changes: dict[str, Any], seed: int, folder: Path) -> None:
        if (folder / "encoder.safetensors").is_file():
            return
        options = merged(yaml.safe_load(_config(method, self._images).read_text(encoding="utf-8")), changes)
        options["train"] = {**options.get("train", {}), "seed": seed}
        write_text(folder.parent / f"seed{seed}.yaml", yaml.safe_dump(options))
        say(f"benchmark: {self._images.name}, {method.name}, seed {seed}")
        arguments = ["--config", str(folder.parent / f"seed{seed}.yaml"), "--data", str(self._cache.path)]
        resume = ["--resume"] if (folder / "run.json").is_file() else []
        run_verb("pretrain", [*arguments, "--out", str(folder), *resume])

    def _random(self, component: "Component", seed: int) -> dict[str, float]:
        from hashlib import sha256

        from medssl.evaluation.frozen import random_encoder

        dims, channels = self._cache.spatial_dims, self._cache.channels
        key = sha256(json.dumps(component.to_json(), sort_keys=True).encode()).hexdigest()[:12]
        path = self._out / "random" / self._images.name / f"{key}_seed{seed}.json"
        return self._once(path, lambda: random_encoder(component, dims, channels, seed))

    def _once(self, path: Path, make: Callable[[], Any]) -> dict[str, float]:
        """AUROC on split test of each probe, from the file or measured and written to it."""
        from medssl.evaluation.frozen import judge

        if not path.is_file():
            write_json(path, judge(make(), self._data, self._draws))
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: float(entry["test"]) for name, entry in content.items()}


def _manifest(images: SetPlan, data: Path) -> Manifest:
    """The manifest of a set, from its table or from its folder."""
    folder = data / images.images
    if not images.table:
        rows = [{"image": path.name} for path in sorted(folder.iterdir()) if path.is_file()]
    else:
        with (data / images.table).open(newline="", encoding="utf-8-sig") as stream:
            table = list(csv.DictReader(stream))
        asked = {*images.columns.values(), *images.exclude}
        if missing := sorted(asked - set(table[0] if table else ())):
            raise ConfigError(
                [f"sets: {images.name}: {data / images.table} has no column {name!r}" for name in missing]
            )
        table = [row for row in table if _kept(row, images)]
        rows = [{name: row[column] for name, column in images.columns.items()} for row in table]
    return Manifest.from_rows([_row(row, images, data) for row in rows], root=data)


def _kept(row: dict[str, str], images: SetPlan) -> bool:
    return not any(row[column] == value for column, value in images.exclude.items())


def _row(row: dict[str, str], images: SetPlan, data: Path) -> Row:
    name = row["image"] + images.suffix
    case = name.split(".")[0]
    label = data / images.labels / name if images.labels else None
    return Row(
        case=case,
        patient=row.get("patient") or case,
        image=str((data / images.images / name).resolve()),
        label=str(label.resolve()) if label is not None and label.is_file() else "",
        class_name=row.get("class", ""),
        split=row.get("split", ""),
    )


def _write(out: Path, rows: "list[Judged]") -> None:
    import dataclasses
    import io

    from medssl.evaluation.benchmark_table import compare, markdown

    comparisons = compare(rows)
    runs = [dataclasses.asdict(row) for row in rows]
    write_json(out / "results.json", {"comparisons": [c.to_json() for c in comparisons], "runs": runs})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["set", "method", "family", "encoder", "seed", "probe", "auroc", "auroc_random", "failed"])
    for row in rows:
        about = [row.images, row.method, row.family, row.encoder, row.seed]
        writer.writerows([*about, name, value, row.random[name], ""] for name, value in row.probes.items())
        writer.writerows([[*about, "", "", "", row.failed]] if row.failed else [])
    write_text(out / "results.csv", buffer.getvalue())
    write_text(out / "table.md", markdown(comparisons))
