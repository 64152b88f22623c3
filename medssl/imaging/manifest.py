"""The manifest: one row a case, as a CSV file that opens in a spreadsheet."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from medssl.imaging.errors import ManifestError
from medssl.imaging.files import sha256, write_text

COLUMNS = ("case", "patient", "image", "label", "class", "modality", "split", "site", "sex", "age", "licence")
_REQUIRED = ("case", "patient", "image")
_SPLITS = ("", "train", "val", "test")
_UNSAFE = set('/\\:*?"<>|') | {chr(c) for c in range(32)}


@dataclass(frozen=True)
class Row:
    """One case: its patient, its image (channels joined by `;`), and what is known of it."""

    case: str
    patient: str
    image: str
    label: str = ""
    class_name: str = ""
    modality: str = ""
    split: str = ""
    site: str = ""
    sex: str = ""
    age: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Manifest:
    """Cases of a data set; paths are relative to `root`, the manifest's folder, or absolute."""

    rows: tuple[Row, ...]
    root: Path
    sha256: str = ""

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
        return cls(tuple(row for _, row in numbered), path.parent, sha256(path))

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
        shown = "\n".join(f"  - {problem}" for problem in problems[:50])
        more = f"\n  ... and {len(problems) - 50} more" if len(problems) > 50 else ""
        raise ManifestError(f"{len(problems)} mistake(s) in {where}:\n{shown}{more}", reason="bad-manifest")


def _parse(text: str, path: Path) -> list[tuple[int, Row]]:
    """Rows with their line numbers."""
    header = text.split("\n", 1)[0]
    separator = max((",", ";", "\t"), key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    names = [name.strip() for name in reader.fieldnames or []]
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise ManifestError(
            f"{path} lacks the column(s) {', '.join(missing)}; the columns are {','.join(COLUMNS)}",
            reason="bad-manifest",
        )
    rows = []
    for record in reader:
        values = {(k or "").strip(): (v or "").strip() if isinstance(v, str) else "" for k, v in record.items()}
        if any(values.values()):
            known = {item.name for item in fields(Row)}
            row = Row(**{_attribute(c): values.get(c, "") for c in COLUMNS if _attribute(c) in known})
            rows.append((reader.line_num, row))
    if not rows:
        raise ManifestError(f"{path} has no cases", reason="bad-manifest")
    return rows


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


def _missing_paths(numbered: Sequence[tuple[int, Row]], root: Path) -> list[str]:
    problems = []
    for line, row in numbered:
        for name in ("image", "label"):
            for part in filter(None, (p.strip() for p in getattr(row, name).split(";"))):
                if not (root / part.partition("#")[0]).exists():
                    problems.append(f"line {line}: {name} {part!r} does not exist below {root.resolve()}")
    return problems
