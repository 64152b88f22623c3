"""Few weights of an encoder: what is trained, that nothing changes at first, and that merging changes nothing."""

import sys

import pytest
import torch
from small_networks import small_encoder

from medssl.imaging.errors import ConfigError
from medssl.models.attention import SigmaLinear
from medssl.models.vit import ViT
from medssl.tasks.adaptation import adapt

_KINDS = ["vit", "swin", "resnet", "unet"]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", _KINDS)
def test_bitfit_trains_biases(kind: str, dims: int):
    encoder = small_encoder(kind, dims)
    adapt(encoder, "bitfit")()
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in encoder.named_parameters() if name.endswith("bias")}
    assert trained


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", _KINDS)
def test_lora_begins_as_the_encoder_and_merges_into_a_plain_one(kind: str, dims: int):
    pytest.importorskip("peft", reason="the extra peft is not installed")
    torch.manual_seed(0)
    encoder = small_encoder(kind, dims).eval()
    image = torch.randn(2, 1, *[16] * dims)
    before, names = encoder(image), list(encoder.state_dict())
    frozen = {name: value.clone() for name, value in encoder.state_dict().items()}
    merge = adapt(encoder, "lora", (2, 8, 0.0))
    for first, second in zip(before, encoder(image), strict=True):
        torch.testing.assert_close(first, second)
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    assert any("lora_A" in name for name in trained)
    assert all("lora_" in name or name.endswith("bias") for name in trained)
    assert sum(p.numel() for p in trained.values()) < sum(value.numel() for value in frozen.values())
    for parameter in trained.values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    changed = encoder(image)
    assert not torch.allclose(changed[-1], before[-1])
    merge()
    assert list(encoder.state_dict()) == names
    for first, second in zip(changed, encoder(image), strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)
    norms = [name for name in names if "norm" in name and name.endswith("weight")]
    assert all(torch.equal(encoder.state_dict()[name], frozen[name]) for name in norms)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("attention", ["sigma", "rope_sigma"])
def test_lora_beside_bounded_weights_is_merged_into_what_was_trained(attention: str):
    """The change is learned outside the bound; merged inside it, it would be divided by a singular value of its own."""
    pytest.importorskip("peft", reason="the extra peft is not installed")
    torch.manual_seed(0)
    encoder = ViT(2, 1, patch_size=4, width=24, depth=2, heads=2, attention=attention)
    for layer in encoder.modules():
        if isinstance(layer, SigmaLinear):
            layer.gamma.data *= 0.5  # as after pretraining: a weight of its own
    encoder.eval()
    image = torch.randn(2, 1, 16, 16)
    before = encoder.embed(image)
    merge = adapt(encoder, "lora", (2, 8, 0.0))
    torch.testing.assert_close(encoder.embed(image), before)
    for name, parameter in encoder.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    trained = encoder.embed(image)
    assert (trained - before).abs().max() > 0.1
    merge()
    torch.testing.assert_close(encoder.embed(image), trained, atol=1e-4, rtol=1e-4)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install .*\[peft\]"):
        adapt(small_encoder("vit", 2), "lora")
