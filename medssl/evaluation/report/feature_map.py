"""Section with a map of features: images that look alike to a network lie near one another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.evaluation.report.figures import map_figure
from medssl.evaluation.report.page import Section, figure_picture, file_picture

_MEANING = (
    "Each point is an image. Points that lie near one another look alike to the network. How far apart groups lie, and "
    "what shape they have, depends on the method of drawing: read nothing but neighbourhood into it."
)


def feature_map_section(found: Mapping[str, Any] | None, pictures: Sequence[tuple[Path, str]] = ()) -> Section | None:
    """The map of results.json, and pictures of other maps; None where there is neither.

    Args:
        found: Entry `feature_map`: `method`, `explained` (shares of the variance) and `points` by answer; or None.
        pictures: PNG files with captions, for instance of `medssl embed`.
    """
    shown = [file_picture(path, caption) for path, caption in pictures]
    if found is not None:
        axes = [
            f"{found['method']} {n + 1} ({share:.0%} of the variance)" for n, share in enumerate(found["explained"])
        ]
        caption = f"Features of split test, {found['method']}, by answer: {', '.join(found['points'])}."
        shown.insert(0, figure_picture(map_figure(found["points"], *axes), caption))
    return Section("Map of the features", (_MEANING,), pictures=tuple(shown)) if shown else None
