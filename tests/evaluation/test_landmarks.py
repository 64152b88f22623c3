"""Landmarks in other cases: places known in advance, in mm of skewed grids, and tables that are wrong."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_cache import small_cache
from torch import Tensor

from medssl.data.cache import Cache, CachedCase
from medssl.evaluation.encoder_tests import told_corrected
from medssl.evaluation.landmarks import (
    choose_templates,
    landmark_errors,
    landmark_names,
    median_difference,
    read_landmarks,
    same_place_errors,
    structure_centres,
    summarise_errors,
)
from medssl.imaging.errors import CacheError, ConfigError
from medssl.imaging.geometry import Geometry
from medssl.imaging.preprocess import Restoration
from medssl.models.anatomy import AnatomyMaps, cell_places


@pytest.fixture(scope="module", params=[2, 3])
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    shapes = [(12, 10, 8), (12, 10, 8), (14, 11, 9), (10, 8, 8)]
    splits, patients = ("train", "train", "test", "test"), ("a", "b", "c", "d")
    folder = tmp_path_factory.mktemp("cache")
    made = small_cache(
        folder, [s[: request.param] for s in shapes], splits=splits, labelled=[True] * 4, patients=patients
    )
    return Cache(made.path, made._content, tuple(_skewed(case) for case in made.cases))


def _skewed(case: CachedCase) -> CachedCase:
    """The case on an oblique grid of 2 x 1.5 x 3 mm."""
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([2.0, 1.5, 3.0]), (5, -7, 11)
    grid = Geometry(affine, case.shape)
    return replace(case, record=Restoration(grid, grid))


def _by_place(shift: float = 0.0):
    """Embeddings that tell the voxel alone: a match lies where the template's voxel is, moved by so many voxels."""

    def embed(image: Tensor) -> AnatomyMaps:
        grid = image.shape[2:]
        own = float(image.flatten()[0]) >= 2000  # the cases c2 and c3, which are asked
        places = cell_places(grid, (1,) * len(grid)) + (shift if own else 0.0)
        waves = torch.cat([places * f for f in (0.05, 0.1)], 1)
        maps = torch.cat([waves.sin(), waves.cos()], 1).T.reshape(1, -1, *grid)
        maps = torch.nn.functional.normalize(maps, dim=1)
        return AnatomyMaps(maps, maps, (1,) * len(grid))

    return embed


