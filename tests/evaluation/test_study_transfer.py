"""Scores of frozen encoders beside fine-tuned results: orders known in advance, features of known voxels."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, spearmanr
from small_cache import small_cache
from small_networks import small_encoder

from medssl.evaluation import study_transfer
from medssl.evaluation.features import Features, extract
from medssl.evaluation.study_transfer import CaseFeatures, case_features, rank_correlation, transfer_scores
from medssl.evaluation.transferability import SCORES, logme
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.models.encoder import Encoder


def test_orders_that_are_alike_opposite_or_none() -> None:
    results = {"a": 0.9, "b": 0.7, "c": 0.5, "d": 0.3}
    for scores, due in (({"a": 4, "b": 3, "c": 2, "d": 1}, 1), ({"a": 1, "b": 2, "c": 3, "d": 4}, -1)):
        found = rank_correlation(scores, results)
        assert (found["weighted_tau"], found["kendall"], found["spearman"]) == pytest.approx((due,) * 3)
        assert found["p_value"] == pytest.approx(2 / 24), "the most that four arms can show"
        assert (found["arms"], found["few"]) == (4, True)
    mixed = {"a": 4.0, "b": 1.0, "c": 3.0, "d": 2.0}
    found = rank_correlation(mixed, results)
    assert found["kendall"] == pytest.approx(kendalltau(list(mixed.values()), list(results.values())).statistic)
    assert found["spearman"] == pytest.approx(spearmanr(list(mixed.values()), list(results.values())).statistic)
    assert found["weighted_tau"] > found["kendall"], "the best arm is in its place, which counts most"


def test_what_has_no_order_is_null() -> None:
    for scores, results, arms in (
        ({"a": 1.0, "b": 1.0}, {"a": 0.1, "b": 0.2}, 2),
        ({"a": 1.0, "b": math.nan}, {"a": 0.1, "b": 0.2}, 1),
        ({"a": 1.0, "b": 2.0}, {"a": 0.1}, 1),
        ({}, {}, 0),
    ):
        found = rank_correlation(scores, results)
        assert found == {"arms": arms, "few": True, **dict.fromkeys(("weighted_tau", "kendall", "spearman", "p_value"))}
    assert not rank_correlation({str(n): n for n in range(8)}, {str(n): n for n in range(8)})["few"]


def test_one_class_has_no_score() -> None:
    rng = np.random.default_rng(0)
    cases = [CaseFeatures(rng.normal(size=(4, 3)), np.zeros(4, int)) for _ in range(3)]
    assert all(math.isnan(value) for value in transfer_scores(cases).values())
    cases.append(CaseFeatures(rng.normal(size=(4, 3)), np.ones(4, int)))
    found = transfer_scores(cases)
    assert set(found) == set(SCORES)
    together = [np.concatenate([getattr(case, name) for case in cases]) for name in ("values", "classes")]
    assert found["logme"] == pytest.approx(logme(*together))


def test_collapsed_features_have_no_score_and_it_is_said() -> None:
    cases = [CaseFeatures(np.full((4, 3), 0.25), np.array([0, 1, 0, 1])) for _ in range(3)]
    with pytest.raises(ConfigError, match="do not vary over the cases"):
        transfer_scores(cases)


@pytest.mark.parametrize("dims", [2, 3])
def test_voxels_have_the_features_of_the_cells_that_hold_them(tmp_path: Path, dims: int) -> None:
    shape = (12, 10, 8)[:dims]
    cache = small_cache(tmp_path, [shape] * 2, labelled=[True] * 2)
    torch.manual_seed(0)
    encoder = small_encoder("unet", dims).eval()
    case = cache.cases[1]
    own = case_features(encoder, cache, cache.cases, shape, segmentation=True)[case.case]
    label = cache.label(case)
    counts = [int((label == value).sum()) for value in range(3)]
    assert np.bincount(own.classes).tolist() == [min(n, 20) for n in counts]
    levels = encoder(torch.from_numpy(cache.image(case).astype(np.float32))[None])
    place = tuple(n - 1 for n in shape)
    assert label[place] == 2
    expected = torch.cat([
        level[(0, slice(None), *(p // s for p, s in zip(place, stride, strict=True)))]
        for level, stride in zip(levels, encoder.strides, strict=True)
    ])  # fmt: skip
    np.testing.assert_allclose(own.values[own.classes == 2][0], expected.detach().double().numpy(), rtol=1e-5)


def test_crops_of_large_images_hold_a_class(tmp_path: Path) -> None:
    """The corner is one voxel of 40 x 40, the box fills a sixteenth: the middle crop of 8 x 8 has neither."""
    cache = small_cache(tmp_path, [(40, 40)] * 6, labelled=[True] * 6)
    found = case_features(small_encoder("unet", 2).eval(), cache, cache.cases, (8, 8), segmentation=True)
    assert all(set(own.classes.tolist()) & {1, 2} for own in found.values())


def test_crops_have_one_vector_and_broken_encoders_are_told(tmp_path: Path) -> None:
    cache = small_cache(tmp_path, [(12, 9)] * 4, classes=("no", "yes"))
    encoder = small_encoder("vit", 2).eval()
    found = case_features(encoder, cache, cache.cases, (8, 8), segmentation=False)
    assert [case.values.shape for case in found.values()] == [(1, 12)] * 4
    assert [int(case.classes[0]) for case in found.values()] == [0, 1, 0, 1]
    for parameter in encoder.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(MedsslError, match="no numbers"):
        case_features(encoder, cache, cache.cases, (8, 8), segmentation=False)


def test_some_crops_are_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = small_cache(tmp_path, [(12, 9)] * 5, classes=("no", "yes"))
    encoder, seen = small_encoder("vit", 2).eval(), []

    def watched(encoder: Encoder, images: torch.Tensor) -> Features:
        seen.append(images)
        return extract(encoder, images)

    monkeypatch.setattr(study_transfer, "extract", watched)
    monkeypatch.setattr(study_transfer, "_SEEN", 2)
    found = case_features(encoder, cache, cache.cases, (8, 8), segmentation=False)
    assert [len(images) for images in seen] == [2, 2, 1]
    every = extract(encoder, torch.cat(seen)).pooled["mean"].double().numpy()
    np.testing.assert_allclose(np.concatenate([case.values for case in found.values()]), every, rtol=1e-5)
