"""Run an application: all stages from a folder of scans to a bundle, each resumable."""

import importlib.util
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import yaml

from medssl.commands.console import say
from medssl.commands.data_changes import manifest_now, refuse_changes, told_changes
from medssl.commands.keys import key_of
from medssl.commands.parsing import resolve_folder, run_verb
from medssl.commands.prepare import changed_cases
from medssl.evaluation.benchmark_plan import merged
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.imaging.files import write_json, write_text

POSITIONAL = ("action", "app")
STAGES = ("manifest", "prepare", "pretrain", "finetune", "baseline", "evaluate", "export", "report")
"""Order of the stages; `baseline` is the same fine-tuning from scratch and runs where the application asks for it."""

_WRITTEN_ONCE = ("evaluate", "export")
"""Stages that take no folder that is there already."""
_MADE = {"manifest": "manifest.csv", "prepare": "cache", "export": "bundle"}
"""What a stage makes, where that is not called as the stage is."""
_BEFORE = {
    "manifest": (), "prepare": ("manifest",), "pretrain": ("prepare",), "finetune": ("prepare", "pretrain"),
    "baseline": ("prepare",), "evaluate": ("finetune", "baseline"), "export": ("finetune", "evaluate"),
}  # fmt: skip
"""Stages that a stage is made from, as far as they are run."""

_SECTIONS = {
    "name",
    "title",
    "data",
    "profiles",
    "default_profile",
    "prepare",
    "pretrain",
    "finetune",
    "baseline",
    "evaluate",
    "export",
}


@dataclass(frozen=True)
class Application:
    """An application folder, read.

    Args:
        folder: Folder with `app.yaml` and `prepare.py`.
        name: Name of the application.
        title: What it does, the heading of its report.
        data: What the folder given with --data must be.
        stages: Options of each stage, the profile's merged over the common ones.
        profile: Name of the profile that was chosen.
    """

    folder: Path
    name: str
    title: str
    data: str
    stages: dict[str, dict[str, Any]]
    profile: str


def app(
    action: Literal["run"],
    app: Path,
    data: Path,
    out: Path,
    profile: str = "",
    skip: tuple[str, ...] = (),
) -> None:
    """Run an application from its data folder to OUT/bundle; run again to resume, finished stages are kept.

    Cases that cannot be prepared or evaluated are told, here and in OUT/report.html, and the others go on.

    Args:
        action: `run`.
        app: Folder of the application, or the name of a built-in one, for instance `apps/hippocampus_mr`.
        data: Folder of the data the application is for.
        out: Folder of the run: manifest, cache, pretraining, fine-tuning, evaluation, bundle, report.
        profile: Budget to use, one of the application's own; its default when empty.
        skip: Stages to leave out: pretrain, baseline, evaluate, export, report.

    Raises:
        ConfigError: Unknown application, profile or stage.
        MedsslError: OUT holds stages with other options, after other stages or of other data.
    """
    application = read_application(resolve_folder("apps", app), profile)
    _check(application, skip, data)
    stages = [s for s in STAGES if s not in skip and (s in application.stages or s in ("manifest", "report"))]
    _refuse_other_data(application, data, out)
    for stage in stages:
        if stage == "report":  # of all there is
            _report(application, out)
        else:
            signature = _signature(application, stage, data, stages)
            _run_once(out, stage, signature, _action(application, stage, data, out, stages))


def read_application(folder: Path, profile: str) -> Application:
    """Read `app.yaml` and merge the profile's options over the common ones.

    Raises:
        ConfigError: No such file, unknown sections or unknown profile, all at once.
    """
    path = folder / "app.yaml"
    if not path.is_file() or not (folder / "prepare.py").is_file():
        raise ConfigError([f"{folder} is no application: it needs app.yaml and prepare.py"])
    content = _read_yaml(path)
    problems = [f"{path}: {problem}" for problem in _mistakes(content)]
    if problems:
        raise ConfigError(problems)
    profiles = content.get("profiles") or {}
    chosen = profile or content.get("default_profile", "")
    if chosen and chosen not in profiles:
        raise ConfigError([f"profile {chosen!r} is unknown; {content['name']} has {sorted(profiles)}"])
    stages = {stage: dict(content[stage] or {}) for stage in STAGES if stage in content}
    for stage, options in (profiles.get(chosen) or {}).items():
        stages[stage] = merged(stages.get(stage, {}), options or {})
    return Application(
        folder, str(content["name"]), str(content.get("title", "")), str(content.get("data", "")), stages, chosen
    )


def make_manifest(application: Application, data: Path, manifest: Path) -> None:
    """Let the application write the manifest of a data folder."""
    _load_prepare(application.folder).make_manifest(data.resolve(), manifest)


def run_stage(verb: str, argv: Sequence[str]) -> None:
    """Run a verb as a stage of something larger: cases that it had to leave out are told, and the others go on."""
    try:
        run_verb(verb, argv)
    except MedsslError as error:
        if error.reason not in ("cases-left-out", "cases-failed"):
            raise
        say(f"WARNING: {verb}: {error.message}")


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([f"{path} is no readable YAML: {' '.join(str(error).split())}"]) from error


