"""Bags: what is read of volumes and patients, averages over them, and attention that padding cannot disturb."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_cache import small_cache

from medssl.evaluation.bags import GatedAttention, bag_probe, bag_scores, read_bags
from medssl.evaluation.features import Features, extract
from medssl.evaluation.probe_data import ProbeData
from medssl.imaging.errors import CacheError, ConfigError
from medssl.models.unet import ResidualUNetEncoder

_SPLITS = ("train", "train", "val", "val", "test", "test")


def test_slices_of_volumes(tmp_path: Path):
    cache = small_cache(tmp_path, [(8, 10, 6)] * 5 + [(8, 10, 3)], splits=_SPLITS, classes=("a", "b"))
    data = read_bags(cache, (8, 8), "slices", slice_axis=2, slices=4)
    assert data.bags is not None
    assert torch.bincount(data.bags).tolist() == [4] * 5 + [3]
    assert data.images.shape == (23, 1, 8, 8)
    assert data.targets[:, 0].tolist() == [False, True] * 3
    case = cache.cases[1]
    np.testing.assert_array_equal(data.images[4], cache.image(case)[:, :, 1:9, 0])
    np.testing.assert_array_equal(data.images[7], cache.image(case)[:, :, 1:9, 5])  # the last slice is among them
    first = read_bags(cache, (8, 6), "slices", slice_axis=0, slices=8)
    np.testing.assert_array_equal(first.images[2], cache.image(cache.cases[0])[:, 2, 1:9, :])
    assert first.images_in("val").tolist() == list(range(16, 32))


def test_images_of_patients(tmp_path: Path):
    cache = small_cache(
        tmp_path, [(8, 8)] * 9, splits=("train",) * 5 + ("val",) * 2 + ("test",) * 2,
        classes=("a", "a", "b", "b", "b", "a", "b", "a", "b"), patients=("p", "p", "q", "q", "q", "r", "s", "t", "u"),
    )  # fmt: skip
    data = read_bags(cache, (8, 8), "patient")
    assert data.patients == ("p", "q", "r", "s", "t", "u")
    assert data.bags is not None
    assert data.bags.tolist() == [0, 0, 1, 1, 1, 2, 3, 4, 5]
    mixed = small_cache(tmp_path / "mixed", [(8, 8)] * 2, classes=("a", "b"), patients=("p", "p"))
    with pytest.raises(CacheError, match="patient 'p' has cases of several classes"):
        read_bags(mixed, (8, 8), "patient")
    with pytest.raises(ConfigError, match="do not fit a 2D cache"):
        read_bags(mixed, (8, 8), "slices")


def test_images_of_studies(tmp_path: Path):
    cache = small_cache(
        tmp_path, [(8, 8)] * 8, splits=("train",) * 4 + ("val",) * 2 + ("test",) * 2,
        classes=("a", "a", "b", "b", "a", "b", "a", "b"), patients=("p", "p", "p", "q", "r", "r", "s", "s"),
        studies=("1", "1", "2", "1", "1", "2", "1", "2"),
    )  # fmt: skip
    data = read_bags(cache, (8, 8), "study")
    assert data.patients == ("p", "p", "q", "r", "r", "s", "s")  # one patient's studies may be of unlike classes
    assert data.bags is not None
    assert data.bags.tolist() == [0, 0, 1, 2, 3, 4, 5, 6]
    unnamed = small_cache(tmp_path / "unnamed", [(8, 8)] * 2, classes=("a", "b"))
    with pytest.raises(CacheError, match="2 of 2 cases have no study, first c0: fill the manifest's column study"):
        read_bags(unnamed, (8, 8), "study")


def test_features_of_a_bag_are_those_of_its_images():
    images = torch.randn(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    encoder = ResidualUNetEncoder(2, 1, features=(4, 8), blocks=(0, 1)).eval()
    single, bagged = extract(encoder, images), extract(encoder, images, torch.tensor([0, 0, 1, 1, 1]))
    torch.testing.assert_close(bagged.pooled["peak"][1], single.pooled["peak"][2:].mean(0))
    assert bagged.there is not None
    assert bagged.there.tolist() == [[True, True, False], [True, True, True]]
    torch.testing.assert_close(bagged.tokens[0, :2], single.pooled["mean"][:2])


def test_attention_sums_to_one_and_ignores_order_and_padding():
    torch.manual_seed(0)
    network = GatedAttention(6, 2).eval()
    bag, there = torch.randn(1, 4, 6), torch.tensor([[True, True, True, False]])
    weights = network.weights(network.enter(bag), there)
    assert weights.sum().item() == pytest.approx(1)
    assert weights[0, 3] == 0
    logits = network(bag, there)
    torch.testing.assert_close(network(bag[:, [2, 0, 1, 3]], there), logits)
    bag[0, 3] = 1e6
    torch.testing.assert_close(network(bag, there), logits)
    torch.testing.assert_close(network(bag[:, :1], there[:, :1]), network.out(network.enter(bag[:, 0])))


def _planted(count: int) -> tuple[Features, ProbeData]:
    """One image of each positive bag has the sign; the mean over a bag hides it."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(count)[:, None] % 2 == 1
    tokens = torch.randn(count, 12, 6, generator=generator)
    there = torch.arange(12) < torch.randint(6, 13, (count, 1), generator=generator)
    tokens[:, 3, 0] += 9.0 * targets[:, 0]
    tokens[~there] = 0
    splits = tuple(("train", "train", "train", "val", "test")[n // 2 % 5] for n in range(count))
    data = ProbeData(torch.zeros(1), targets, ("q",), splits, tuple(map(str, range(count))), torch.zeros(1))
    return Features({"mean": tokens.mean(1)}, tokens, there), data


def test_the_image_that_matters_is_found():
    features, data = _planted(120)
    result = bag_probe(features, data, [data.rows("train")])
    assert result.test > 0.95
    before = torch.get_rng_state()
    assert bag_probe(features, data, [data.rows("train")]) == result
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ConfigError, match="needs bags"):
        bag_probe(Features(features.pooled, features.tokens), data, [data.rows("train")])


def test_what_lies_in_padding_changes_no_score():
    features, data = _planted(60)
    assert features.there is not None
    known, asked = data.rows("train"), data.rows("test")
    first = bag_scores(features.tokens, features.there, data, known, asked, (1e-3, 1e-2))
    features.tokens[~features.there] = 77.0
    np.testing.assert_allclose(bag_scores(features.tokens, features.there, data, known, asked, (1e-3, 1e-2)), first)
