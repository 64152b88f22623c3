"""Whether a site's cases show what the site demanded."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from medssl.runtime.performance.criteria import Criteria
from medssl.runtime.performance.proportion import Proportion
from medssl.runtime.performance.run import Performance
from medssl.runtime.performance.summary import of_classes, of_structures


@dataclass(frozen=True)
class Judgement:
    """One demand and what came of it.

    Args:
        demanded: In words.
        found: In words.
        passed: Whether it is met; what could not be measured is not.
    """

    demanded: str
    found: str
    passed: bool

    def to_json(self) -> dict[str, object]:
        """Plain dictionary."""
        return asdict(self)


def judged(performance: Performance, criteria: Criteria) -> list[Judgement]:
    """Every demand; none where nothing is demanded."""
    if not criteria.demanded:
        return []
    kinds = _classes if performance.spec.task == "classification" else _structures
    found = [*kinds(performance, criteria)]
    if criteria.patients is not None:
        people = performance.patients
        met = people >= criteria.patients
        found.append(Judgement(f"{criteria.patients} or more patients with a usable case", f"{people}", met))
    failed = len(performance.unusable)
    met = failed <= criteria.unusable
    return [*found, Judgement(f"at most {criteria.unusable} case(s) that cannot be used", f"{failed}", met)]


def _structures(performance: Performance, criteria: Criteria) -> Iterator[Judgement]:
    least = criteria.dice_of(tuple(label.name for label in performance.spec.labels))
    summaries = of_structures(performance.measured, performance.spec)
    for one in summaries:
        if one.name in least:
            value, images = one.median_dice, len(one.dices)
            told = "not defined: it is in no image" if value is None else f"{value:.3f} over {images} image(s)"
            met = value is not None and value >= least[one.name]
            yield Judgement(f"median Dice of {one.name} {least[one.name]:g} or more", told, met)
    for one in summaries if criteria.inside is not None else ():
        if str(_value(performance, one.name)) in performance.spec.intervals["labels"]:
            wanted = f"{criteria.inside:.1%} or more of the patients with every volume of {one.name} in its interval"
            yield _share(wanted, one.inside or Proportion(0, 0), criteria.inside or 0.0)


def _value(performance: Performance, name: str) -> int:
    return next(label.value for label in performance.spec.labels if label.name == name)


def _classes(performance: Performance, criteria: Criteria) -> Iterator[Judgement]:
    for one in of_classes(performance.measured, performance.spec):
        if criteria.sensitivity is not None:
            wanted = f"sensitivity for {one.name} {criteria.sensitivity:.1%} or more"
            yield _share(wanted, one.sensitivity, criteria.sensitivity)
        if criteria.specificity is not None:
            wanted = f"specificity for {one.name} {criteria.specificity:.1%} or more"
            yield _share(wanted, one.specificity, criteria.specificity)


def _share(wanted: str, found: Proportion, least: float) -> Judgement:
    if found.share is None:
        return Judgement(wanted, "not measured: no case tells it", False)
    doubt = found.share >= least > found.interval()[0]
    return Judgement(wanted, f"{found}{'; the interval reaches below' if doubt else ''}", found.share >= least)
