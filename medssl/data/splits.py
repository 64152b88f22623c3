"""Which patient goes where: seeded, nested, and never one patient in two places."""

from collections.abc import Mapping, Sequence

import numpy as np

from medssl.imaging.errors import ConfigError

SPLITS = ("train", "val", "test")


def parse_fractions(text: str) -> tuple[float, float, float]:
    """Read `70/15/15` (train/val/test, any scale) as shares that sum to 1.

    Raises:
        ConfigError: Not three numbers, a negative one, or nothing left to train on.
    """
    try:
        train, val, test = (float(part) for part in text.split("/"))
    except ValueError as error:
        raise ConfigError([f"split must be TRAIN/VAL/TEST, for instance 70/15/15, got {text!r}"]) from error
    total = train + val + test
    if min(train, val, test) < 0 or train <= 0:
        raise ConfigError([f"split needs shares from 0 with some training data, got {text!r}"])
    return train / total, val / total, test / total


def assign_splits(patients: Sequence[str], fractions: tuple[float, float, float], seed: int) -> dict[str, str]:
    """Split of each patient; every share above 0 gets at least one patient when there are enough."""
    order = _shuffled(patients, seed)
    counts = [round(share * len(order)) for share in fractions]
    for part in (1, 2):
        if fractions[part] > 0 and counts[part] == 0 and len(order) >= 3:
            counts[part] = 1
    held = counts[1] + counts[2]
    names = ["test"] * counts[2] + ["val"] * counts[1] + ["train"] * (len(order) - held)
    return dict(zip(order, names, strict=False))


def empty_splits(fractions: tuple[float, float, float], splits: Mapping[str, str]) -> list[str]:
    """Splits that a share above 0 was asked for and that have no patient.

    Args:
        fractions: Shares of train, val and test.
        splits: Patient to split.
    """
    found = set(splits.values())
    return [name for name, share in zip(SPLITS, fractions, strict=True) if share > 0 and name not in found]


def nested_subset(
    patients: Sequence[str], number: int, seed: int, groups: Mapping[str, str] | None = None
) -> list[str]:
    """The first `number` of one seeded order of all patients: a smaller subset lies within a larger one.

    Args:
        patients: May name a patient several times.
        number: How many.
        seed: Seed of the order.
        groups: Patient to class: the order is such that each subset has about the shares of all patients.

    Raises:
        ConfigError: More patients asked for than there are.
    """
    order = _shuffled(patients, seed)
    if groups is not None:
        order = _evenly(order, groups)
    if not 1 <= number <= len(order):
        raise ConfigError([f"labels {number}: there are {len(order)} labelled patients to take from"])
    return order[:number]


def folds(patients: Sequence[str], number: int, seed: int, groups: Mapping[str, str] | None = None) -> list[list[str]]:
    """Held-out patients of each fold; every patient is held out once.

    Args:
        patients: All of them; repeats count once.
        number: Folds.
        seed: Seed of the order.
        groups: Group of each patient, for instance the class: of each, folds hold numbers that differ by one at most.

    Raises:
        ConfigError: Fewer than two folds or more folds than patients.
    """
    order = _shuffled(patients, seed)
    if groups:
        order = sorted(order, key=groups.__getitem__)  # stable: dealt out group by group
    if not 2 <= number <= len(order):
        raise ConfigError([f"folds must lie between 2 and the {len(order)} labelled patients, got {number}"])
    return [order[k::number] for k in range(number)]


def _evenly(order: Sequence[str], groups: Mapping[str, str]) -> list[str]:
    """Each group spread over the whole order, the order within a group kept."""
    members: dict[str, list[str]] = {}
    for patient in order:
        members.setdefault(groups[patient], []).append(patient)
    places = [((n + 0.5) / len(own), own[0], patient) for own in members.values() for n, patient in enumerate(own)]
    return [patient for _, _, patient in sorted(places)]


def _shuffled(patients: Sequence[str], seed: int) -> list[str]:
    unique = sorted(set(patients))
    return [unique[i] for i in np.random.default_rng(seed).permutation(len(unique))]
