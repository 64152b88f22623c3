"""Whether a training has done all its steps: weights are written also when its time was up before."""

import json
from pathlib import Path

from medssl.imaging.errors import MedsslError


def is_finished(weights: Path) -> bool:
    """Whether a file of weights is there, and that of a training that has done all its steps."""
    told = weights.with_suffix(".json")
    if not (weights.is_file() and told.is_file()):
        return False
    return bool(json.loads(told.read_text(encoding="utf-8"))["provenance"]["finished"])


def refuse_unfinished(weights: Path, what: str) -> None:
    """Refuse weights from before the last step.

    Args:
        weights: The file.
        what: What was trained, for the message.

    Raises:
        MedsslError: They are, or are not there.
    """
    if not is_finished(weights):
        raise MedsslError(
            f"{what}: train.time_limit_min was over before its last step: run the same again to go on with it",
            reason="unfinished",
        )
