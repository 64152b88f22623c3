"""Names of cases that are folder names on every system, are unique, and say where a case came from."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

FEW = 4
"""Names shown of a longer list."""


def some(names: Sequence[str]) -> str:
    """The first few of several names, and how many more there are."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def unique_names(names: Sequence[str], places: Sequence[Path]) -> list[str]:
    """Safe names; where two are alike, the names of the folders above are put before them.

    Args:
        names: Wanted names.
        places: Path of each case, relative to the searched folder.

    Returns:
        One name a case, no two alike, also where upper and lower case are not told apart.
    """
    wanted = [safe(name) for name in names]
    deepest = max((len(place.parts) for place in places), default=0)
    for depth in range(1, deepest):
        counts = Counter(name.lower() for name in wanted)
        wanted = [
            safe("_".join((*place.parts[:-1][-depth:], name))) if counts[now.lower()] > 1 else now
            for now, name, place in zip(wanted, names, places, strict=True)
        ]
    taken: set[str] = set()
    unique = []
    for name in wanted:
        number, candidate = 1, name
        while candidate.lower() in taken:
            number += 1
            candidate = f"{name}_{number}"
        taken.add(candidate.lower())
        unique.append(candidate)
    return unique


def other_channels(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether channels that were named are others, or in another order; `channel_0` and the like are no names."""
    if any(name == f"channel_{n}" for names in (first, second) for n, name in enumerate(names)):
        return False
    return [name.casefold() for name in first] != [name.casefold() for name in second]


def plain(name: str) -> str:
    """Name by which segments and classes are compared: letters and digits in lower case."""
    return "".join(c for c in name.lower() if c.isalnum())


def safe(name: str) -> str:
    """Name with `_` for every character that a folder name or a table cell should not have."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".") or "case"


def bids_subject(place: Path) -> str:
    """Subject of a path in the Brain Imaging Data Structure: the value of its `sub-` entity, empty when it has none."""
    parts = [part for name in place.parts for part in name.split("_")[:1] if part.startswith("sub-") and len(part) > 4]
    return parts[0].split(".")[0] if parts else ""


def bids_session(place: Path) -> str:
    """Subject and session of a path that has a `ses-` entity after its `sub-`, for instance `sub-01_ses-2`."""
    parts = [part for name in place.parts for part in name.split("_")[:2] if part.startswith("ses-") and len(part) > 4]
    subject = bids_subject(place)
    return f"{subject}_{parts[0].split('.')[0]}" if parts and subject else ""


def split_slice(field: Path | str) -> tuple[str, str]:
    """Image and place of `IMAGE#slice=AXIS:NUMBER`; the place is empty where a whole image is meant."""
    text = str(field)
    image, mark, place = text.rpartition("#slice=")
    return (image, place) if mark and not Path(text).exists() else (text, "")


def split_field(field: Path | str) -> tuple[Path, str]:
    """Path and SeriesInstanceUID of `FOLDER#SeriesInstanceUID`; a `#` in the path itself is kept, a slice left out."""
    text = split_slice(field)[0]
    if "#" not in text or Path(text).exists():
        return Path(text), ""
    folder, _, series = text.rpartition("#")
    return Path(folder), series
