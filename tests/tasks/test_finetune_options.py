import pytest

from medssl.imaging.errors import ConfigError
from medssl.tasks.options import CropOptions, InferenceOptions, SubsetOptions, TransferOptions


@pytest.mark.parametrize(
    ("make", "values", "count"),
    [
        (CropOptions, {"size": (4,), "foreground": 1.5}, 2),
        (TransferOptions, {"encoder_lr": -1, "frozen_steps": -1, "thaw_steps": -1}, 3),
        (TransferOptions, {"encoder_lr": 0, "thaw_steps": 5}, 1),
        (InferenceOptions, {"overlap": 1.0, "batch_size": 0, "cases": -1, "mirror_axes": (3,)}, 4),
        (SubsetOptions, {"labels": -1, "folds": 1, "fold": 1}, 3),
        (SubsetOptions, {"fold": 0}, 1),
    ],
)
def test_every_mistake_is_told_with_its_value(make: type, values: dict[str, object], count: int) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**values)
    assert len(caught.value.problems) == count


def test_fold_numbers() -> None:
    assert SubsetOptions(folds=3).numbers() == [0, 1, 2]
    assert SubsetOptions(folds=3, fold=2).numbers() == [2]
    assert SubsetOptions().numbers() == []
