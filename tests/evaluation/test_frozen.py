"""Frozen features: what is read of a cache, how it is pooled, and that the encoder's weights stay as they are."""

import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_cache import small_cache
from small_networks import small_encoder

from medssl.evaluation import frozen
from medssl.evaluation.bags import read_bags
from medssl.evaluation.features import Features, calibrate, extract
from medssl.evaluation.frozen import pretrained_encoder, random_encoder
from medssl.evaluation.probe_data import ProbeData, read_probe_data
from medssl.evaluation.probes import ProbeResult
from medssl.imaging.errors import CacheError
from medssl.models.component import Component
from medssl.models.encoder import Encoder
from medssl.models.resnet import ResNet
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT
from medssl.models.weights import save_encoder

_SPLITS = ("train", "train", "val", "val", "test", "test")


def _encoders(dims: int) -> list[Encoder]:
    return [
        ViT(dims, 1, patch_size=4, width=12, depth=2, heads=2),
        ResNet(dims, 1, depth=10, width=4, small=True),
        ResidualUNetEncoder(dims, 1, features=(4, 8), blocks=(0, 1)),
    ]


@pytest.mark.parametrize("dims", [2, 3])
def test_pooling_is_that_of_the_maps(dims: int):
    images = torch.randn(3, 1, *[16] * dims, generator=torch.Generator().manual_seed(0))
    for encoder in _encoders(dims):
        features = extract(encoder.eval(), images)
        with torch.no_grad():
            maps = encoder(images)
        axes = tuple(range(2, 2 + dims))
        torch.testing.assert_close(features.pooled["mean"], maps[-1].mean(axes))
        torch.testing.assert_close(features.pooled["peak"][:, maps[-1].shape[1] :], maps[-1].amax(axes))
        torch.testing.assert_close(features.pooled["levels"], torch.cat([m.mean(axes) for m in maps], 1))
        assert ("summary" in features.pooled) == isinstance(encoder, ViT)
        torch.testing.assert_close(features.tokens.mean(1), maps[-1].mean(axes), atol=0.3, rtol=1.0)
        assert features.tokens.shape[::2] == (3, maps[-1].shape[1])


