"""Models of timm as encoders, without their weights: nothing is downloaded. Run by `make test-peers`."""

import pytest
import torch

from medssl.imaging.errors import ConfigError
from medssl.methods.simclr import SimCLR
from medssl.models import timm_encoder
from medssl.models.batch_norm import BatchNorm
from medssl.models.decoders import UNetDecoder
from medssl.models.timm_encoder import TimmEncoder

pytestmark = pytest.mark.filterwarnings("ignore")  # timm's imports warn of torch's own future


def test_3d_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="2D"):
        TimmEncoder(3, 1, "resnet18")


def test_without_timm_the_message_says_what_to_install() -> None:
    try:
        import timm  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(ConfigError, match="timm"):
            TimmEncoder(2, 1, "resnet18")
    else:
        with pytest.raises(ConfigError, match="no model 'resnet1888'"):
            TimmEncoder(2, 1, "resnet1888")


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "convnext_atto",
        "efficientnet_b0",
        "efficientvit_b0",
        "swinv2_tiny_window8_256",
        "vit_tiny_patch16_224",
    ],
)
def test_a_model_by_name_has_a_pyramid_trains_and_segments(name: str) -> None:
    pytest.importorskip("timm", reason="timm is tested by make test-peers")
    torch.manual_seed(0)
    encoder = TimmEncoder(2, 2, name, image_size=[64, 64])
    image = torch.randn(2, 2, 64, 64)
    maps = encoder(image)
    assert [m.shape[1] for m in maps] == list(encoder.feature_channels)
    assert [tuple(64 // n for n in m.shape[2:]) for m in maps] == list(encoder.strides)
    assert encoder.embed(image).shape == (2, encoder.feature_channels[-1])
    assert set(dict(encoder.model.named_children())) == {n.removeprefix("model.") for n in encoder.layer_depths()}
    SimCLR(encoder, width=8, hidden=8)({"views": torch.stack([image, image.flip(3)]), "patient": torch.arange(2)})[
        "loss"
    ].backward()
    if "vit" not in name:
        assert UNetDecoder(encoder, 3)(image, maps).shape == (2, 3, 64, 64)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "vit_tiny_patch16_224"])
def test_transformers_see_views_of_other_sizes(name: str) -> None:
    pytest.importorskip("timm", reason="timm is tested by make test-peers")
    encoder = TimmEncoder(2, 1, name, image_size=[64, 64])
    for size in ((64, 64), (32, 32), (80, 96)):
        assert encoder.embed(torch.randn(2, 1, *size)).shape == (2, encoder.feature_channels[-1])


def test_channels_come_first_where_maps_are_as_high_as_they_have_channels() -> None:
    pytest.importorskip("timm", reason="timm is tested by make test-peers")
    encoder = TimmEncoder(2, 1, "swinv2_tiny_window8_256", image_size=[384, 384]).eval()
    image = torch.randn(1, 1, 384, 384)
    with torch.no_grad():
        found, theirs = encoder(image)[0], encoder.model(image)[0]
    assert found.shape == theirs.shape == (1, 96, 96, 96)
    assert torch.equal(found, theirs.movedim(-1, 1))


def test_a_model_of_one_size_says_so() -> None:
    pytest.importorskip("timm", reason="timm is tested by make test-peers")
    encoder = TimmEncoder(2, 1, "beit_base_patch16_224", image_size=[64, 64])
    with pytest.raises(AssertionError, match="64"):
        encoder.embed(torch.randn(1, 1, 32, 32))


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "densenet121"])
def test_batch_norms_are_over_all_processes_and_compute_the_same_in_one(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is tested by make test-peers")
    torch.manual_seed(0)
    theirs = timm.create_model(name, in_chans=1, features_only=True)
    encoder = TimmEncoder(2, 1, name)
    assert encoder.model.state_dict().keys() == theirs.state_dict().keys()
    encoder.model.load_state_dict(theirs.state_dict())
    norms = [part for part in encoder.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(type(part) is BatchNorm for part in norms)
    image = torch.randn(2, 1, 64, 64)
    for mode in (True, False):
        for one, other in zip(encoder.train(mode)(image), theirs.train(mode)(image), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_model_with_other_statistics_is_refused_in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm", reason="timm is tested by make test-peers")
    monkeypatch.setattr(timm_encoder, "convert_batch_norms", lambda module: ["stem.norm"])
    TimmEncoder(2, 1, "resnet18")
    monkeypatch.setattr(timm_encoder, "several_processes", lambda: True)
    with pytest.raises(ConfigError, match=r"each device alone \(1, first stem\.norm\)"):
        TimmEncoder(2, 1, "resnet18")
