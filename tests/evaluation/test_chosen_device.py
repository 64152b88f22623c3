"""Encoders compute where they are told to, and what is found comes back to the processor's memory.

torch's fake tensors know where they are and refuse to be mixed with those of another device; its device `lazy` stands
for a GPU, so that a GPU is not needed.
"""

from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from medssl.evaluation import prompts
from medssl.evaluation.device import chosen_device, device_of, gpu_memory_told
from medssl.evaluation.features import calibrate, extract
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.models.anatomy import AnatomyNetwork, EncoderMaps
from medssl.models.encoder import Encoder
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT

_ELSEWHERE = "lazy"


def _elsewhere(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device(_ELSEWHERE):
        return make()


def _vit() -> Encoder:
    return ViT(2, 1, patch_size=4, width=12, depth=2, heads=2)


def _unet() -> Encoder:
    return ResidualUNetEncoder(2, 1, features=[4, 8], blocks=[0, 1], norm="batch")


@pytest.mark.parametrize("make", [_vit, _unet])
def test_features_are_computed_there_and_come_back(make: Callable[[], Encoder]) -> None:
    with FakeTensorMode():
        encoder = cast(Encoder, _elsewhere(make))
        images = torch.randn(70, 1, 8, 8)
        calibrate(encoder, images)
        found = extract(encoder, images, blocks=(1, 2))
        assert device_of(encoder).type == _ELSEWHERE
        values = [*found.pooled.values(), *found.blocks.values(), found.tokens]
        assert {(value.device.type, value.dtype) for value in values} == {("cpu", torch.float32)}
        assert len(found.pooled["mean"]) == 70
        with pytest.raises(RuntimeError, match="same device"):
            encoder(images)


def test_maps_of_whole_images_are_computed_there_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "refuse_nan", lambda values: None)  # fake tensors hold no numbers
    with FakeTensorMode():
        found = prompts.whole_maps(cast(Encoder, _elsewhere(_unet)).eval())(torch.randn(1, 1, 9, 8))
        assert {level.device.type for level, _ in found} == {"cpu"}


@pytest.mark.parametrize("kind", [EncoderMaps, AnatomyNetwork])
def test_embeddings_of_voxels_come_back(kind: Callable[[Encoder], nn.Module]) -> None:
    with FakeTensorMode():
        network = _elsewhere(lambda: kind(_unet())).eval()
        maps = network.embed_whole(torch.randn(1, 1, 9, 8).to(device_of(network)))  # type: ignore[operator]
        assert maps.fine.device.type == _ELSEWHERE
        assert {maps.on_cpu().fine.device.type, maps.on_cpu().coarse.device.type} == {"cpu"}


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"), [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu")]
)
def test_a_gpu_is_taken_where_there_is_one(wanted, there: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert chosen_device(wanted, "device") == chosen


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device is cuda, but torch finds no GPU here: use cpu or auto"):
        chosen_device("cuda", "device")


def test_too_little_memory_of_a_gpu_is_told() -> None:
    def full(images: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    encoder = _unet().eval()
    encoder.forward = full  # type: ignore[method-assign, assignment]
    with pytest.raises(MedsslError, match=r"Tried to allocate 2 GiB\): take a smaller size or fewer images") as caught:
        extract(encoder, torch.zeros(2, 1, 8, 8))
    assert caught.value.reason == "out-of-memory"
    with pytest.raises(ValueError, match="other"), gpu_memory_told():
        raise ValueError("other")
