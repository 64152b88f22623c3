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
PRETRAINED, SCRATCH = "pretrained", "from scratch"


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
) -> None:
    """Train both arms for every number of patients and seed, evaluate each, and write OUT/curve.json and OUT/curve.png.

    Both arms share patients, seed, network, steps and augmentation; only the first weights differ, and the learning
    rates where both were tuned alike. Run it again to resume: what is finished is kept.

    Args:
        data: Prepared cache.
        out: Folder of the curve.
        init: encoder.safetensors of the pretrained arm.
        finetune: Configuration of `medssl finetune`, or the name of a built-in one.
        labels: Numbers of labelled patients.
        seeds: Paired seeds, from 0.
        split: Split that is evaluated.
        lr_pretrained: Learning rate of the pretrained arm; 0 = that of the configuration.
        lr_scratch: Learning rate of the other arm; 0 = that of the configuration.

    Raises:
        ConfigError: The encoder is missing, or numbers that make no curve.
    """
    problems = [f"init {init} does not exist"] if not init.is_file() else []
    problems += [f"labels {n} must be 1 or more" for n in labels if n < 1]
    problems += [f"seeds must be 2 or more for an interval, got {seeds}"] if seeds < 2 else []
    if problems:
        raise ConfigError(problems)
    runs = [
        _Run(n, seed, arm, out / f"labels{n}_seed{seed}_{arm.replace(' ', '_')}")
        for n in labels
        for seed in range(seeds)
        for arm in (PRETRAINED, SCRATCH)
    ]
    left = sum(not (run.folder / "evaluation" / "results.json").is_file() for run in runs)
    say(f"curve: {len(runs)} fine-tunings, {left} still to do, into {out}")
    rates = {PRETRAINED: lr_pretrained, SCRATCH: lr_scratch}
    rows: list[CurveRow] = []
    for run in runs:
        _train(run, data, init, finetune, rates[run.arm])
        _evaluate(run, data, split)
        rows += _rows(run)
    _write(out, rows)


def _train(run: _Run, data: Path, init: Path, finetune: Path, rate: float) -> None:
    if (run.folder / "model.json").is_file():
        return
    arguments = ["--config", str(finetune), "--data", str(data), "--out", str(run.folder)]
    arguments += ["--labels", str(run.labels), "--seed", str(run.seed), "--inference.choose", "last"]
    arguments += ["--init", str(init)] if run.arm == PRETRAINED else []
    arguments += ["--train.lr", str(rate)] if rate else []
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


def _write(out: Path, rows: "list[CurveRow]") -> None:
    from medssl.evaluation.curves import curve_figure, curve_json, paired_curve
    from medssl.imaging.files import atomic_path

    points = paired_curve(rows, PRETRAINED, SCRATCH)
    write_json(out / "curve.json", json.loads(json.dumps(curve_json(points, PRETRAINED, SCRATCH))))
    with atomic_path(out / "curve.png") as temporary:
        curve_figure(points, PRETRAINED, SCRATCH).savefig(temporary, dpi=120)
    for point in points:
        say(_told(point))
    say(f"curve: {out / 'curve.json'}, {out / 'curve.png'}")


def _told(point: "CurvePoint") -> str:
    both, seeds = point.over_seeds_and_patients, point.over_seeds
    verdict = "a gain" if seeds.low > 0 else "a loss" if seeds.high < 0 else "no difference shown"
    return (
        f"{point.labels} patients: {point.ours.estimate:.3f} against {point.theirs.estimate:.3f}, difference "
        f"{seeds.estimate:+.3f} (95 % over {len(point.seeds)} seeds {seeds.low:+.3f} to {seeds.high:+.3f}; over seeds "
        f"and patients {both.low:+.3f} to {both.high:+.3f}): {verdict}"
    )
