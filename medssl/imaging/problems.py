"""What was left out or mended, and why: one row a file or case, so that nothing vanishes."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from medssl.imaging.files import write_text

DAMAGED = frozenset({"truncated", "damaged", "bad-dicom", "cannot-decode", "empty-file"})
"""Reasons of files that were images, most likely, and cannot be read."""


@dataclass(frozen=True)
class Problem:
    """One file or case that was not used as it is.

    Args:
        path: File, folder or case.
        reason: Machine-readable code.
        action: `left out`, `mended`, or `used` for a table that helped to sort the images.
        message: What is wrong and what to do.
    """

    path: str
    reason: str
    action: str
    message: str


def in_short(problems: Sequence[Problem]) -> str:
    """How many files have each reason, and the commonest with its first file and its message in full."""
    counts = Counter(problem.reason for problem in problems).most_common()
    first = next((problem for problem in problems if problem.reason == counts[0][0]), None)
    if first is None:
        return "the folder is empty"
    return f"{', '.join(f'{n} {reason}' for reason, n in counts)}; for instance {first.path}: {first.message}"


def problems_beside(manifest: Path) -> Path:
    """Table of the problems of a manifest: problems.csv beside manifest.csv, NAME.problems.csv beside NAME.csv."""
    return manifest.with_name("problems.csv" if manifest.name == "manifest.csv" else f"{manifest.stem}.problems.csv")


def write_problems(path: Path, problems: Iterable[Problem], *, mode: int = 0o666) -> None:
    """Write `path,reason,action,message`, also when there are none; `mode` is the file's, less the umask."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("path", "reason", "action", "message"))
    writer.writerows(astuple(problem) for problem in problems)
    write_text(path, buffer.getvalue(), mode=mode)


def read_problems(path: Path) -> list[Problem]:
    """What `write_problems` wrote; nothing where there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [Problem(**row) for row in csv.DictReader(stream)]
