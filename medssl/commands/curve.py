"""Label-fraction curve: fine-tune with and without pretraining at several numbers of patients, paired seeds."""

import csv
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.commands.console import say
from medssl.commands.parsing import run_verb
from medssl.imaging.errors import ConfigError
from medssl.imaging.files import write_json

if TYPE_CHECKING:
    from medssl.evaluation.curves import CurvePoint, CurveRow

POSITIONAL: tuple[str, ...] = ()
PRETRAINED, SCRATCH, LONGER = "pretrained", "from scratch", "from scratch, longer"


@dataclass(frozen=True)
class _Run:
    """One fine-tuning of the curve."""

    labels: int
    seed: int
    arm: str
    folder: Path


def curve(
    data: Path,
    out: Path,
    init: Path,
    finetune: Path,
    labels: list[int] = [2, 4, 8, 16],  # noqa: B006 (never changed)
    seeds: int = 5,
    split: str = "test",
    lr_pretrained: float = 0.0,
    lr_scratch: float = 0.0,
    longer_steps: int = 0,
) -> None:
    """Train both arms for every number of patients and seed, evaluate each, and write OUT/curve.json and OUT/curve.png.

    Both arms share patients, seed, network, steps and augmentation; only the first weights differ, and the learning
    rates where both were tuned alike. With `longer_steps` a third arm starts from scratch and spends the time of the
    pretraining on the labels. Run it again to resume: what is finished is kept, also what others wrote into OUT.

    Args:
        data: Prepared cache.
        out: Folder of the curve.
        init: encoder.safetensors of the pretrained arm.
        finetune: Configuration of `medssl finetune`, or the name of a built-in one.
        labels: Numbers of labelled patients.
        seeds: Paired seeds, from 0.
        split: Split that is evaluated.
        lr_pretrained: Learning rate of the pretrained arm; 0 = that of the configuration.
        lr_scratch: Learning rate of the arms from scratch; 0 = that of the configuration.
        longer_steps: Steps of the third arm; 0 = without it.

    Raises:
        ConfigError: The encoder is missing, or numbers that make no curve.
    """
    problems = [f"init {init} does not exist"] if not init.is_file() else []
    problems += [f"labels {n} must be 1 or more" for n in labels if n < 1]
    problems += [f"seeds must be 2 or more for an interval, got {seeds}"] if seeds < 2 else []
    problems += [f"longer_steps must be 0 (without) or more, got {longer_steps}"] if longer_steps < 0 else []
    if problems:
        raise ConfigError(problems)
    arms = (PRETRAINED, SCRATCH, *((LONGER,) if longer_steps else ()))
    runs = [
        _Run(n, seed, arm, out / f"labels{n}_seed{seed}_{arm.replace(',', '').replace(' ', '_')}")
        for n in labels
        for seed in range(seeds)
        for arm in arms
    ]
    left = sum(not (run.folder / "evaluation" / "results.json").is_file() for run in runs)
    say(f"curve: {len(runs)} fine-tunings, {left} still to do, into {out}")
    rows: list[CurveRow] = []
    for run in runs:
        rate = lr_pretrained if run.arm == PRETRAINED else lr_scratch
        changed = ["--train.lr", str(rate)] if rate else []
        changed += ["--train.steps", str(longer_steps)] if run.arm == LONGER else []
        _train(run, data, init, finetune, changed)
        _evaluate(run, data, split)
        rows += _rows(run)
    _write(out, rows, arms[1:])


def _train(run: _Run, data: Path, init: Path, finetune: Path, changed: list[str]) -> None:
    if (run.folder / "model.json").is_file():
        return
    arguments = ["--config", str(finetune), "--data", str(data), "--out", str(run.folder)]
    arguments += ["--labels", str(run.labels), "--seed", str(run.seed), "--inference.choose", "last"]
    arguments += ["--init", str(init)] if run.arm == PRETRAINED else []
    arguments += changed
    arguments += ["--resume"] if (run.folder / "run.json").is_file() else []
    run_verb("finetune", arguments)


def _evaluate(run: _Run, data: Path, split: str) -> None:
    target = run.folder / "evaluation"
    if not (target / "results.json").is_file():
        run_verb("evaluate", [str(run.folder), "--data", str(data), "--split", split, "--out", str(target)])


def _rows(run: _Run) -> "list[CurveRow]":
    """Mean Dice of each case over its classes."""
    from medssl.evaluation.curves import CurveRow

    cases: dict[tuple[str, str], list[float]] = defaultdict(list)
    with (run.folder / "evaluation" / "cases.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["dice"]:
                cases[row["case"], row["patient"]].append(float(row["dice"]))
    return [
        CurveRow(run.labels, run.seed, run.arm, case, patient, sum(values) / len(values) if values else math.nan)
        for (case, patient), values in cases.items()
    ]


def _write(out: Path, rows: "list[CurveRow]", others: tuple[str, ...]) -> None:
    """The pretrained arm beside each of `others`: the first as curve.json, a second as curve_longer.json."""
    from medssl.evaluation.curves import curve_figure, curve_json, paired_curve
    from medssl.imaging.files import atomic_path

    for other, name in zip(others, ("curve", "curve_longer"), strict=False):
        points = paired_curve(rows, PRETRAINED, other)
        write_json(out / f"{name}.json", json.loads(json.dumps(curve_json(points, PRETRAINED, other))))
        with atomic_path(out / f"{name}.png") as temporary:
            curve_figure(points, PRETRAINED, other).savefig(temporary, dpi=120)
        say(f"{PRETRAINED} against {other}:")
        for point in points:
            say(_told(point))
        say(f"curve: {out / f'{name}.json'}, {out / f'{name}.png'}")


def _told(point: "CurvePoint") -> str:
    both, seeds = point.over_seeds_and_patients, point.over_seeds
    verdict = "a gain" if seeds.low > 0 else "a loss" if seeds.high < 0 else "no difference shown"
    return (
        f"{point.labels} patients: {point.ours.estimate:.3f} against {point.theirs.estimate:.3f}, difference "
        f"{seeds.estimate:+.3f} (95 % over {len(point.seeds)} seeds {seeds.low:+.3f} to {seeds.high:+.3f}; over seeds "
        f"and patients {both.low:+.3f} to {both.high:+.3f}): {verdict}"
    )
