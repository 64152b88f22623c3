"""Whether data are still those that a cache was made from: what studies and applications ask when they go on."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medssl.imaging.errors import MedsslError
from medssl.imaging.manifest import Manifest
from medssl.imaging.problems import problems_beside

_SHOWN = 5


def manifest_now(make: Callable[[Path], None], out: Path) -> Manifest:
    """The manifest of the data as they are, made in OUT beside the one in use, since its paths may be relative.

    Args:
        make: Writes a manifest.
        out: Folder.
    """
    path = out / "manifest_now.csv"
    try:
        make(path)
        return Manifest.read(path)
    finally:
        for made in (path, problems_beside(path)):
            made.unlink(missing_ok=True)


def told_changes(cache: Path, changed: Mapping[str, str]) -> list[str]:
    """A sentence on cases that a cache was prepared from otherwise; none where there are none.

    Args:
        cache: The cache.
        changed: Case to what it is now.
    """
    if not changed:
        return []
    shown = ", ".join(f"{case} {what}" for case, what in list(changed.items())[:_SHOWN])
    return [f"{cache} was prepared from other data: {shown}{', ...' if len(changed) > _SHOWN else ''}"]


def refuse_changes(problems: Sequence[str]) -> None:
    """Refuse to go on with other data than before.

    Raises:
        MedsslError: There are such sentences.
    """
    if problems:
        advice = "Results of other data are not mixed: choose another --out, or bring back the data as they were"
        raise MedsslError("\n".join([*problems, advice]), reason="run-exists")
