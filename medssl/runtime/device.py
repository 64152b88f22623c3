"""What computes: the processor, or an accelerator that this build of ONNX Runtime offers."""

from collections.abc import Sequence
from typing import Literal

from medssl.imaging.errors import ConfigError

Device = Literal["auto", "cpu", "cuda", "tensorrt", "openvino"]
_PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
_CHOSEN_BY_ITSELF = ("cuda", "openvino", "cpu")
"""TensorRT builds an engine for minutes before the first result, so it is taken on request alone."""


def providers_for(device: Device, offered: Sequence[str]) -> list[str]:
    """Execution providers to ask for, the wanted one first, the processor last.

    Args:
        device: What is wanted; `auto` takes the first of CUDA, OpenVINO and the processor that is there.
        offered: What this build of ONNX Runtime offers.

    Raises:
        ConfigError: It does not offer what is wanted.
    """
    there = [name for name in _CHOSEN_BY_ITSELF if _PROVIDERS[name] in offered]
    wanted: str = device if device != "auto" else next(iter(there), "cpu")
    if _PROVIDERS[wanted] not in offered:
        build = {"cuda": "onnxruntime-gpu", "tensorrt": "onnxruntime-gpu", "openvino": "onnxruntime-openvino"}[wanted]
        raise ConfigError(
            [
                f"device {wanted}: this ONNX Runtime offers {', '.join(offered)}: install {build} in place of the "
                "build that is there, or use --device auto"
            ]
        )
    helpers = ["cuda"] if wanted == "tensorrt" and _PROVIDERS["cuda"] in offered else []
    return list(dict.fromkeys(_PROVIDERS[name] for name in (wanted, *helpers, "cpu")))
