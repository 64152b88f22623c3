"""What a result was made with: the command as typed, the commit of a source tree, nothing for what is not there."""

import json
import platform
import subprocess
from pathlib import Path

import pytest

from medssl.imaging import environment as module
from medssl.imaging.environment import command, environment, running


def test_the_innermost_command_is_told_as_it_was_typed() -> None:
    assert command() == ""
    with running("app", ["run", "my app"]):
        with running("evaluate_all", ["--out", "it's"]):
            assert command() == "medssl evaluate-all --out 'it'\"'\"'s'"
        assert command() == "medssl app run 'my app'"
    assert command() == ""


def test_the_environment_is_plain_and_knows_python_and_numpy() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == platform.python_version()
    assert {"medssl", "numpy"} <= set(found["versions"])
    assert found["processor"]


def test_a_commit_is_told_of_a_source_tree_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "site-packages"
    inside.mkdir()

    def git(*words: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.check_output(["git", "-C", str(tmp_path), *identity, *words], text=True).strip()

    git("init", "-q")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    assert module._commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("b")
    assert module._commit(tmp_path) == git("rev-parse", "HEAD") + "-dirty"
    assert module._commit(inside) is None, "the repository around an environment is not the package's"
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    assert module._commit(tmp_path) is None
