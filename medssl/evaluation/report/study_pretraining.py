"""What a study's pretrainings saw and cost, and how far its intervals speak for other ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from medssl.evaluation.report.page import Table

_SPREAD = 1.25  # times that the longest may take of the shortest before it is told


def pretraining_table(results: Mapping[str, Any]) -> Table:
    """A line a pretrained arm."""
    rows = tuple(
        (
            arm,
            *(_told(p[name]) for name in ("method", "cases")),
            _crops(p),
            _views(p),
            *(_told(p[name]) for name in ("batch_size", "steps", "pretrainings")),
            "–" if p["device_hours"] is None else f"{p['device_hours']:.3g}",
        )
        for arm, p in results["pretraining"].items()
    )
    header = ("arm", "method", "cases", "crop", "views", "batch", "steps", "pretrainings", "device-hours of each")
    return Table(header, rows, "Pretrainings. A crop is what the network sees at once, a batch so many samples of it.")


def unlike_times(results: Mapping[str, Any]) -> list[str]:
    """The warning that pretrainings took unlike time: what one gains beside another may come from that."""
    hours = {arm: p["device_hours"] for arm, p in results["pretraining"].items() if p["device_hours"] is not None}
    if not hours or max(hours.values()) <= _SPREAD * min(hours.values()):
        return []
    told = ", ".join(f"{arm} {value:.3g}" for arm, value in sorted(hours.items(), key=lambda item: item[1]))
    return [
        f"Pretrainings took unlike time, in device-hours: {told}. Differences between them, and to an arm that spends "
        "the time of one of them on the labels, may come from that."
    ]


def pretrainings_say(results: Mapping[str, Any]) -> list[str]:
    """How far intervals speak for other pretrainings than those of the study."""
    number = {arm: one["pretrainings"] for arm, one in results["pretraining"].items()}
    once = [arm for arm, count in number.items() if count == 1]
    more = [f"{arm} {count}" for arm, count in number.items() if count > 1]
    said = []
    if more:
        said.append(
            f"Pretrainings, each with a seed of its own: {', '.join(more)}. A seed starts from that of its number, and "
            "from the first again where there are fewer; intervals of differences hold what other pretrainings would "
            "give, and count seeds that share one as one: of two or three pretrainings they are wide."
        )
    if once:
        which = f" ({', '.join(once)})" if more else ""
        said.append(f"One pretraining an arm{which}: what another one would give is in no interval.")
    return said


def _crops(pretraining: Mapping[str, Any]) -> str:
    crop, source = (_size(pretraining[name]) for name in ("crop", "source"))
    return f"{crop} out of {source}" if pretraining["source"] else crop


def _views(pretraining: Mapping[str, Any]) -> str:
    local = f" and {pretraining['local_views']} small" if pretraining["local_views"] else ""
    return f"{_told(pretraining['views'])}{local}"


def _size(size: Sequence[int] | None) -> str:
    return " x ".join(str(n) for n in size) if size else "–"


def _told(value: Any) -> str:
    return "–" if value is None or value == "" else str(value)
