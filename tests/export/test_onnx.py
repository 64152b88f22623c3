"""The exported graph gives torch's numbers, for every network, at batch sizes it was not traced with."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_networks import network
from torch import nn

from medssl.export.onnx import write_onnx
from medssl.imaging.errors import BundleError
from medssl.tasks.inference import Ensemble


@pytest.mark.parametrize(
    ("kind", "dims"),
    [
        ("unet", 2),
        ("unet", 3),
        ("vit", 2),
        ("vit", 3),
        ("swin", 2),
        ("swin", 3),
        ("slices", 3),
        ("linear", 2),
        ("linear", 3),
        ("fpn", 2),
        ("fpn", 3),
    ],
)
def test_graph_equals_torch_at_other_batch_sizes(kind: str, dims: int, tmp_path: Path) -> None:
    made, window = network(kind, dims, channels=2), (16, 8, 12)[:dims]
    write_onnx(made, 2, window, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for batch in (1, 3):
        image = torch.randn(batch, 2, *window)
        (logits,) = session.run(["logits"], {"image": image.numpy()})
        np.testing.assert_allclose(logits, made(image).numpy(), atol=2e-5)
    model = onnx.load(tmp_path / "model.onnx")
    assert model.opset_import[0].version == 18
    assert [d.dim_value or d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        2,
        *window,
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"], "weights must lie inside"


def test_ensemble_gives_the_mean_probability() -> None:
    members = [network("unet", 2, seed) for seed in range(3)]
    image = torch.randn(2, 1, 8, 8)
    mean = torch.stack([m(image).softmax(1) for m in members]).mean(0)
    ensemble = Ensemble(members)
    torch.testing.assert_close(ensemble(image).exp(), mean, atol=1e-6, rtol=1e-5)


def test_one_network_passes_unchanged() -> None:
    made, image = network("unet", 2), torch.randn(1, 1, 8, 8)
    assert torch.equal(Ensemble([made])(image), made(image))


def test_what_cannot_be_translated_is_refused(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image if float(image.sum()) > 0 else -image

    with pytest.raises(BundleError, match="cannot be written as ONNX"):
        write_onnx(Branching().eval(), 1, (8, 8), tmp_path / "model.onnx")
