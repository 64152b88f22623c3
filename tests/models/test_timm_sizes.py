"""How models of timm are asked for and read, by a stand-in for timm; tests/peers does the same with timm itself."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medssl.imaging.errors import ConfigError
from medssl.models.timm_encoder import TimmEncoder


class _Features(nn.Module):
    """As timm's models for features: one map of 4 channels, which come last where `output_fmt` says so."""

    def __init__(self, output_fmt: str, **given: Any) -> None:
        super().__init__()
        self.output_fmt, self.given = output_fmt, given
        self.stem = nn.Conv2d(1, 4, 4, stride=4)
        self.feature_info = SimpleNamespace(channels=lambda: [4], reduction=lambda: [4])

    def forward(self, image: Tensor) -> list[Tensor]:
        found = self.stem(image)
        return [found.movedim(1, -1) if self.output_fmt == "NHWC" else found]


def _timm(monkeypatch: pytest.MonkeyPatch, takes: tuple[str, ...] = (), output_fmt: str = "NCHW") -> None:
    def create_model(name: str, **given: Any) -> nn.Module:
        sizes = {option: value for option, value in given.items() if "img_size" in option}
        if unknown := sizes.keys() - set(takes):
            raise TypeError(f"unexpected keyword argument {unknown}")
        if 0 in sizes.get("img_size", ()):
            raise AssertionError("img_size must be positive")
        return _Features(output_fmt, **sizes)

    timm = ModuleType("timm")
    timm.__dict__.update(create_model=create_model, list_models=lambda *pattern: ["net"])
    monkeypatch.setitem(sys.modules, "timm", timm)


@pytest.mark.parametrize(
    ("takes", "told"),
    [
        (("img_size", "dynamic_img_size"), {"img_size": (16, 24), "dynamic_img_size": True}),
        (("img_size", "strict_img_size"), {"img_size": (16, 24), "strict_img_size": False}),
        (("img_size", "strict_img_size", "dynamic_img_size"), {"img_size": (16, 24), "strict_img_size": False}),
        (("img_size",), {"img_size": (16, 24)}),
        ((), {}),
    ],
)
def test_a_model_is_of_any_size_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, takes: tuple[str, ...], told: dict[str, Any]
) -> None:
    _timm(monkeypatch, takes)
    assert TimmEncoder(2, 1, "net", image_size=[16, 24]).model.given == told
    told.pop("img_size", None)
    assert TimmEncoder(2, 1, "net").model.given == told


@pytest.mark.parametrize("output_fmt", ["NCHW", "NHWC"])
def test_channels_come_first_whatever_the_size(monkeypatch: pytest.MonkeyPatch, output_fmt: str) -> None:
    """A map as high and as wide as it has channels does not tell which axis is which."""
    _timm(monkeypatch, output_fmt=output_fmt)
    encoder = TimmEncoder(2, 1, "net")
    for height in (16, 32):
        image = torch.randn(2, 1, height, 16, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            (found,) = encoder(image)
            torch.testing.assert_close(found, encoder.model.stem(image), rtol=0, atol=0)


def test_a_size_that_a_model_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _timm(monkeypatch, ("img_size",))
    with pytest.raises(ConfigError, match="img_size must be positive"):
        TimmEncoder(2, 1, "net", image_size=[0, 16])
