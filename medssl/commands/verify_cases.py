"""The performance part of `verify`: a site's own cases, predicted and compared with their references."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.commands.console import say
from medssl.imaging.errors import ConfigError
from medssl.imaging.files import write_text
from medssl.runtime.performance.criteria import Criteria

if TYPE_CHECKING:
    from medssl.runtime.bundle import Bundle


@dataclass
class Compared:
    """What came of a site's own cases.

    Args:
        lines: Of the protocol.
        content: Numbers, as a plain dictionary.
        failures: What is not good enough.
    """

    lines: Sequence[str] = ()
    content: dict[str, Any] = field(default_factory=dict)
    failures: Sequence[str] = ()


def beside(checklist: Path, name: str) -> Path:
    """A table that is written beside the checklist."""
    return checklist.with_name(f"{checklist.stem}_{name}.csv")


def compare(usable: "Bundle | None", cases: Path, accept: Criteria, checklist: Path, threads: int) -> Compared:
    """Predict the cases, compare them and write the table of results.

    Args:
        usable: The bundle; None where it did not pass the checks, so that nothing is predicted.
        cases: Manifest, or folder of images and label maps.
        accept: What they must show.
        checklist: Where the protocol will be written.
        threads: Threads to compute with; 0 takes every processor this process may use.

    Raises:
        ConfigError: Demands that make no sense of this bundle, or no such cases.
        ManifestError: Mistakes in the manifest.
        ImageError: A folder without an image.
    """
    if usable is None:
        return Compared(["Not done, because the bundle did not pass the checks above."])
    if problems := accept.problems(usable.spec):
        raise ConfigError(problems)
    from medssl.runtime.checks import card_sections
    from medssl.runtime.performance.cases import site_cases
    from medssl.runtime.performance.judgement import judged
    from medssl.runtime.performance.page import performance_lines
    from medssl.runtime.performance.run import measure_site
    from medssl.runtime.performance.summary import to_json
    from medssl.runtime.performance.tables import results_text

    site = site_cases(cases, usable.spec, beside(checklist, "manifest"))
    for note in site.notes:
        say(note)
    performance = measure_site(usable.folder, site, threads)
    judgements, results = judged(performance, accept), beside(checklist, "results")
    write_text(results, results_text(performance))
    say(f"own cases: {len(performance.measured)} compared, {len(performance.unusable)} not usable; numbers: {results}")
    for one in judgements:
        say(f"{'passed' if one.passed else 'failed'}: {one.demanded}; found: {one.found}")
    card = card_sections(usable).get("Measured", "")
    content = {**to_json(performance), "demanded": [one.to_json() for one in judgements]}
    failures = [f"performance ({one.demanded})" for one in judgements if not one.passed]
    failures += [] if performance.measured else ["performance (no case could be used)"]
    return Compared(performance_lines(performance, judgements, card, results.name), content, failures)
