"""What computes is chosen by what is there, told, and never replaced in silence."""

from pathlib import Path

import pytest
from tiny_bundle import write_bundle

from medssl.imaging.errors import ConfigError
from medssl.runtime.device import providers_for
from medssl.runtime.predictor import Predictor

_CPU, _CUDA, _TRT, _VINO = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt", "OpenVINO"))


@pytest.mark.parametrize(
    ("device", "offered", "expected"),
    [
        ("auto", [_CPU], [_CPU]),
        ("auto", ["AzureExecutionProvider", _CPU], [_CPU]),
        ("auto", [_TRT, _CUDA, _CPU], [_CUDA, _CPU]),
        ("auto", [_VINO, _CPU], [_VINO, _CPU]),
        ("cpu", [_TRT, _CUDA, _CPU], [_CPU]),
        ("tensorrt", [_TRT, _CUDA, _CPU], [_TRT, _CUDA, _CPU]),
        ("openvino", [_VINO, _CPU], [_VINO, _CPU]),
    ],
)
def test_providers(device, offered, expected):
    assert providers_for(device, offered) == expected


def test_a_device_that_is_not_offered_is_refused_with_the_build_that_has_it():
    with pytest.raises(ConfigError, match="install onnxruntime-openvino in place of the build that is there"):
        providers_for("openvino", [_CUDA, _CPU])


def test_the_report_tells_what_computed(tmp_path: Path):
    predictor = Predictor(write_bundle(tmp_path / "b"), threads=1, device="cpu")
    assert predictor._session.providers == (_CPU,)
    assert predictor._session.threads == 1
