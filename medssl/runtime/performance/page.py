"""The performance part of the validation protocol, filled in with a site's own cases."""

from collections.abc import Sequence
from statistics import median, quantiles

from medssl.imaging.ages import UNKNOWN, age_band
from medssl.runtime.performance.class_page import CLASS_NOTES, class_cases, class_tables
from medssl.runtime.performance.judgement import Judgement
from medssl.runtime.performance.measured import CaseMeasure
from medssl.runtime.performance.run import Performance
from medssl.runtime.performance.structure_page import STRUCTURE_NOTES, structure_cases, structure_tables
from medssl.runtime.performance.summary import flagged
from medssl.runtime.performance.tables import table

FEW_PATIENTS = 30
"""Patients below which a site's numbers say little: where all of 30 are right, up to 11.6 % of others may be wrong."""


def performance_lines(performance: Performance, judgements: Sequence[Judgement], card: str, results: str) -> list[str]:
    """Markdown lines.

    Args:
        performance: What was measured.
        judgements: What was demanded, and what came of it.
        card: What the model card says was measured by its maker.
        results: Name of the CSV file with all numbers.
    """
    classes = performance.spec.task == "classification"
    measured = performance.measured
    return [
        *_head(performance, results),
        *_demands(judgements),
        *_all(performance),
        "### What its maker measured",
        "",
        *(f"> {line}" for line in (card or "The model card says nothing.").splitlines()),
        "",
        "### Case by case",
        "",
        *([*(class_cases if classes else structure_cases)(measured), ""] if measured else []),
        *_unusable(performance),
        "### How it was counted",
        "",
        *(f"- {note}" for note in _notes(performance, CLASS_NOTES if classes else STRUCTURE_NOTES)),
    ]


def _head(performance: Performance, results: str) -> list[str]:
    site, people, used = performance.site, performance.patients, len(performance.measured)
    lines = [
        f"Cases of `{site.file.name}` (sha256 `{site.sha256}`), predicted by this bundle as `medssl predict` does and "
        f"compared with the site's references: {used + len(performance.unusable)} in all, {used} usable, of "
        f"{people} patient(s), **{len(performance.unusable)} not usable**. All numbers: `{results}`.",
        "",
    ]
    if told := _learned(performance):
        lines += [f"**{told}**", ""]
    if people < FEW_PATIENTS:
        lines += [
            f"**Few patients: {people}.** With fewer than {FEW_PATIENTS} the intervals are wide, and a good number may "
            "be chance: this shows little about other patients.",
            "",
        ]
    return lines


def _learned(performance: Performance) -> str:
    """A warning where the bundle may have learned from the cases."""
    site = performance.site
    own = sum(case.row.split in ("train", "val") for case in performance.measured)
    if performance.spec.provenance.get("manifest_sha256") == site.sha256:
        return "The bundle was made from this very manifest: cases that it learned from show nothing about others."
    if own:
        return f"{own} case(s) are of split train or val: where the bundle learned from them, they show too much."
    return ""


def _demands(judgements: Sequence[Judgement]) -> list[str]:
    if not judgements:
        return [
            "**No acceptance criterion was given**, so nothing here is passed or failed. Decide what is enough before "
            "you look at the numbers, and give it with `--accept`: ________",
            "",
        ]
    failed = sum(not one.passed for one in judgements)
    rows = [(one.demanded, one.found, "passed" if one.passed else "**failed**") for one in judgements]
    return [
        f"**Performance at this site: {f'failed, {failed} of {len(rows)} criteria' if failed else 'passed'}.**",
        "",
        *table(("demanded", "found", "result"), rows),
        "",
    ]


def _all(performance: Performance) -> list[str]:
    spec, measured = performance.spec, performance.measured
    if not measured:
        return ["No case could be used.", ""]
    tables = class_tables if spec.task == "classification" else structure_tables
    return [
        "### All cases",
        "",
        *tables(measured, spec),
        f"Images flagged as not to be used: {flagged(measured)}.{_speed(measured)}",
        "",
        *_groups(measured),
    ]


def _speed(measured: Sequence[CaseMeasure]) -> str:
    seconds = [case.seconds for case in measured]
    if len(seconds) < 2:
        return ""
    slow = quantiles(seconds, n=20, method="inclusive")[-1]
    return f" Seconds a case, reading included: median {median(seconds):.2f}, 95 % below {slow:.2f}."


def _groups(measured: Sequence[CaseMeasure]) -> list[str]:
    """By site, scanner, sex and age, where the manifest tells them and they differ."""
    rows = []
    for attribute in ("site", "scanner", "sex", "age"):
        values = [getattr(case.row, attribute) for case in measured]
        names = [age_band(value) if attribute == "age" else value or UNKNOWN for value in values]
        for name in sorted(set(names)) if len(set(names)) > 1 else ():
            part = [case for case, own in zip(measured, names, strict=True) if own == name]
            people = len({case.row.patient for case in part})
            rows.append((attribute, name, str(people), _quality(part), str(flagged(part))))
    if not rows:
        return ["All cases are of one site, scanner, sex and age band, or the manifest does not tell them.", ""]
    return ["By group:", "", *table(("of", "group", "patients", "agreement", "flagged"), rows), ""]


def _quality(part: Sequence[CaseMeasure]) -> str:
    if not part[0].structures:
        right = sum(case.called == case.row.class_name for case in part)
        return f"{right} of {len(part)} called right"
    told = []
    for name in part[0].structures:
        dices = [dice for case in part if (dice := case.structures[name].overlap.dice) is not None]
        told.append(f"{name} {median(dices):.3f}" if dices else f"{name} not defined")
    return f"median Dice: {', '.join(told)}"


def _unusable(performance: Performance) -> list[str]:
    if not performance.unusable:
        return []
    rows = [(case.case, case.reason, case.message) for case in performance.unusable]
    return ["Not usable, and in no number above:", "", *table(("case", "reason", "message"), rows), ""]


def _notes(performance: Performance, own: Sequence[str]) -> list[str]:
    images = len(performance.measured)
    several = [
        f"{images} images are of {performance.patients} patients: images of one patient are not independent, so "
        "intervals over images are too narrow."
    ]
    return [*own, *(several if images > performance.patients else []), *performance.site.notes]
