"""Which images `medssl curate` leaves out because they are too much like another one."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.commands.console import say
from medssl.commands.curate_images import Image, embed
from medssl.data.curate_options import MOST_IN_PAIRS, LikenessOptions
from medssl.imaging.errors import ConfigError

if TYPE_CHECKING:
    from medssl.data.curate import Dropped, Rows
    from medssl.data.likeness import Likeness


@dataclass(frozen=True)
class Left:
    """An image that is not kept.

    Args:
        image: Which.
        reason: Why.
        like: The kept image that it is like; None for other reasons.
        value: How alike; None for other reasons.
    """

    image: Image
    reason: str
    like: Image | None = None
    value: float | None = None


def unlike(
    images: Sequence[Image], options: LikenessOptions, encoder: Path | None, device: str
) -> tuple[list[Image], list[Left]]:
    """Images that are unlike one another, and those that are too much like one of them."""
    from medssl.data.curate import every_nth
    from medssl.data.near_duplicates import CosineSearch, distinct

    if options.rule == "none" or not images:
        return list(images), []
    left: list[Left] = []
    if options.rule == "embedding":
        vectors, images, odd = embed(images, encoder, device)
        left = [Left(image, reason) for image, reason in odd]
        if not images:
            return [], left
    groups = _groups(images, options)
    if options.rule == "every_n":
        taken = set(every_nth(groups, options.every))
        rest = [Left(image, f"not one of every {options.every}") for n, image in enumerate(images) if n not in taken]
        return [images[n] for n in sorted(taken)], rest
    if options.rule == "embedding":
        kept, dropped = distinct(CosineSearch(vectors, options.least), groups)
    else:
        kept, dropped = _by_channels(images, groups, options)
    left += [Left(images[d.item], f"like another ({options.rule})", images[d.like], abs(d.likeness)) for d in dropped]
    return [images[n] for n in kept], left


def _by_channels(
    images: Sequence[Image], groups: Sequence[str], options: LikenessOptions
) -> "tuple[list[int], list[Dropped]]":
    """Which are kept and which dropped: two images are as alike as in the channel in which they are least so.

    An image of fewer channels than others is compared by its last one where it has none.
    """
    import numpy as np

    from medssl.data.curate import exemplars
    from medssl.data.likeness import by_bits, by_information, by_structure, least_alike
    from medssl.data.near_duplicates import HashSearch, distinct

    most = max(len(image.code) for image in images)
    if options.rule == "dhash" and most == 1:
        return distinct(HashSearch(np.concatenate([image.code for image in images]), -options.least), groups)
    measures: dict[str, Callable[[Any], Likeness]] = {
        "dhash": by_bits, "ssim": by_structure, "mutual_information": by_information,
    }  # fmt: skip
    measure = measures[options.rule]

    def of_group(own: "Rows") -> "Likeness":
        codes = [images[n].code for n in own]
        return least_alike([measure(np.stack([code[min(c, len(code) - 1)] for code in codes])) for c in range(most)])

    return exemplars(of_group, groups, options.least)


def _groups(images: Sequence[Image], options: LikenessOptions) -> list[str]:
    return [{"volume": image.volume, "patient": image.row.patient, "set": ""}[options.scope] for image in images]


def refuse_too_many(images: Sequence[Image], options: LikenessOptions) -> None:
    """Refuse what compares one pair after another where that would not end, before an image is looked at.

    Raises:
        ConfigError: More than `MOST_IN_PAIRS` images of one group.
    """
    if options.rule not in ("ssim", "mutual_information"):
        return
    most = max(Counter(_groups(images, options)).values(), default=0)
    if most > MOST_IN_PAIRS:
        raise ConfigError(
            [
                f"likeness.rule {options.rule} compares one pair after another, and {most} images are of one "
                f"{options.scope}: up to {most * (most - 1) // 2} pairs; it is for {MOST_IN_PAIRS} at most: choose "
                "likeness.rule dhash or embedding, which are searched, or a narrower likeness.scope"
            ]
        )


def nothing_compared(images: Sequence[Image], options: LikenessOptions) -> list[str]:
    """The warning that the rule had no two images to compare."""
    if options.rule == "none" or len(images) < 2 or len(set(_groups(images, options))) < len(images):
        return []
    wider = "patient or set" if options.scope == "volume" else "set"
    warning = (
        f"no two of {len(images)} images are of one {options.scope}, so that likeness.rule {options.rule} left none "
        f"out: choose likeness.scope {wider}, or likeness.rule none"
    )
    say(f"WARNING: {warning}")
    return [warning]
