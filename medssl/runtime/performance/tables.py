"""Tables of the validation protocol, as Markdown and as CSV."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medssl.imaging.files import records_text
from medssl.runtime.performance.measured import CaseMeasure

if TYPE_CHECKING:
    from medssl.runtime.performance.run import Performance


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; whatever a cell holds stays in it."""
    cells = [[" ".join(text.replace("|", "\\|").split()) for text in row] for row in rows]
    return [
        f"| {' | '.join(header)} |",
        f"| {' | '.join('---' for _ in header)} |",
        *(f"| {' | '.join(row)} |" for row in cells),
    ]


def remarks(case: CaseMeasure) -> str:
    """Flags and the number of warnings of a case."""
    warnings = [f"{len(case.warnings)} warning(s)"] if case.warnings else []
    return ", ".join([*(f"**{flag}**" for flag in case.flags), *warnings])


def results_text(performance: "Performance") -> str:
    """All numbers as CSV: a line an image and structure, or an image, then those that could not be used."""
    records = [line for case in performance.measured for line in _lines(case)]
    rows = {row.case: row for row in performance.site.rows}
    for one in performance.unusable:
        row = rows.get(one.case)
        told = {"case": one.case, "patient": row.patient if row else "", "status": one.reason, "message": one.message}
        records.append(told)
    return records_text(records)


def _lines(case: CaseMeasure) -> list[dict[str, Any]]:
    row, content = case.row, case.to_json()
    told = {name: getattr(row, name) for name in ("case", "patient", "site", "scanner", "sex", "age")}
    told |= {"status": "ok", "seconds": content["seconds"]}
    told |= {"flags": " ".join(case.flags), "warnings": " | ".join(case.warnings), "message": ""}
    if not case.structures:
        shares = {f"p_{name}": share for name, share in case.probabilities.items()}
        return [{**told, "reference": row.class_name, "called": case.called, **shares}]
    ignored = {"ignored_voxels": case.ignored}
    return [{**told, "structure": name, **_cells(one), **ignored} for name, one in content["structures"].items()]


def _cells(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: "" if value is None else value for name, value in numbers.items()}
