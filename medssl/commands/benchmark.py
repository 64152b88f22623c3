"""Compare self-supervised methods: frozen features against the same encoders with random weights."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.commands.comparison import Run, judged, prepare_set, runs_of
from medssl.commands.console import say
from medssl.commands.parsing import read_options, resolve_folder
from medssl.evaluation.benchmark_plan import BenchmarkPlan
from medssl.imaging.errors import ConfigError
from medssl.imaging.files import write_json, write_text

if TYPE_CHECKING:
    from medssl.evaluation.benchmark_table import Judged

POSITIONAL: tuple[str, ...] = ("plan",)


def benchmark(
    plan: Path,
    data: Path,
    out: Path,
    methods: tuple[str, ...] = (),
    sets: tuple[str, ...] = (),
    seeds: int = 0,
    jobs: int = 1,
) -> None:
    """Pretrain every method of a plan on every set and seed, probe the frozen encoders, and write OUT/report.html.

    Each encoder is judged beside one of the same architecture with random weights, by the same probes with the same
    grids, chosen on split val. Run it again to resume: what OUT/results.json has of the plan is kept, what was changed
    in the plan is run anew. A run that fails is told in the table, and tried again the next time.

    Args:
        plan: YAML file of the comparison, or the name of a built-in one, for instance `methods_small`.
        data: Folder of the images that the plan names.
        out: Folder of the comparison: caches, runs, results.json, results.csv, table.md, report.html.
        methods: Only these, out of the plan.
        sets: Only these, out of the plan; methods that learn from 2D and 3D images in one run need one of each.
        seeds: Only so many; 0 = as the plan says.
        jobs: Runs at a time, each with its share of the processors; more than one tell what they do in seedN.log
            beside their folders. Small networks gain much from it.

    Raises:
        ConfigError: Every mistake in the plan, before anything is run.
    """
    from medssl.evaluation.report.benchmark import benchmark_sections
    from medssl.evaluation.report.page import write_report

    wanted = read_options(BenchmarkPlan, resolve_folder("configs", plan))
    _check(wanted, data, methods, sets, seeds, jobs)
    runs = runs_of(wanted, out, methods, sets, seeds)
    order = [s.name for s in wanted.all_sets], [m.name for m in wanted.methods]
    rows = _finished(out, runs_of(wanted, out, (), (), max(seeds, wanted.seeds)))
    finished = {row.key for row in rows}
    missing = [run for run in runs if run.key not in finished]
    say(f"benchmark: {len(runs)} runs, {len(runs) - len(missing)} of them finished already")
    for images in wanted.all_sets:
        if any(images in run.sets for run in missing):
            prepare_set(images, data, out)
    for number, (run, found) in enumerate(judged(missing, jobs), start=1):
        rows = sorted(
            [*rows, *found], key=lambda row: (order[0].index(row.images), order[1].index(row.method), row.seed)
        )
        failed = "".join(f": failed: {row.failed}" for row in found[:1] if row.failed)
        say(f"benchmark: {number} of {len(missing)}: {run.about}{failed}")
        _write(out, rows)
    results = _write(out, rows)
    about = f"Methods of {plan.name}, frozen features beside random weights."
    write_report(out, benchmark_sections(results), "Comparison of methods", about, results["environment"])
    say(f"benchmark: {out / 'report.html'}, {out / 'table.md'}, {out / 'results.json'}")


def _finished(out: Path, runs: "Sequence[Run]") -> "list[Judged]":
    """What an earlier call found of these runs."""
    from medssl.evaluation.benchmark_table import Judged

    path = out / "results.json"
    if not path.is_file():
        return []
    try:
        rows = [Judged(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))["runs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError([f"{path} is not a table of results; delete it or give another --out"]) from error
    keys = {run.key for run in runs}
    return [row for row in rows if row.key in keys and not row.failed]


def _check(
    plan: BenchmarkPlan, data: Path, methods: tuple[str, ...], sets: tuple[str, ...], seeds: int, jobs: int
) -> None:
    problems = [f"data {data} does not exist"] if not data.is_dir() else []
    problems += [f"seeds must be 0 (as the plan says) or more, got {seeds}"] if seeds < 0 else []
    problems += [f"jobs must be 1 or more, got {jobs}"] if jobs < 1 else []
    for option, asked, entries in (("methods", methods, plan.methods), ("sets", sets, plan.all_sets)):
        known = [entry.name for entry in entries]
        problems += [f"{option} {name!r} is not in the plan: {known}" for name in asked if name not in known]
    for method in plan.methods:
        for images in plan.sets:
            try:
                resolve_folder("configs", Path(method.config_for(images)))
            except ConfigError as error:
                problems += [f"methods: {method.name}: {problem}" for problem in error.problems]
    if not problems and not runs_of(plan, Path(), methods, sets, 1):
        problems.append("sets: the methods asked for learn from 2D and 3D images in one run: name a set of each")
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def _write(out: Path, rows: "list[Judged]") -> dict[str, Any]:
    import dataclasses
    import io

    from medssl.evaluation.benchmark_table import compare, markdown
    from medssl.evaluation.report.results import head

    comparisons = compare(rows)
    results = {
        **head("benchmark"),
        "comparisons": [c.to_json() for c in comparisons],
        "runs": [dataclasses.asdict(row) for row in rows],
    }
    write_json(out / "results.json", results)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["set", "method", "family", "encoder", "seed", "probe", "auroc", "auroc_random", "failed"])
    for row in rows:
        about = [row.images, row.method, row.family, row.encoder, row.seed]
        writer.writerows([*about, name, value, row.random[name], ""] for name, value in row.probes.items())
        writer.writerows([[*about, "", "", "", row.failed]] if row.failed else [])
    write_text(out / "results.csv", buffer.getvalue())
    write_text(out / "table.md", markdown(comparisons))
    return results
