"""Compare self-supervised methods: frozen features against the same encoders with random weights."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.commands.comparison import Run, joint_embedding, judged, runs_of, with_config
from medssl.commands.comparison_sets import cache_of, not_measured, prepare_set, same_data
from medssl.commands.console import say
from medssl.commands.parsing import parse_options, read_options, resolve_folder
from medssl.commands.probing import RandomRun, measured, random_runs
from medssl.evaluation.benchmark_plan import BenchmarkPlan, SetPlan
from medssl.evaluation.options import Device
from medssl.imaging.errors import ConfigError
from medssl.imaging.files import csv_text, write_json, write_text

if TYPE_CHECKING:
    from medssl.evaluation.benchmark_table import Judged, RandomWeights

POSITIONAL: tuple[str, ...] = ("plan",)


def benchmark(
    plan: Path,
    data: Path,
    out: Path,
    methods: tuple[str, ...] = (),
    sets: tuple[str, ...] = (),
    seeds: int = 0,
    jobs: int = 1,
    device: Device = "auto",
) -> None:
    """Pretrain every method of a plan on every set and seed, probe the frozen encoders, and write OUT/report.html.

    Each encoder is judged beside several of the same architecture with random weights, by the same probes with the
    same grids, chosen on split val. Run it again to resume: what OUT/results.json has of the plan is kept, what was
    changed in the plan is run anew; results of other images are refused. A run that fails is told in the table, and
    tried again the next time.

    Args:
        plan: YAML file of the comparison, or the name of a built-in one, for instance `methods_small`.
        data: Folder of the images that the plan names.
        out: Folder of the comparison: caches, runs, results.json, results.csv, table.md, report.html.
        methods: Only these, out of the plan.
        sets: Only these, out of the plan; methods that learn from 2D and 3D images in one run need one of each.
        seeds: Only so many; 0 = as the plan says.
        jobs: Runs at a time, each with its share of the processors; more than one tell what they do in seedN.log
            beside their folders. Small networks gain much from it.
        device: Where the frozen encoders compute; `auto` takes a GPU where there is one. Pretrainings go by
            `train.accelerator`.

    Raises:
        ConfigError: Every mistake in the plan, before anything is run.
        MedsslError: What is in OUT is of other images.
    """
    from medssl.evaluation.device import chosen_device
    from medssl.evaluation.report.benchmark import benchmark_sections
    from medssl.evaluation.report.page import write_report

    wanted = read_options(BenchmarkPlan, resolve_folder("configs", plan))
    _check(wanted, data, methods, sets, seeds, jobs, device)
    where = chosen_device(device, "device")
    runs = runs_of(wanted, out, methods, sets, seeds)
    joint = joint_embedding(runs_of(wanted, out, (), (), 1))
    caches = {images.name: cache_of(images, out) for images in wanted.all_sets}
    rows, random, told = _earlier(out, wanted, caches, seeds)
    finished = {row.key for row in rows if not row.failed}
    missing = [run for run in runs if run.key not in finished]
    rows = [row for row in rows if row.key not in {run.key for run in missing}]  # what failed is tried again
    say(f"benchmark: {len(runs)} runs, {len(runs) - len(missing)} of them finished already")
    beside = _without(random_runs(wanted, caches, rows), random)
    due = [s for run in missing for s in run.sets] + [run.images for run in beside]
    asked = [s for run in runs for s in run.sets] + due
    hashes = same_data([images for images in wanted.all_sets if images in asked], data, out, told)
    told |= hashes
    for images in wanted.all_sets:
        if images in due:
            prepare_set(images, data, out, hashes[images.name])
    warnings = [text for images in wanted.all_sets for text in not_measured(images, out)]
    for warning in warnings:
        say(f"WARNING: {warning}")
    random = _with(random, beside, jobs, where)
    for number, (run, found) in enumerate(judged(missing, jobs, where), start=1):
        rows = _in_order([*rows, *found], wanted)
        failed = [f"failed: {row.failed}" for row in found[:1] if row.failed]
        say(f"benchmark: {number} of {len(missing)}: {': '.join([run.about, *(failed or [_on_val(found)])])}")
        _write(out, rows, random, joint, told, warnings)
    random = _with(random, _without(random_runs(wanted, caches, rows), random), jobs, where)
    results = _write(out, rows, random, joint, told, warnings)
    about = f"Methods of {plan.name}, frozen features beside random weights."
    write_report(out, benchmark_sections(results, caches), "Comparison of methods", about, results["environment"])
    say(f"benchmark: {out / 'report.html'}, {out / 'table.md'}, {out / 'results.json'}")


def _earlier(
    out: Path, plan: BenchmarkPlan, caches: dict[str, Path], seeds: int
) -> "tuple[list[Judged], list[RandomWeights], dict[str, str]]":
    """What an earlier call found that is still of the plan, and of which images each of its sets was."""
    from medssl.evaluation.benchmark_table import Judged, RandomWeights

    path = out / "results.json"
    if not path.is_file():
        return [], [], {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [Judged(**entry) for entry in content["runs"]]
        random = [RandomWeights(**entry) for entry in content["random"]]
        told = dict(content.get("data_sha256", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError([f"{path} is not a table of results; delete it or give another --out"]) from error
    keys = {run.key for run in runs_of(plan, out, (), (), max(seeds, plan.seeds)) if not run.cut_off}
    rows = [row for row in rows if row.key in keys]
    wanted = {(run.key, run.seed) for run in random_runs(plan, caches, rows)}
    random = [entry for entry in random if (entry.key, entry.seed) in wanted]
    return rows, random, {row.images: str(told.get(row.images, "")) for row in rows}


def _without(runs: "Sequence[RandomRun]", random: "Sequence[RandomWeights]") -> "list[RandomRun]":
    done = {(entry.key, entry.seed) for entry in random}
    return [run for run in runs if (run.key, run.seed) not in done]


def _with(
    random: "Sequence[RandomWeights]", runs: "Sequence[RandomRun]", jobs: int, device: str
) -> "list[RandomWeights]":
    """What was known of random weights, and what these runs find."""
    found = list(random)
    for number, (run, entry) in enumerate(measured(runs, jobs, device), start=1):
        say(f"benchmark: {number} of {len(runs)}: {run.about}: {_on_val([entry])}")
        found.append(entry)
    return sorted(found, key=lambda entry: (entry.key, entry.seed))


def _on_val(found: "Sequence[Judged | RandomWeights]") -> str:
    """What options of a method may be chosen by; split test is for the table alone."""
    sets = [", ".join(f"{name} {value:.3f}" for name, value in row.val.items()) for row in found]
    return f"AUROC on split val: {'; '.join(sets)}"


def _in_order(rows: "list[Judged]", plan: BenchmarkPlan) -> "list[Judged]":
    sets, methods = [s.name for s in plan.all_sets], [m.name for m in plan.methods]
    return sorted(rows, key=lambda row: (sets.index(row.images), methods.index(row.method), row.seed))


def _check(
    plan: BenchmarkPlan,
    data: Path,
    methods: tuple[str, ...],
    sets: tuple[str, ...],
    seeds: int,
    jobs: int,
    device: Device,
) -> None:
    from medssl.evaluation.device import missing_device

    problems = [f"data {data} does not exist"] if not data.is_dir() else []
    problems += [f"seeds must be 0 (as the plan says) or more, got {seeds}"] if seeds < 0 else []
    problems += [f"jobs must be 1 or more, got {jobs}"] if jobs < 1 else []
    problems += missing_device(device, "device")
    for option, asked, entries in (("methods", methods, plan.methods), ("sets", sets, plan.all_sets)):
        known = [entry.name for entry in entries]
        problems += [f"{option} {name!r} is not in the plan: {known}" for name in asked if name not in known]
    for method in plan.methods:
        for images in plan.sets:
            try:
                resolve_folder("configs", Path(method.config_for(images)))
            except ConfigError as error:
                problems += [f"methods: {method.name}: {problem}" for problem in error.problems]
    runs = runs_of(plan, Path(), methods, sets, 1) if not problems else []
    used = {s.name: s for run in runs for s in run.sets}
    problems += _wrong_options(runs, list(used.values()))
    if not problems and not used:
        problems.append("sets: the methods asked for learn from 2D and 3D images in one run: name a set of each")
    problems += [
        f"data: {data / path} does not exist, which the plan's set {images.name} needs; the first lines of a plan say "
        "what DATA holds"
        for images in used.values()
        for path in (images.images, images.labels, images.table)
        if not (data / path).exists()
    ]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def _wrong_options(runs: Sequence[Run], sets: Sequence[SetPlan]) -> Iterator[str]:
    """What is wrong with the options of pretrainings, and of the preparation of sets."""
    given = ["--data", "cache", "--out", "out"]
    asked = [(f"methods: {run.about}: pretrain", "pretrain", given, run.pretraining) for run in runs]
    given = ["manifest.csv", "--out", "out"]
    asked += [(f"sets: {images.name}: prepare", "prepare", given, images.prepare.options) for images in sets]
    for about, verb, arguments, options in asked:
        try:
            parse_options(verb, arguments, with_config(options))
        except ConfigError as error:
            yield from (f"{about}: {problem}" for problem in error.problems)


def _write(
    out: Path,
    rows: "Sequence[Judged]",
    random: "Sequence[RandomWeights]",
    joint: Collection[str],
    data_sha256: dict[str, str],
    warnings: Sequence[str],
) -> dict[str, Any]:
    from medssl.evaluation.benchmark_table import compare, encoder_name, markdown
    from medssl.evaluation.report.results import head

    comparisons = compare(rows, random, joint)
    results = {
        **head("benchmark"),
        "data_sha256": data_sha256,
        "warnings": list(warnings),
        "comparisons": [c.to_json() for c in comparisons],
        "runs": [asdict(row) for row in rows],
        "random": [asdict(entry) for entry in random],
    }
    write_json(out / "results.json", results)
    lines: list[tuple[object, ...]] = [
        (r.images, r.method, r.family, encoder_name(r.architecture), r.seed, name, value, r.failed, r.val.get(name, ""))
        for r in rows
        for name, value in (r.probes.items() or [("", "")])
    ]
    lines += [
        (r.images, "random weights", "", encoder_name(r.architecture), r.seed, name, value, "", r.val.get(name, ""))
        for r in random
        for name, value in r.probes.items()
    ]
    header = ("set", "method", "family", "encoder", "seed", "probe", "auroc", "failed", "auroc_val")
    write_text(out / "results.csv", csv_text(header, lines))
    write_text(out / "table.md", markdown(comparisons))
    return results
