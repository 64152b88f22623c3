"""The target set of `medssl curate`: the images that others shall be like."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.commands.console import say
from medssl.commands.curate_images import UNREADABLE, embed, look, taken_apart
from medssl.data.curate_options import QualityOptions
from medssl.imaging.errors import ConfigError
from medssl.imaging.manifest import Manifest
from medssl.imaging.naming import some

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Target:
    """What is to be like, and what of a target set is not.

    Args:
        vectors: (N, E) features to be like; None where there is no target set.
        unused: Cases of split val or test, which must choose nothing.
        useless: Images that tell nothing, counted by the reason.
        warnings: What else may be wrong.
    """

    vectors: "npt.NDArray[np.float32] | None" = None
    unused: int = 0
    useless: dict[str, int] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def read_target(
    target: Path,
    slices: int | None,
    quality: QualityOptions,
    encoder: Path | None,
    workers: int,
    device: str,
    irregular: bool,
) -> Target:
    """What a target set is like, its images looked at as those of the open set are, but for `modality` and `border`.

    Volumes are taken apart as those of the open set are; 2D images of a target are compared with their slices.

    Args:
        target: Its manifest.
        slices: Axis across which volumes are taken apart.
        quality: Which images tell nothing; such choose nothing.
        encoder: Encoder file.
        workers: Processes that read images.
        device: Where the encoder computes.
        irregular: Resample unevenly spaced slices instead of refusing them.

    Raises:
        ConfigError: None is left, or cases that `medssl prepare` may still draw for val and test, or unreadable ones;
            an encoder that cannot be used for them.
    """
    listed = Manifest.read(target)
    warnings = _without_splits(listed, target)
    rows = [row for row in listed.rows if row.split not in ("val", "test")]
    unused = len(listed.rows) - len(rows)
    if not rows:
        raise ConfigError(
            [f"target {target} has {unused} case(s), all of split val or test, which choose nothing: give others"]
        )
    if unused:
        say(f"curate: {unused} of {len(listed.rows)} cases of {target} are of split val or test and are not looked at")
    images, left = taken_apart(replace(listed, rows=tuple(rows)), slices, True, irregular)
    useful, others = look(images, replace(quality, modality="", border=0.0), "none", workers)
    if unread := [image for image, reason in (*left, *others) if reason.startswith(UNREADABLE)]:
        raise ConfigError(
            [f"target {target}: {some([image.row.case for image in unread])} cannot be read: mend or leave them out"]
        )
    vectors, useful, odd = embed(useful, encoder, device)
    others += odd
    useless = dict(Counter(reason for _, reason in others))
    why = ", ".join(f"{count} {reason}" for reason, count in useless.items())
    if not useful:
        raise ConfigError([f"target {target}: none of its {len(images)} images is of use ({why}): give others"])
    if useless:
        say(f"curate: {len(others)} of {len(images)} images of {target} choose nothing: {why}")
    return Target(vectors, unused, useless, warnings)


def _without_splits(listed: Manifest, target: Path) -> list[str]:
    """The warning that no case has a split; where cases are labelled, of which splits are drawn, it is a refusal."""
    if any(row.split for row in listed.rows):
        return []  # prepare draws none then
    how = "write train, val and test into its column split first, the same for all cases of a patient"
    if labelled := sum(bool(row.label or row.class_name) for row in listed.rows):
        raise ConfigError(
            [
                f"target {target} has {labelled} labelled case(s) and no splits: medssl prepare draws val and test "
                f"from them later, and these would have chosen what is learned from: {how} (train for all, if nothing "
                "is ever measured on them)"
            ]
        )
    warning = (
        f"no case of target {target} has a split, so all {len(listed.rows)} choose the images: those that are labelled "
        f"later and come into split val or test will have chosen what is learned from; if any may, {how}"
    )
    say(f"WARNING: {warning}")
    return [warning]
