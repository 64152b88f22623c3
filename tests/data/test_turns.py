"""Two data sets in turns: whose step it is, and that each gives what it would give alone."""

from pathlib import Path

import pytest
import torch
from small_cache import small_cache

from medssl.data.cache import Cache
from medssl.data.dataset import CropPlan, StepDataset
from medssl.data.turns import ByDimension, Turns


@pytest.fixture
def caches(tmp_path: Path) -> tuple[Cache, Cache]:
    return small_cache(tmp_path / "flat", [(12, 12)] * 3), small_cache(tmp_path / "deep", [(9, 9, 9)] * 2)


def _turns(caches: tuple[Cache, Cache], share: float, parts: int = 1) -> Turns:
    return Turns(*_alone(caches, parts), share)


def _alone(caches: tuple[Cache, Cache], parts: int = 1) -> tuple[StepDataset, StepDataset]:
    flat, deep = caches
    return (
        StepDataset(flat, flat.cases, CropPlan((8, 8), 4, parts, seed=5)),
        StepDataset(deep, deep.cases, CropPlan((8, 8, 8), 2, parts, seed=5)),
    )


@pytest.mark.parametrize(
    ("share", "order"), [(0.5, "2323232323"), (0.25, "2223222322"), (0.75, "2333233323"), (0.1, "2222222223")]
)
def test_the_share_holds_over_any_stretch(caches: tuple[Cache, Cache], share: float, order: str) -> None:
    turns = _turns(caches, share)
    assert "".join(str(turns[step]["image"].ndim - 2) for step in range(10)) == order


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("share", [0.5, 0.3])
def test_each_gives_its_own_steps_in_order_and_all_parts_of_a_step(
    caches: tuple[Cache, Cache], parts: int, share: float
) -> None:
    turns, alone = _turns(caches, share, parts), _alone(caches, parts)
    done = [0, 0]
    for step in range(12):
        kinds = {turns[step * parts + part]["image"].ndim - 4 for part in range(parts)}
        assert len(kinds) == 1
        second = kinds.pop()
        for part in range(parts):
            batch = turns[step * parts + part]
            expected = alone[second][done[second] * parts + part]
            assert batch["step"] == step * parts + part
            assert all(torch.equal(batch[name], expected[name]) for name in ("image", "index", "patient"))
        done[second] += 1
    assert all(done)


def test_damaged_cases_of_the_second_are_counted_behind_the_first(caches: tuple[Cache, Cache]) -> None:
    flat, deep = caches
    (flat.path / "cases" / "c2" / "image.b2nd").unlink()
    (deep.path / "cases" / "c1" / "image.b2nd").unlink()
    turns = _turns(caches, 0.5)
    assert turns[0]["damaged"].tolist() == [2]
    assert turns[1]["damaged"].tolist() == [4]


def test_each_dimension_is_varied_by_its_own() -> None:
    varied = ByDimension({dims: lambda batch, d=dims: {**batch, "by": d} for dims in (2, 3)})
    assert varied({"image": torch.zeros(1, 1, 4, 4)})["by"] == 2
    assert varied({"image": torch.zeros(1, 1, 4, 4, 4)})["by"] == 3
