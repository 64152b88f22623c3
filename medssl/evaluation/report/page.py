"""A report: one HTML file that needs nothing beside it, with its pictures inside, readable on a phone."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from medssl.imaging.environment import environment
from medssl.imaging.errors import ImageError
from medssl.imaging.files import write_text

_DPI = 150
_LONG = 36  # characters; a difference with its interval has fewer
_PYTHON = "called from Python, not from the command line"


@dataclass(frozen=True)
class Picture:
    """A picture with its caption.

    Args:
        png: Bytes of a PNG file.
        caption: What it shows, in full sentences.
        alt: What those read who do not see it; the caption where it is empty.
        broad: Never narrower than a small window: on a phone it is scrolled sideways.
    """

    png: bytes
    caption: str
    alt: str = ""
    broad: bool = False

    @property
    def data(self) -> str:
        """Address that holds the picture itself."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Table:
    """A table; the first column names the rows.

    Args:
        header: Column names.
        rows: Cells, ready to be read.
        caption: What it shows.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    @property
    def words(self) -> frozenset[int]:
        """Columns of words, which stand at the left; numbers stand at the right."""
        columns = zip(*self.rows, strict=True)
        named = (any(cell[:1].isalpha() or len(cell) > _LONG for cell in cells) for cells in columns)
        return frozenset(n for n, of_words in enumerate(named) if of_words)

    @property
    def sentences(self) -> frozenset[int]:
        """Columns of long texts, which need some width."""
        columns = zip(*self.rows, strict=True)
        return frozenset(n for n, cells in enumerate(columns) if any(len(cell) > _LONG for cell in cells))

    @property
    def rules(self) -> frozenset[int]:
        """Rows that begin a new group: their first cell differs from the one above, where any two agree."""
        begins = [n for n, row in enumerate(self.rows) if n and row[0] != self.rows[n - 1][0]]
        return frozenset(begins) if len(begins) + 1 < len(self.rows) else frozenset()


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Args:
        title: Heading.
        text: Paragraphs.
        tables: Tables, below the text.
        pictures: Pictures, below the tables.
        warnings: Sentences that must not be overlooked.
        notes: What a careful reader wants to know, small and at the end.
        parts: Headings with paragraphs, below the text.
        code: What it is, and what was typed; below the pictures.
    """

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = field(default=(), repr=False)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    parts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    code: tuple[tuple[str, str], ...] = ()


def write_report(
    folder: Path,
    sections: Sequence[Section],
    title: str,
    subtitle: str = "",
    made: Mapping[str, Any] | None = None,
) -> Path:
    """Write `FOLDER/report.html`; returns its path.

    Args:
        folder: Where it goes.
        sections: Its parts, in order.
        title: Heading of the page.
        subtitle: One sentence below it.
        made: Entry `environment` of results.json; the page ends with it and with the commands. None: with what is
            known now.
    """
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("medssl.evaluation.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = templates.get_template("page.html.j2").render(
        title=title,
        subtitle=subtitle,
        sections=[*sections, _environment_section(environment() if made is None else made)],
        version=metadata.version("medssl"),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    path = Path(folder) / "report.html"
    write_text(path, page)
    return path


def figure_picture(figure: Figure, caption: str, alt: str = "") -> Picture:
    """A matplotlib figure as a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return Picture(buffer.getvalue(), caption, alt)


def file_picture(path: Path, caption: str, broad: bool = False) -> Picture:
    """A PNG file as a picture.

    Raises:
        ImageError: Not a PNG file.
    """
    content = Path(path).read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ImageError(f"{path} is no PNG file, so it cannot be shown in a report", reason="not-a-png")
    return Picture(content, caption, broad=broad)


def _environment_section(made: Mapping[str, Any]) -> Section:
    """Exact commands, oldest first, and the environment of the last.

    Args:
        made: Entry `environment` of results.json.
    """
    libraries = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    memory = f", {made['memory_gib']} GiB memory" if made["memory_gib"] else ""
    rows = (
        ("measured", made["started"]),
        ("commit", made["commit"] or "an installed package, no source tree"),
        ("versions", f"{libraries}, Python {made['python']}"),
        ("processor", f"{made['processor']}, {made['cpus']} processor(s){memory}"),
        ("GPU", ", ".join(made.get("gpus", ())) or "none"),
        ("system", made["machine"]),
    )
    commands = [*made.get("earlier", ()), {"what": "this report", "command": made["command"] or _PYTHON}]
    table = Table(("what", "with what"), rows)
    return Section(
        "Environment and commands", tables=(table,), code=tuple((entry["what"], entry["command"]) for entry in commands)
    )
