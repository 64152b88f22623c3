"""A network as an ONNX graph with a fixed window and any batch size."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import nn

from medssl.imaging.errors import BundleError

OPSET = 18
INPUT, OUTPUTS = "image", ("logits", "features")
_EXAMPLE_BATCH = 2  # a batch of 1 would be taken for a constant
_REGISTRATION = logging.getLogger("torch.onnx._internal.exporter._registration")


def write_onnx(
    network: nn.Module, channels: int, window: Sequence[int], path: Path, outputs: Sequence[str] = OUTPUTS[:1]
) -> None:
    """Write `path`: input `image` (B, C, *window) float32, output `logits`, B free, weights inside.

    What the exporter keeps of the source (file names, stack traces) is removed: a bundle says nothing of the machine it
    was made on.

    Args:
        network: In eval mode, on the CPU.
        channels: C.
        window: Spatial shape.
        path: File to write.
        outputs: Names of what the network gives, in their order.

    Raises:
        BundleError: The network has a part that the exporter cannot translate, or the graph is not valid.
    """
    example = torch.zeros(_EXAMPLE_BATCH, channels, *window)
    try:
        with _quiet():
            torch.onnx.export(
                network,
                (example,),
                str(path),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=list(outputs),
                verbose=False,
            )
        model = onnx.load(str(path))
        _remove_origin(model)
        onnx.checker.check_model(model, full_check=True)
    except (
        torch.onnx.OnnxExporterError,
        torch.onnx.errors.UnsupportedOperatorError,
        onnx.checker.ValidationError,
    ) as error:
        raise BundleError(
            f"the network cannot be written as ONNX ({_first_line(error)}): no bundle is made", reason="onnx-export"
        ) from error
    onnx.save_model(model, str(path))


def _remove_origin(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]
    model.doc_string = ""
    for graph in (model.graph, *model.functions):
        graph.doc_string = ""
        del graph.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.initializer, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
        value.doc_string = ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without two messages that say nothing of the network: torchvision is absent, and torch uses a name of its own
    that it deprecates. Everything else is shown.
    """
    before = _REGISTRATION.level
    _REGISTRATION.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
            yield
    finally:
        _REGISTRATION.setLevel(before)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
