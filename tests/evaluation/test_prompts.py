"""Segmentation from one patch: perfect features, hand-made thresholds, slow oracles."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_cache import small_cache
from small_networks import small_encoder
from torch import Tensor

from medssl.evaluation.encoder_tests import told_corrected
from medssl.evaluation.prompts import (
    THRESHOLDS,
    PromptScores,
    dice_at,
    middle_voxel,
    prompt_difference,
    prompt_scores,
    similarity,
    summarise_prompts,
    whole_maps,
)
from medssl.imaging.errors import CacheError, MedsslError
from medssl.models.anatomy import centred_directions


def test_the_middle_voxel_lies_inside() -> None:
    ring = np.zeros((7, 7), bool)
    ring[1:6, 1:6] = True
    ring[2:5, 2:5] = False
    assert ring[middle_voxel(ring)]
    line = np.zeros((3, 9), bool)
    line[1, 2:7] = True
    assert middle_voxel(line) == (1, 4)


def test_dice_at_every_threshold_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    values, mask = rng.uniform(-1, 1, (6, 7, 5)).astype(np.float32), rng.uniform(size=(6, 7, 5)) < 0.3
    values[0, 0, 0] = np.float32(0.5)
    expected = [2 * ((values >= t) & mask).sum() / ((values >= t).sum() + mask.sum()) for t in THRESHOLDS]
    np.testing.assert_allclose(dice_at(values, mask), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_prompted_patch_is_always_in_and_higher_thresholds_give_less(dims: int) -> None:
    generator = torch.Generator().manual_seed(0)
    level = centred_directions(torch.randn(1, 8, *(4, 3, 5)[:dims], generator=generator))
    stride, point = (2, 4, 3)[:dims], (5, 7, 11)[:dims]
    values = similarity(level, stride, point)
    assert values.shape == (8, 12, 15)[:dims]
    same = similarity(level, (1,) * dims, tuple(p // s for p, s in zip(point, stride, strict=True)))
    assert same[tuple(p // s for p, s in zip(point, stride, strict=True))] == pytest.approx(1)
    sizes = [(values >= t).sum() for t in THRESHOLDS]
    assert sizes == sorted(sizes, reverse=True)
    np.testing.assert_allclose(similarity(7 * level / 7, stride, point), values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_perfect_features_give_a_dice_of_one(tmp_path: Path, dims: int) -> None:
    cache = small_cache(tmp_path, [(12, 10, 8)[:dims]] * 2, labelled=[True] * 2)
    labels = iter([torch.from_numpy(cache.label(case)).long() for case in cache.cases])

    def maps(image: Tensor) -> list[tuple[Tensor, tuple[int, ...]]]:
        one_hot = torch.nn.functional.one_hot(next(labels), 3).movedim(-1, 0)[None].float()
        return [(centred_directions(one_hot), (1,) * dims)]

    found = prompt_scores(maps, 2, cache, cache.cases)
    assert found.structures == ("box", "box")
    assert found.small == 2, "the corner is one voxel"
    np.testing.assert_allclose(found.dice[..., -1], 1)
    with pytest.raises(CacheError, match="none can be prompted"):
        prompt_scores(whole_maps(small_encoder("unet", dims).eval()), 10**6, cache, cache.cases)


def test_ignored_voxels_count_nowhere(tmp_path: Path) -> None:
    cache = small_cache(tmp_path, [(8, 8)], labelled=[True], ignore_label=2)
    values = torch.zeros(1, 2, 8, 8)
    values[:, 0], values[:, 1] = -1, 0.5
    values[0, 0, 2:4, 2:4] = 1
    values[0, 0, 7, 7] = 1  # as like the box as the box, but nobody judged it
    found = prompt_scores(lambda image: [(torch.nn.functional.normalize(values, dim=1), (1, 1))], 1, cache, cache.cases)
    assert found.dice[0, 0, -1] == 1


def _scores(dice: list[list[list[float]]], patients: tuple[str, ...] = ("p", "q", "r")) -> PromptScores:
    return PromptScores(np.array(dice), ("box",) * len(dice), patients, 1)


def test_map_and_threshold_are_chosen_on_val_alone() -> None:
    val = _scores([[[0.1, 0.9], [0.2, 0.3]]], ("v",))
    test = _scores([[[0.6, 0.2], [1, 1]], [[0.4, 0.4], [1, 1]], [[0.1, 0.3], [1, 1]]])
    found = summarise_prompts([(val, test)])
    assert found["dice"]["estimate"] == pytest.approx(0.3)
    assert found["oracle"]["estimate"] == pytest.approx((0.6 + 0.4 + 0.3) / 3)
    assert found["chosen"] == [{"map": 1, "threshold": THRESHOLDS[1]}]
    other = [(_scores([[[0.9, 0.1], [0.2, 0.3]]], ("v",)), test)]
    found = prompt_difference((val, test), [other[0], other[0]])
    assert found.difference.estimate == pytest.approx(0.3 - 1.1 / 3)
    assert (found.ours, found.theirs) == (pytest.approx(0.3), pytest.approx([1.1 / 3] * 2))
    both = summarise_prompts([(val, test), other[0]])
    assert both["dice"]["estimate"] == pytest.approx((0.3 + 1.1 / 3) / 2)


@pytest.mark.parametrize(("gained", "verdict"), [(12, "better"), (2, "no difference shown")])
def test_a_gain_is_shown_by_the_patients_who_have_it(gained: int, verdict: str) -> None:
    """Of two patients with a large gain the interval leaves 0 out, where all others are answered alike."""
    patients = tuple(f"p{n}" for n in range(12))
    val = _scores([[[0.9]]], ("v",))
    worse = np.linspace(0.3, 0.5, 12)
    better = worse + 0.3 * (np.arange(12) < gained)
    ours, theirs = ((val, _scores(dice[:, None, None].tolist(), patients)) for dice in (better, worse))
    found = told_corrected({"differences": {"random": prompt_difference(ours, [theirs])}})["differences"]["random"]
    assert found["verdict"] == verdict
    assert found["p_value"] == found["smallest_p_value"] == 2 / 2**gained


def test_features_that_are_no_numbers_are_refused() -> None:
    encoder = small_encoder("unet", 2).eval()
    for parameter in encoder.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(MedsslError, match="no numbers") as caught:
        whole_maps(encoder)(torch.zeros(1, 1, 8, 8))
    assert caught.value.reason == "nan"
