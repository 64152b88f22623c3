"""`medssl doctor`: builds of ONNX Runtime are installs of one module; one is needed and two are too many."""

from importlib.metadata import PackageNotFoundError, version

import pytest

from medssl.__main__ import main
from medssl.commands import doctor

_BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")


def _install(monkeypatch: pytest.MonkeyPatch, *builds: str) -> None:
    """Have these builds, and no other, as far as the names of packages tell."""

    def found(name: str) -> str:
        if name in _BUILDS and name not in builds:
            raise PackageNotFoundError(name)
        return version("onnxruntime" if name in _BUILDS else name)

    monkeypatch.setattr(doctor, "version", found)


@pytest.mark.parametrize("build", _BUILDS)
def test_any_one_build_of_the_runtime_will_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], build: str
):
    _install(monkeypatch, build)
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert f"{build} {version('onnxruntime')}" in told
    assert "CPUExecutionProvider" in told


def test_two_builds_at_once_are_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    _install(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    assert main(["doctor"]) == 2
    assert "onnxruntime and onnxruntime-gpu overwrite one another: uninstall all of them" in capsys.readouterr().err


def test_without_a_runtime_the_ordinary_one_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    _install(monkeypatch)
    assert main(["doctor"]) == 2
    assert "onnxruntime is missing: pip install onnxruntime" in capsys.readouterr().err
