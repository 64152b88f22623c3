"""What is known to be missing of a study that comes by C-STORE: marks beside its objects, there before they matter.

STUDY/input/              objects, each under the pseudonym of its instance
STUDY/unreleased/ID       an association that brought objects and was not released; it holds the calling AE title
STUDY/lost/ID             the same, where the association was gone when the study was handed in
STUDY/refused/INSTANCE    an object that was refused; while `input` lacks it the study is incomplete

No association outlives its server, so what a killed one left unreleased is lost.
"""

from collections.abc import Collection
from pathlib import Path

from medssl.imaging.files import sync_folder, write_text
from medssl.runtime.server.folders import link_files


def note_association(study: Path, mark: str, caller: str) -> None:
    """Mark a study before the first object of an association is kept."""
    write_text(study / "unreleased" / mark, caller)
    sync_folder(study / "unreleased")


def note_refused(study: Path, instance: str) -> None:
    """Mark a study that lacks an object, whether others of it came or not."""
    (study / "refused").mkdir(parents=True, exist_ok=True)
    (study / "refused" / instance).touch()
    sync_folder(study / "refused")


def note_release(study: Path, caller: str, others: Collection[str]) -> None:
    """Take away the marks of an AE title that released an association.

    Args:
        study: Folder of the study.
        caller: AE title.
        others: Marks that stay: associations at work beside the released one.
    """
    for path in (*_marks(study, "unreleased"), *_marks(study, "lost")):
        if path.name not in others and path.read_text(encoding="utf-8") == caller:
            path.unlink()


def take_over(earlier: Path, study: Path) -> None:
    """Give a study the marks of an earlier job of it, which nothing has settled since."""
    for kind in ("lost", "refused"):
        if _marks(earlier, kind):
            (study / kind).mkdir(exist_ok=True)
            link_files(earlier / kind, study / kind)
            sync_folder(study / kind)


def close(study: Path, living: Collection[str]) -> None:
    """Take associations for lost that are gone without a release.

    Args:
        study: Folder of the study.
        living: Marks of associations that are there.
    """
    for path in _marks(study, "unreleased"):
        if path.name not in living:
            (study / "lost").mkdir(exist_ok=True)
            path.rename(study / "lost" / path.name)


def missing(study: Path, living: Collection[str]) -> tuple[bool, int]:
    """Whether an association was lost, and how many objects that were refused have not come.

    Args:
        study: Folder of the study.
        living: Marks of associations that are there.
    """
    lost = any(path.name not in living for path in _marks(study, "unreleased")) or bool(_marks(study, "lost"))
    return lost, sum(not (study / "input" / f"{path.name}.dcm").exists() for path in _marks(study, "refused"))


def complaint(study: Path, living: Collection[str], *, lost_counts: bool) -> str:
    """Why a study must not be computed, for a person; empty where it may be.

    Args:
        study: Folder of the study.
        living: Marks of associations that are there.
        lost_counts: Whether a lost association makes it incomplete.
    """
    lost, refused = missing(study, living)
    what = ["a connection was broken off before its sender said that all was sent"] if lost and lost_counts else []
    what += [f"{refused} object(s) were refused and have not come since"] if refused else []
    if not what:
        return ""
    return (
        f"{len(_marks(study, 'input'))} object(s) of this study came, and more are missing or may be: "
        f"{' and '.join(what)}; nothing was computed or stored, so send the whole study again"
    )


def _marks(study: Path, kind: str) -> list[Path]:
    """Files of a kind; what a kill left half-written has a name with a dot."""
    return [path for path in (study / kind).glob("*") if not path.name.startswith(".")]