def _mistakes(content: Any) -> list[str]:
    """What is wrong with the sections of an application, before any of its options is looked at."""
    if not isinstance(content, dict):
        return ["sections are expected, 'name: ...' first"]
    problems = [f"unknown section {key!r}; known: {sorted(_SECTIONS)}" for key in content if key not in _SECTIONS]
    if not isinstance(content.get("name"), str):
        problems.append("'name' is missing, the name of the application")
    problems += [f"section {stage!r} must hold options" for stage in STAGES if not _is_options(content.get(stage))]
    profiles = content.get("profiles")
    if not _is_options(profiles):
        return [*problems, "section 'profiles' must hold profiles"]
    for name, stages in (profiles or {}).items():
        if not _is_options(stages):
            problems.append(f"profile {name!r} must hold stages")
            continue
        for stage, options in (stages or {}).items():
            if stage not in STAGES:
                problems.append(f"profile {name!r}: unknown stage {stage!r}; known: {list(STAGES)}")
            elif not _is_options(options):
                problems.append(f"profile {name!r}: stage {stage!r} must hold options")
    return problems


def _is_options(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _check(application: Application, skip: tuple[str, ...], data: Path) -> None:
    optional = {"pretrain", "baseline", "evaluate", "export", "report"}
    problems = [f"--skip {stage}: one of {sorted(optional)} is expected" for stage in skip if stage not in optional]
    if not data.is_dir():
        problems.append(f"--data {data} is no folder; {application.name} expects: {application.data}")
    if problems:
        raise ConfigError(problems)


def _refuse_other_data(application: Application, data: Path, out: Path) -> None:
    """Compare the data with what an earlier call prepared.

    Raises:
        MedsslError: They have changed since.
    """
    cache = out / "cache"
    if not (cache / "cache.json").is_file():
        return
    say(f"app: {data} is compared with what {cache} was prepared from")
    now = manifest_now(partial(make_manifest, application, data), out)
    refuse_changes(told_changes(cache, changed_cases(now, cache)))


def _signature(application: Application, stage: str, data: Path, stages: Sequence[str]) -> dict[str, Any]:
    """What a finished stage was made from: with other options or after other stages it is not taken for finished."""
    before = {s: key_of(_signature(application, s, data, stages)) for s in _BEFORE[stage] if s in stages}
    options = application.stages.get(stage, {})
    return {"stage": stage, "options": options, "data": str(data.resolve()), "after": before}


def _run_once(out: Path, stage: str, signature: dict[str, Any], action: Callable[[], None]) -> None:
    record = out / "stages" / f"{stage}.json"
    if record.is_file():
        if json.loads(record.read_text(encoding="utf-8")) == signature:
            say(f"app: stage {stage} was finished before and is kept")
            return
        raise MedsslError(
            f"stage {stage!r} in {out} was finished with other options, or after other stages, than those given now; "
            f"choose another --out, or remove {record} and {out / _MADE.get(stage, stage)} to make it anew",
            reason="run-exists",
        )
    folder = out / _MADE.get(stage, stage)
    if stage in _WRITTEN_ONCE and folder.exists():
        say(f"WARNING: {folder} is of a run that was cut off before stage {stage!r} was finished: it is made anew")
        shutil.rmtree(folder)
    action()
    write_json(record, signature)


def _action(application: Application, stage: str, data: Path, out: Path, stages: Sequence[str]) -> Callable[[], None]:
    if stage == "manifest":
        return lambda: make_manifest(application, data, out / "manifest.csv")
    return lambda: run_stage(_verb(stage), _arguments(application, stage, out, stages))


def _verb(stage: str) -> str:
    return "finetune" if stage == "baseline" else stage


def _load_prepare(folder: Path) -> ModuleType:
    """Import the application's `prepare.py`: it is code, so only trusted applications are run."""
    spec = importlib.util.spec_from_file_location(f"medssl_app_{folder.name}", folder / "prepare.py")
    if spec is None or spec.loader is None:
        raise ConfigError([f"{folder / 'prepare.py'} cannot be imported"])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _arguments(application: Application, stage: str, out: Path, stages: Sequence[str]) -> list[str]:
    """Command line of a stage; its options go to a file that `medssl VERB --config` takes as well."""
    config = out / "stages" / f"{stage}.yaml"
    header = f"# {application.name}, stage {stage}, profile {application.profile or 'none'}\n"
    write_text(config, header + yaml.safe_dump(application.stages[stage], sort_keys=False))
    cache, run = str(out / "cache"), str(out / stage)
    begun = (out / stage / "run.json").is_file() or any((out / stage).glob("fold_*/run.json"))
    resume = ["--resume"] if begun else []
    init = ["--init", str(out / "pretrain" / "encoder.safetensors")]
    pretrained = "pretrain" in stages
    baseline = ["--baseline", str(out / "baseline")] if "baseline" in stages else []
    evaluation = ["--evaluation", str(out / "evaluate")] if "evaluate" in stages else []
    bundle = str(out / "bundle")
    return {
        "prepare": [str(out / "manifest.csv"), "--config", str(config), "--out", cache],
        "pretrain": ["--config", str(config), "--data", cache, "--out", run, *resume],
        "finetune": ["--config", str(config), "--data", cache, "--out", run, *(init if pretrained else []), *resume],
        "baseline": ["--config", str(config), "--data", cache, "--out", run, *resume],
        "evaluate": [str(out / "finetune"), "--config", str(config), "--data", cache, "--out", run, *baseline],
        "export": [str(out / "finetune"), "--config", str(config), "--data", cache, "--out", bundle, *evaluation],
    }[stage]


def _report(application: Application, out: Path) -> None:
    from medssl.evaluation.report.application import write_application_report

    write_application_report(out, application.name, application.title)
    say(f"report: {out / 'report.html'}")
