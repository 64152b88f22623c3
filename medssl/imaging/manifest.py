"""The manifest: one row a case, as a CSV file that opens in a spreadsheet."""

import csv
import difflib
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medssl.imaging.ages import HOW, years
from medssl.imaging.errors import ManifestError
from medssl.imaging.files import sha256, write_text
from medssl.imaging.naming import split_field

COLUMNS = (
    "case", "patient", "image", "label", "class", "modality", "split", "site", "scanner", "sex", "age", "licence",
    "study",
)  # fmt: skip
_REQUIRED = ("case", "patient", "image")
_SHOWN = 50  # lines of a list
_SPLITS = ("", "train", "val", "test")
_UNSAFE = set('/\\:*?"<>|') | {chr(c) for c in range(32)}


@dataclass(frozen=True)
class Row:
    """One case: its patient, its image (channels joined by `;`), and what is known of it.

    `study` names the visit, or the slide, that several cases of a patient belong to.
    """

    case: str
    patient: str
    image: str
    label: str = ""
    class_name: str = ""
    modality: str = ""
    split: str = ""
    site: str = ""
    scanner: str = ""
    sex: str = ""
    age: str = ""
    licence: str = ""
    study: str = field(default="", repr=False)  # the hash of a prepared case is of what is shown


@dataclass(frozen=True)
class Manifest:
    """Cases of a data set; paths are relative to `root`, the manifest's folder, or absolute.

    `notes` tell what should be mended in the file and stops nothing.
    """

    rows: tuple[Row, ...]
    root: Path
    sha256: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def from_rows(cls, rows: Iterable[Row], root: Path) -> "Manifest":
        """Manifest of rows made in memory, checked like a file except for the paths.

        Raises:
            ManifestError: The rows contradict one another.
        """
        made = tuple(rows)
        problems = _contradictions([(number + 2, row) for number, row in enumerate(made)])
        _refuse(problems, "manifest")
        return cls(made, root)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read and check a manifest; separators `,` `;` and tab, and a byte-order mark, are accepted.

        Raises:
            ManifestError: Every mistake with its line: missing columns, duplicate cases, a patient in two splits,
                paths that do not exist, unusable names.
        """
        path = Path(path)
        if not path.is_file():
            raise ManifestError(
                f"manifest {path} does not exist: make one with medssl index DIR --out {path}", reason="no-manifest"
            )
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ManifestError(
                f"manifest {path} is not UTF-8 text: save it as CSV UTF-8", reason="bad-manifest"
            ) from error
        numbered = _parse(text, path)
        problems = _contradictions(numbered) + _missing_paths(numbered, path.parent)
        _refuse(problems, str(path))
        return cls(tuple(row for _, row in numbered), path.parent, sha256(path), _unread_ages(numbered, path))

    def write(self, path: Path) -> None:
        """Write the manifest atomically."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(COLUMNS)
        names = [_attribute(column) for column in COLUMNS]
        writer.writerows([getattr(row, name) for name in names] for row in self.rows)
        write_text(path, buffer.getvalue())


def _attribute(column: str) -> str:
    return "class_name" if column == "class" else column


def _refuse(problems: Sequence[str], where: str) -> None:
    if problems:
        shown = "\n".join(f"  - {problem}" for problem in problems[:_SHOWN])
        more = f"\n  ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ManifestError(f"{len(problems)} mistake(s) in {where}:\n{shown}{more}", reason="bad-manifest")


def _parse(text: str, path: Path) -> list[tuple[int, Row]]:
    """Rows with their line numbers."""
    header = text.lstrip("\r\n").split("\n", 1)[0]
    separator = max((",", ";", "\t"), key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows: list[tuple[int, Row]] = []
    problems: list[str] = []
    names: list[str] = []
    try:
        for record in reader:
            values = [value.strip() for value in record]
            if not any(values):
                continue
            if not names:
                names = [value.lower() for value in values]
                problems += _header_mistakes(names)
            elif any(values[len(names) :]):
                problems.append(
                    f"line {reader.line_num}: {len(values)} fields for {len(names)} columns;{_advice(separator)}"
                )
            else:
                given = dict(zip(names, values, strict=False))
                rows.append((reader.line_num, Row(**{_attribute(c): given.get(c, "") for c in COLUMNS})))
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: no CSV ({error})")
    if not problems and not rows:
        problems = ["it has no cases"] if names else [f"it is empty; the columns are {','.join(COLUMNS)}"]
    _refuse(problems, str(path))
    return rows


def _header_mistakes(names: Sequence[str]) -> list[str]:
    problems = [
        f"line 1: column {name!r} is there twice" for name in sorted(set(names)) if names.count(name) > 1 and name
    ]
    absent = [name for name in COLUMNS if name not in names]
    for name in names:
        meant = difflib.get_close_matches(name, absent, n=1, cutoff=0.75) if name not in COLUMNS else []
        if meant:
            problems.append(
                f"line 1: column {name!r} is unknown; rename it to {meant[0]!r} (or to something less alike)"
            )
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        problems.append(
            f"line 1: it lacks the column(s) {', '.join(missing)}; the columns are {','.join(COLUMNS)}, "
            f"of which {', '.join(_REQUIRED)} are due"
        )
    return problems


def _advice(separator: str) -> str:
    channels = " put channels joined by ; between quotes" if separator == ";" else ""
    return channels or f" put text with a {'tab' if separator == chr(9) else separator} between quotes"


def _contradictions(numbered: Sequence[tuple[int, Row]]) -> list[str]:
    problems = []
    lines: dict[str, int] = {}
    splits: dict[str, dict[str, int]] = defaultdict(dict)
    for line, row in numbered:
        for name in _REQUIRED:
            if not getattr(row, name):
                problems.append(f"line {line}: {name} is empty")
        if set(row.case) & _UNSAFE or row.case.strip(".") == "":
            problems.append(f'line {line}: case {row.case!r} cannot be a folder name; leave out / \\ : * ? " < > |')
        if row.case in lines:
            problems.append(f"line {line}: case {row.case!r} is already on line {lines[row.case]}")
        lines.setdefault(row.case, line)
        if row.split not in _SPLITS:
            problems.append(f"line {line}: split {row.split!r} must be train, val, test or empty")
        splits[row.patient].setdefault(row.split, line)
    for patient, places in splits.items():
        if len(places) > 1:
            where = ", ".join(f"{split or 'no split'} (line {line})" for split, line in places.items())
            problems.append(f"patient {patient!r} is in several splits: {where}; all cases of a patient go into one")
    return problems


def _unread_ages(numbered: Sequence[tuple[int, Row]], path: Path) -> tuple[str, ...]:
    """One note on all ages that cannot be read."""
    unread = [(line, row) for line, row in numbered if row.age and years(row.age) is None]
    if not unread:
        return ()
    shown = "".join(f"\n  - line {line}: age {row.age!r} of case {row.case!r}" for line, row in unread[:_SHOWN])
    more = f"\n  ... and {len(unread) - _SHOWN} more" if len(unread) > _SHOWN else ""
    return (f"{len(unread)} age(s) in {path} cannot be read and count as not told: {HOW}{shown}{more}",)


def _missing_paths(numbered: Sequence[tuple[int, Row]], root: Path) -> list[str]:
    problems = []
    for line, row in numbered:
        for name in ("image", "label"):
            for part in filter(None, (p.strip() for p in getattr(row, name).split(";"))):
                if not split_field(root / part)[0].exists():
                    problems.append(f"line {line}: {name} {part!r} does not exist below {root.resolve()}")
    return problems
