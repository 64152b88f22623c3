from itertools import pairwise
from pathlib import Path

import pytest
from phantoms import phantom_cache, texture_cache
from small_cache import small_cache

from medssl.data.cache import Cache, CachedCase
from medssl.imaging.errors import ConfigError
from medssl.tasks.options import SubsetOptions
from medssl.training.shares import looked_at, make_shares, never_seen, tells_apart


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """12 patients with two sides each: 8 train, 2 val, 2 test."""
    return phantom_cache(tmp_path_factory.mktemp("cache"), 2, 12, sides=2)


def _patients(cases: tuple[CachedCase, ...]) -> set[str]:
    return {case.patient for case in cases}


def test_the_manifest_s_split_decides_without_folds(cache: Cache) -> None:
    (share,) = make_shares(cache, "segmentation", SubsetOptions())
    assert _patients(share.train) == {f"p{n}" for n in range(8)}
    assert _patients(share.validation) == {"p8", "p9"}
    assert len(share.train) == 16
    assert share.folder(Path("run")) == Path("run")


def test_fewer_labels_lie_within_more_and_a_patient_brings_both_sides(cache: Cache) -> None:
    taken = [
        _patients(make_shares(cache, "segmentation", SubsetOptions(labels=n, seed=3))[0].train) for n in range(1, 9)
    ]
    assert [len(patients) for patients in taken] == list(range(1, 9))
    assert all(small < large for small, large in pairwise(taken))
    (share,) = make_shares(cache, "segmentation", SubsetOptions(labels=3, seed=3))
    assert len(share.train) == 6
    others = [_patients(make_shares(cache, "segmentation", SubsetOptions(labels=3, seed=s))[0].train) for s in range(9)]
    assert len({frozenset(patients) for patients in others}) > 3


@pytest.mark.parametrize("labels", [0, 6])
def test_folds_hold_each_patient_out_once_and_never_touch_the_test(cache: Cache, labels: int) -> None:
    shares = make_shares(cache, "segmentation", SubsetOptions(folds=3, labels=labels))
    assert [share.name for share in shares] == ["fold_0", "fold_1", "fold_2"]
    held = [_patients(share.validation) for share in shares]
    assert sum(map(len, held)) == len(set.union(*held)) == (labels or 10)
    for share in shares:
        assert not _patients(share.train) & _patients(share.validation)
        assert _patients(share.train) | _patients(share.validation) == set.union(*held)
        assert not {"p10", "p11"} & (_patients(share.train) | _patients(share.validation))
    assert make_shares(cache, "segmentation", SubsetOptions(folds=3, fold=1, labels=labels)) == [shares[1]]


def test_classification_needs_classes_and_segmentation_labels(cache: Cache, tmp_path: Path) -> None:
    textures = texture_cache(tmp_path, 2, 8)
    assert len(make_shares(textures, "classification", SubsetOptions())[0].train) == 4
    with pytest.raises(ConfigError, match="no case of split train has a label map"):
        make_shares(textures, "segmentation", SubsetOptions())
    with pytest.raises(ConfigError, match="has a class"):
        make_shares(cache, "classification", SubsetOptions())


def test_one_class_is_nothing_to_learn_from(tmp_path: Path) -> None:
    textures = texture_cache(tmp_path, 2, 8)
    with pytest.raises(ConfigError, match="only, so nothing can be told apart"):
        make_shares(textures, "classification", SubsetOptions(labels=1))
    assert len(make_shares(textures, "classification", SubsetOptions(labels=2))[0].train) == 2
    alone = Cache(textures.path, textures._content, tuple(c for c in textures.cases if c.class_name == "fine"))
    with pytest.raises(ConfigError) as caught:
        make_shares(alone, "classification", SubsetOptions(folds=2))
    assert ["of fold_0" in caught.value.problems[0], "of fold_1" in caught.value.problems[1]] == [True, True]


def test_a_part_of_the_validation_cases_has_its_classes(tmp_path: Path) -> None:
    """Manifests are often sorted by class."""
    cases = sorted(texture_cache(tmp_path, 2, 20).cases, key=lambda case: case.class_name)
    for most in range(2, 20):
        part = looked_at(cases, most)
        assert len(part) == most
        assert abs(sum(case.class_name == "fine" for case in part) - most / 2) < 1
        assert list(part) == [case for case in cases if case in part]
    assert looked_at(cases, 0) == looked_at(cases, 20) == tuple(cases)


def test_cases_of_one_class_or_without_a_structure_tell_nothing_apart(cache: Cache, tmp_path: Path) -> None:
    textures = texture_cache(tmp_path, 2, 8)
    assert tells_apart(textures, "classification", textures.cases)
    assert not tells_apart(textures, "classification", textures.cases[:1])
    assert tells_apart(cache, "segmentation", cache.cases[:1])
    assert not tells_apart(textures, "segmentation", ())


def test_more_than_there_is_is_refused(cache: Cache) -> None:
    with pytest.raises(ConfigError, match="8 labelled patients"):
        make_shares(cache, "segmentation", SubsetOptions(labels=9))
    with pytest.raises(ConfigError, match="folds"):
        make_shares(cache, "segmentation", SubsetOptions(folds=11))


def test_classes_and_structures_that_no_case_to_learn_from_has_are_named(cache: Cache, tmp_path: Path) -> None:
    (share,) = make_shares(cache, "segmentation", SubsetOptions(labels=2))
    assert never_seen(cache, "segmentation", share) == []
    content = {**cache._content, "labels": [*cache._content["labels"], {"value": 9, "name": "cyst"}]}
    assert never_seen(Cache(cache.path, content, cache.cases), "segmentation", share) == ["cyst"]
    kinds = small_cache(tmp_path, [(8, 8)] * 4, classes=["a", "b", "a", "c"], splits=["train"] * 3 + ["val"])
    (share,) = make_shares(kinds, "classification", SubsetOptions())
    assert never_seen(kinds, "classification", share) == ["c"]