@pytest.mark.parametrize("dims", [2, 3])
def test_class_tokens_of_the_last_blocks_are_those_of_shallower_encoders(dims: int):
    """The token after k blocks is the summary of the encoder that ends there."""
    torch.manual_seed(0)
    encoder = ViT(dims, 1, patch_size=4, width=12, depth=3, heads=2, registers=1).eval()
    images = torch.randn(5, 1, *[8] * dims)
    found = extract(encoder, images, blocks=(1, 2, 9)).blocks
    assert [(name, value.shape[1]) for name, value in found.items()] == [
        ("class tokens of 1", 12), ("class tokens of 1 and patches", 24),
        ("class tokens of 2", 24), ("class tokens of 2 and patches", 36),
        ("class tokens of 3", 36), ("class tokens of 3 and patches", 48),
    ]  # fmt: skip
    expected = []
    for depth in (1, 2, 3):
        shallow = ViT(dims, 1, patch_size=4, width=12, depth=depth, heads=2, registers=1).eval()
        shallow.load_state_dict(encoder.state_dict(), strict=False)
        expected.append(shallow.summary(images).detach())
    torch.testing.assert_close(found["class tokens of 3"], torch.cat(expected, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["class tokens of 2"], torch.cat(expected[1:], 1), rtol=1e-4, atol=1e-5)
    patches = found["class tokens of 1 and patches"][:, 12:]
    torch.testing.assert_close(patches, encoder.embed(images).detach(), rtol=1e-4, atol=1e-5)
    bags = extract(encoder, images, torch.tensor([0, 0, 1, 1, 1]), blocks=(1,)).blocks["class tokens of 1"]
    torch.testing.assert_close(bags[1], found["class tokens of 1"][2:].mean(0))


def test_the_comparison_of_methods_keeps_its_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Numbers of `medssl benchmark` that were measured before must stay what they would be now."""
    splits = ("train",) * 4 + ("val",) * 2 + ("test",) * 2
    data = read_probe_data(small_cache(tmp_path, [(8, 8)] * 8, splits=splits, classes=("a", "b")), (8, 8), "class")
    seen: list[Features] = []

    def probe(features: Features, *rest: object) -> ProbeResult:
        seen.append(features)
        return ProbeResult("", 0.5, 0.5, ())

    monkeypatch.setattr(frozen, "PROBES", {"linear": probe})
    frozen.judge(ViT(2, 1, patch_size=4, width=12, depth=2, heads=2), data, [])
    assert (list(seen[0].pooled), seen[0].blocks) == (["mean", "peak", "levels", "summary"], {})
    assert extract(small_encoder("unet", 2).eval(), torch.randn(3, 1, 8, 8), blocks=(1,)).blocks == {}


def test_batch_norm_meets_the_images_and_no_weight_moves():
    images = 7 + 3 * torch.randn(40, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for encoder in _encoders(2):
        weights = [p.clone() for p in encoder.parameters()]
        buffers = {name: b.clone() for name, b in encoder.named_buffers()}
        calibrate(encoder, images)
        assert not encoder.training
        assert all(torch.equal(a, b) for a, b in zip(weights, encoder.parameters(), strict=True))
        moved = [name for name, b in encoder.named_buffers() if not torch.equal(b, buffers[name])]
        assert bool(moved) == isinstance(encoder, ResNet)
        if isinstance(encoder, ResNet):
            with torch.no_grad():
                out = encoder(images)[0]
            encoder.train()
            with torch.no_grad():
                own = encoder(images)[0]
            torch.testing.assert_close(out, own, atol=0.05, rtol=0.05)


def test_batch_norm_meets_the_training_images_without_a_copy_of_them():
    images = torch.randn(40, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(0, 40, 2)
    first, second = (ResNet(2, 1, depth=10, width=4, small=True) for _ in range(2))
    second.load_state_dict(first.state_dict())
    calibrate(first, images[rows])
    calibrate(second, images, rows)
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))


@pytest.mark.parametrize("bags", [False, True])
def test_images_are_in_memory_once_and_refused_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bags: bool
):
    splits = ("train",) * 12 + ("val",) * 6 + ("test",) * 6
    cache = small_cache(tmp_path, [(128, 128)] * 24, splits=splits, classes=("a", "b"))

    def read() -> ProbeData:
        return read_bags(cache, (128, 128), "patient") if bags else read_probe_data(cache, (128, 128), "class")

    tracemalloc.start()
    images = read().images
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * images.nbytes
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=images.nbytes))
    with pytest.raises(
        CacheError, match=r"24 images of 1 x 128 x 128 .* take 0\.00146 GiB .* a smaller size.*medssl embed"
    ) as error:
        read()
    assert error.value.reason == "out-of-memory"


def test_classes_are_asked_of_the_middle_of_each_case(tmp_path: Path):
    shapes = [(8, 8), (10, 12), (8, 8), (12, 8), (8, 8), (6, 6)]
    cache = small_cache(tmp_path, shapes, splits=_SPLITS, classes=("a", "b"))
    data = read_probe_data(cache, (8, 8), "class")
    assert data.names == ("b",)
    assert data.targets[:, 0].tolist() == [False, True] * 3
    assert data.rows("val").tolist() == [2, 3]
    torch.testing.assert_close(data.images[1, 0], torch.from_numpy(cache.crop_image(cache.cases[1], (1, 2), (8, 8))[0]).float())  # fmt: skip  # noqa: E501
    assert data.images.shape == (6, 1, 8, 8)
    with pytest.raises(CacheError, match="no case of split val"):
        read_probe_data(small_cache(tmp_path / "no", shapes, classes=("a", "b")), (8, 8), "class")


def test_a_class_that_a_split_lacks_is_named_with_its_counts_and_a_way_out(tmp_path: Path):
    splits = ("train",) * 4 + ("val",) * 3 + ("test",) * 3
    classes = ("a", "b", "c", "c", "a", "b", "a", "a", "b", "c")
    cache = small_cache(tmp_path, [(8, 8)] * 10, splits=splits, classes=classes)
    with pytest.raises(CacheError) as error:
        read_probe_data(cache, (8, 8), "class")
    assert error.value.reason == "one-class"
    said = error.value.message
    assert "one answer only, where each needs an image with either" in said
    assert "Images of class: 'c' (train 2 of 4, val 0 of 3, test 1 of 3)." in said  # and no other one
    assert "another --split or --seed" in said
    assert "the class merged into another in the column class" in said


def test_a_class_that_all_of_a_split_are_of_is_named_too(tmp_path: Path):
    cache = small_cache(tmp_path, [(8, 8)] * 6, splits=_SPLITS, classes=("a", "b", "b", "b", "a", "b"))
    with pytest.raises(CacheError, match=r"Images of class: 'b' \(train 1 of 2, val 2 of 2, test 1 of 2\)\. Prepare"):
        read_probe_data(cache, (8, 8), "class")


def test_a_structure_that_no_crop_of_a_split_shows_is_named(tmp_path: Path):
    cache = small_cache(tmp_path, [(12, 12)] * 6, splits=_SPLITS, labelled=[True] * 6)
    with pytest.raises(
        CacheError, match=r"more of the structure than the median crop: .*take more crops of each case \(crops\)"
    ):
        read_probe_data(cache, (12, 12), "structures", crops=1)  # each crop is the whole case


def test_structures_are_asked_of_crops_and_the_median_is_that_of_train(tmp_path: Path):
    cache = small_cache(tmp_path, [(12, 12)] * 6, splits=_SPLITS, labelled=[True] * 6)
    data = read_probe_data(cache, (7, 7), "structures", crops=60)
    assert data.names == ("box", "corner")
    assert len(data.images) == 360
    assert 0 < float(data.targets[data.rows("train")].float().mean()) <= 0.5
    for image, answers in zip(data.images, data.targets, strict=True):
        number, position = divmod(float(image[0, 0, 0]), 1000)
        assert number < 6
        row, column = divmod(int(position), 12)
        inside = max(0, min(row + 7, 6) - max(row, 3)) * max(0, min(column + 7, 6) - max(column, 3))
        assert inside > 0 or not answers[0]
        assert bool(answers[1]) == ((row, column) == (5, 5))
    again = read_probe_data(cache, (7, 7), "structures", crops=60)
    assert torch.equal(again.images, data.images)


def test_an_encoder_file_is_loaded_strictly_and_random_weights_are_the_seed_s(tmp_path: Path):
    component = Component("medssl.models.vit.ViT", {"patch_size": 4, "width": 12, "depth": 1, "heads": 2})
    encoder = random_encoder(component, 2, ("x",), seed=3)
    again, other = (random_encoder(component, 2, ("x",), seed=seed) for seed in (3, 4))
    assert torch.equal(again.get_parameter("norm.weight"), encoder.get_parameter("norm.weight"))
    assert torch.equal(again.get_parameter("patch_embed.weight"), encoder.get_parameter("patch_embed.weight"))
    assert not torch.equal(other.get_parameter("patch_embed.weight"), encoder.get_parameter("patch_embed.weight"))
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, encoder.state_dict(), None, {"encoder": component.to_json()})
    read = pretrained_encoder(path, 2, ("x",))
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), read.parameters(), strict=True))