def test_errors_are_distances_in_the_patient(cache: Cache) -> None:
    """The centres of the boxes, found at the template's voxel: the error is what both centres differ by, in mm."""
    places = structure_centres(cache, cache.cases)
    queries = cache.select("test")
    errors = landmark_errors(_by_place(), cache, cache.cases[:2], queries, places)
    assert errors.shape == (2, 2, 2)
    step = np.array([2.0, 1.5, 3.0])[: cache.spatial_dims]
    shape = np.array(cache.cases[0].shape)
    for number, case in enumerate(queries):
        away = np.minimum(shape, case.shape) - np.array(case.shape)  # the corner, or the last voxel before it
        assert errors[0, number, 1] == pytest.approx(np.linalg.norm(away * step), abs=1e-4)
    np.testing.assert_allclose(errors[0], errors[1])
    for shift in (0, 2):
        found = landmark_errors(_by_place(-shift), cache, cache.cases[:1], queries[:1], places)[0, 0, 0]
        centre, own = ([np.mean(range(n // 4, n // 2)) for n in s] for s in (shape, queries[0].shape))
        away = np.array(centre) + shift - np.array(own)
        assert found == pytest.approx(np.linalg.norm(away * step), abs=0.5 * np.linalg.norm(step))


def test_the_same_relative_place_scales_with_the_image(cache: Cache) -> None:
    dims = cache.spatial_dims
    template, query = cache.cases[0], cache.cases[2]
    index = np.zeros((2, 3))
    index[0, :dims] = (np.array(template.shape) - 1) / 2
    index[1, :dims] = (np.array(query.shape) - 1) / 2
    places = {
        case.case: {"middle": case.record.prepared.to_world(i)}
        for case, i in zip((template, query), index, strict=True)
    }
    assert same_place_errors((template,), (query,), places)[0, 0, 0] == pytest.approx(0, abs=1e-9)
    away = {**places, query.case: {"middle": places[query.case]["middle"] + [3.0, 4.0, 0]}}
    assert same_place_errors((template,), (query,), away)[0, 0, 0] == pytest.approx(5)


def test_templates_are_of_split_train_and_have_the_most_landmarks(cache: Cache) -> None:
    one, two = {"a": np.zeros(3)}, {"a": np.zeros(3), "b": np.zeros(3)}
    places = {"c0": one, "c1": two, "c2": two}
    assert [case.case for case in choose_templates(cache.cases, places, 5)] == ["c1", "c0"]
    assert landmark_names(choose_templates(cache.cases, places, 1), places) == ("a", "b")
    with pytest.raises(CacheError, match="no case of split train"):
        choose_templates(cache.cases, {"c2": two}, 1)


def test_a_patient_comes_by_its_best_case_not_its_worst(cache: Cache) -> None:
    """Patient p has the best and the worst case: with one template it is the best one of all, not that of q."""
    first, second, third = (
        replace(cache.cases[0], case=name, patient=patient) for name, patient in (("x", "p"), ("y", "q"), ("z", "p"))
    )
    marks = {name: np.zeros(3) for name in "abc"}
    places = {"x": marks, "y": {n: marks[n] for n in "ab"}, "z": {"a": marks["a"]}}
    cases = (first, second, third)
    assert [case.case for case in choose_templates(cases, places, 1)] == ["x"]
    assert [case.case for case in choose_templates(cases, places, 5)] == ["x", "y"]


def test_numbers_and_intervals_over_patients() -> None:
    errors = np.array([[[1.0, 4.0], [3.0, math.nan], [5.0, 20.0]]])
    found = summarise_errors(errors, ("a", "b"), ("p", "q", "q"), (2.0, 5.0), 100)
    assert found["searches"] == 5
    assert found["median_mm"]["estimate"] == 4
    assert found["mean_mm"]["estimate"] == pytest.approx(33 / 5)
    assert found["within_2_mm"]["estimate"] == pytest.approx(1 / 5)
    assert found["landmarks"]["a"]["within_5_mm"]["estimate"] == 1
    assert found["landmarks"]["b"]["median_mm"]["estimate"] == 12
    assert found["median_mm"]["clusters"] == 2
    nearer = median_difference(errors, [errors + 1.5], ("p", "q", "q"), 100)
    interval = nearer.difference
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((-1.5, -1.5, -1.5))
    assert (nearer.ours, nearer.theirs) == (4, [5.5])
    nothing = summarise_errors(np.full((1, 2, 1), math.nan), ("a",), ("p", "q"), (2.0,), 100)
    assert nothing["median_mm"]["estimate"] is None


@pytest.mark.parametrize(("nearer", "verdict"), [(12, "better"), (2, "no difference shown")])
def test_nearer_is_said_where_many_patients_are(nearer: int, verdict: str) -> None:
    patients = [f"p{n}" for n in range(12)]
    far = np.random.default_rng(0).uniform(8, 9, (2, 12, 3))
    ours = far - 5 * (np.arange(12) < nearer)[:, None]
    found = told_corrected({"random": median_difference(ours, [far, far], patients, 200)})["random"]
    assert found["verdict"] == verdict
    assert found["p_value"] == found["smallest_p_value"] == 2 / 2**nearer


def test_a_table_is_read_and_everything_wrong_in_it_is_told(cache: Cache, tmp_path: Path) -> None:
    good = tmp_path / "good.csv"
    good.write_text("case,name,x,y,z\nc0,tip,5,-7,11\nc2,tip,6,-6,11\n")
    found = read_landmarks(good, cache)
    np.testing.assert_array_equal(found["c2"]["tip"], (6, -6, 11))
    bad = tmp_path / "bad.csv"
    bad.write_text(
        "case,name,x,y,z\nc0,tip,5,-7,11\nc0,tip,5,-7,11\nno,tip,1,1,1\nc1,tip,a,0,0\nc1,tip,900,0,0\n"
        "c1,,5,-7,11\nc1,tip,nan,0,0\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_landmarks(bad, cache)
    told = caught.value.problems
    assert [problem.split(" line ")[1].split(":")[0] for problem in told] == ["3", "4", "5", "6", "7", "8"]
    for problem, words in zip(
        told,
        ("there twice", "not in the cache", "must be numbers", "lies outside", "is empty", "lies outside"),
        strict=True,
    ):
        assert words in problem
    for text, words in (("case,name,x,y\n", "no column 'z'"), ("case,name,x,y,z\n", "names no landmark")):
        bad.write_text(text)
        with pytest.raises(ConfigError, match=words):
            read_landmarks(bad, cache)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_landmarks(tmp_path / "none.csv", cache)
