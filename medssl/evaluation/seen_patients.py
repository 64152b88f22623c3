"""Whether patients that a number is measured on were seen before: in pretraining, in training, in validation."""

from collections.abc import Collection


def seen_in_pretraining(name: str, seen: Collection[str] | None, asked: Collection[str], split: str) -> list[str]:
    """What to warn of an encoder that may have learned from images of these patients; nothing where it did not.

    Args:
        name: What it is called.
        seen: Patients of its pretraining; None where nobody knows.
        asked: Patients that are measured on.
        split: Their split.
    """
    if seen is None:
        return [
            f"Whether patients of split {split} were in the pretraining of {name} is not known: no run.json that lists "
            "its patients lies beside the encoder. Where they were, the numbers may be too good for new patients."
        ]
    known = set(asked).intersection(seen)
    if not known:
        return []
    return [
        f"{_of(known, asked, split)} were in the pretraining of {name}: it learned from their images, never from their "
        "answers; the numbers may be too good for new patients. Patients are told apart by name."
    ]


def seen_in_training(
    name: str, trained: Collection[str] | None, chosen: Collection[str], asked: Collection[str], split: str
) -> list[str]:
    """What to warn of a model whose training or validation had these patients; nothing where they had not.

    Args:
        name: What it is called.
        trained: Patients that its weights were learned from; None where nobody knows.
        chosen: Patients of its validation, by which the weights that are kept were chosen.
        asked: Patients that are measured on.
        split: Their split.
    """
    if trained is None:
        return [
            f"Which patients {name} was trained on is not known: no run.json that lists them lies beside its weights. "
            f"Where some of split {split} were among them, the numbers say nothing about new patients."
        ]
    known, looked_at = set(asked).intersection(trained), set(asked).intersection(chosen) - set(trained)
    found = []
    if known:
        found.append(
            f"{_of(known, asked, split)} were in the training of {name}: the numbers say nothing about new patients."
        )
    if looked_at:
        found.append(
            f"{_of(looked_at, asked, split)} were the validation of {name}, by which its weights and options were "
            "chosen: the numbers are too good for new patients."
        )
    return found


def _of(some: Collection[str], asked: Collection[str], split: str) -> str:
    return f"{len(some)} of {len(set(asked))} {split} patients"
