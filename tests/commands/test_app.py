"""An application from its folder to a bundle."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from browser import Browser
from cohort import FINETUNE, PRETRAIN
from report_checks import check_page

from medssl.__main__ import main
from medssl.training import loop
from medssl.training.state import TrainState

_PREPARE = """from dataclasses import replace

from cohort import write_scans
from medssl.imaging.manifest import Manifest


def make_manifest(data, out):
    listed = Manifest.read(data / "manifest.csv") if (data / "manifest.csv").is_file() else write_scans(data)
    rows = [replace(r, image=str(data / r.image), label=r.label and str(data / r.label)) for r in listed.rows]
    Manifest.from_rows(rows, out.parent).write(out)
"""
_UNUSABLE = f"{_PREPARE}    (data / 'images' / '5L.nii.gz').write_bytes(b'')\n"


def _run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def _application(folder: Path) -> Path:
    folder.mkdir()
    (folder / "prepare.py").write_text(_PREPARE)
    content = {
        "name": "tiny",
        "title": "Boxes",
        "data": "boxes",
        "prepare": {"workers": 1},
        "pretrain": PRETRAIN,
        "finetune": FINETUNE,
        "baseline": FINETUNE,
        "evaluate": {"split": "test"},
        "export": {"card": {"name": "tiny"}},
        "profiles": {"short": {"finetune": {"train": {"steps": 1}}}},
    }
    (folder / "app.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.integration
def test_an_application_goes_from_data_to_bundle_report_and_prediction(
    tmp_path: Path, browser: Browser, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "data").mkdir()
    arguments = ["app", "run", _application(tmp_path / "app"), "--data", tmp_path / "data", "--out", tmp_path / "run"]
    assert _run(*arguments, "--profile", "short") == 0
    run = tmp_path / "run"
    check_page(browser, run / "report.html")
    commands = browser.run("return [...document.querySelectorAll('code')].map(code => code.textContent)")
    assert [command.split()[1] for command in commands][-2:] == ["evaluate", "app"]
    assert "finetune" in [command.split()[1] for command in commands]
    assert json.loads((run / "finetune" / "run.json").read_text())["patients"]
    assert _run("predict", run / "bundle", tmp_path / "data" / "images" / "0L.nii.gz", "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "0L" / "seg.nii.gz").is_file()
    began = (run / "bundle" / "model.onnx").stat().st_mtime_ns
    assert _run(*arguments, "--profile", "short") == 0
    assert (run / "bundle" / "model.onnx").stat().st_mtime_ns == began
    for stage in ("evaluate", "export"):  # as if it had been killed before it could note this
        (run / "stages" / f"{stage}.json").unlink()
    capsys.readouterr()
    assert _run(*arguments, "--profile", "short") == 0
    assert "evaluate is of a run that was cut off" in capsys.readouterr().out
    assert (run / "bundle" / "model.onnx").stat().st_mtime_ns > began
    assert _run(*arguments) == 2
    assert "finished with other options" in capsys.readouterr().err
    assert _run(*arguments, "--profile", "short", "--skip", "[pretrain]") == 2
    told = capsys.readouterr()
    assert "stage finetune' in" not in told.out
    assert f"or remove {run / 'stages' / 'finetune.json'} and {run / 'finetune'}" in told.err


@pytest.mark.integration
def test_a_scan_that_cannot_be_used_does_not_stop_an_application(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "data").mkdir()
    folder, run = _application(tmp_path / "app"), tmp_path / "run"
    (folder / "prepare.py").write_text(_UNUSABLE)
    arguments = ["app", "run", folder, "--data", tmp_path / "data", "--out", run, "--profile", "short"]
    skipped = "pretrain,baseline,export"
    assert _run(*arguments, "--skip", f"[{skipped},evaluate,report]") == 0
    assert "WARNING: prepare: 1 of 12 cases were left out" in capsys.readouterr().out
    assert (run / "finetune" / "model.json").is_file()
    (run / "cache" / "cases" / "4R" / "image.b2nd").write_bytes(b"")  # damaged when it is tested
    for _ in range(2):
        assert _run(*arguments, "--skip", f"[{skipped}]") == 0
    assert "WARNING: evaluate: 1 of 3 cases could not be evaluated" in capsys.readouterr().out
    report = (run / "report.html").read_text()
    for sentence in ("Cases that could not be prepared", "5L.nii.gz is empty", "Cases that could not be evaluated"):
        assert sentence in report


@pytest.mark.integration
def test_an_application_goes_on_with_folds_and_refuses_data_that_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder, data, run = _application(tmp_path / "app"), tmp_path / "data", tmp_path / "run"
    data.mkdir()
    content = yaml.safe_load((folder / "app.yaml").read_text())
    content["finetune"] = {**FINETUNE, "folds": 2}
    (folder / "app.yaml").write_text(yaml.safe_dump(content))
    skipped = "[pretrain,baseline,evaluate,export]"
    arguments = ["app", "run", folder, "--data", data, "--out", run, "--skip", skipped]
    finish = loop.finish

    def killed(state: TrainState) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "finish", killed)
    assert _run(*arguments) != 0
    assert (run / "finetune" / "fold_0" / "run.json").is_file()
    assert not (run / "stages" / "finetune.json").exists()
    monkeypatch.setattr(loop, "finish", finish)
    assert _run(*arguments) == 0
    assert (run / "finetune" / "fold_1" / "model.json").is_file()
    assert "stage prepare was finished before and is kept" in capsys.readouterr().out
    shutil.copy(data / "images" / "0L.nii.gz", data / "images" / "1L.nii.gz")
    assert _run(*arguments) == 2
    told = capsys.readouterr().err
    assert "was prepared from other data: 1L" in told
    assert "choose another --out" in told


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (["--profile", "long"], "profile 'long' is unknown; tiny has ['short']"),
        (["--skip", "[finetune]"], "--skip finetune: one of"),
        (["--data", "nowhere"], "is no folder; tiny expects: boxes"),
    ],
)
def test_mistakes_of_an_application_run(
    tmp_path: Path, change: list[str], part: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "data").mkdir()
    arguments = ["app", "run", _application(tmp_path / "app"), "--data", tmp_path / "data", "--out", tmp_path / "run"]
    assert _run(*arguments, *change) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "sections are expected"),
        ("name: [", "is no readable YAML"),
        ("title: x", "'name' is missing"),
        ("name: x\npretrian: {}", "unknown section 'pretrian'"),
        ("name: x\npretrain: 3", "section 'pretrain' must hold options"),
        ("name: x\nprofiles: [1]", "section 'profiles' must hold profiles"),
        ("name: x\nprofiles: {a: 3}", "profile 'a' must hold stages"),
        ("name: x\nprofiles: {a: {finetun: {}}}", "profile 'a': unknown stage 'finetun'"),
        ("name: x\nprofiles: {a: {finetune: 3}}", "stage 'finetune' must hold options"),
    ],
)
def test_a_wrong_application_file_is_told(tmp_path: Path, text: str, part: str, capsys: pytest.CaptureFixture[str]):
    folder = _application(tmp_path / "app")
    (folder / "app.yaml").write_text(text)
    (tmp_path / "data").mkdir()
    assert _run("app", "run", folder, "--data", tmp_path / "data", "--out", tmp_path / "run") == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
