"""What a site demands of a bundle before it looks at the numbers."""

from dataclasses import dataclass

from medssl.runtime.bundle import BundleSpec


@dataclass(frozen=True)
class Criteria:
    """What the site's own cases must show; nothing is demanded that is not named.

    Numbers are compared as they were measured: of few cases a number that is good enough may be so by chance, which its
    interval tells.
    """

    dice: float | dict[str, float] | None = None
    """Segmentation: least median Dice over the images, one number for every structure, or one for each structure that
    is named: '{liver: 0.9, spleen: 0.85}'."""

    inside: float | None = None
    """Segmentation: least share of patients whose reference volumes lie in the reported intervals, for every structure
    that has intervals."""

    sensitivity: float | None = None
    """Classification: least share of the images of a class that are called so; of two classes, of the one that the
    operating point calls (the second), of more of every class."""

    specificity: float | None = None
    """Classification: least share of the images of other classes that are not called so, of the same classes."""

    patients: int | None = None
    """Fewest patients with a case that could be used."""

    unusable: int = 0
    """Most cases that may have failed or lack a reference; looked at where anything else is demanded."""

    @property
    def demanded(self) -> bool:
        """Whether anything is."""
        return any(v is not None for v in (self.dice, self.inside, self.sensitivity, self.specificity, self.patients))

    def dice_of(self, names: tuple[str, ...]) -> dict[str, float]:
        """Least median Dice of each structure that one is demanded of."""
        if self.dice is None:
            return {}
        return self.dice if isinstance(self.dice, dict) else dict.fromkeys(names, self.dice)

    def problems(self, spec: BundleSpec) -> list[str]:
        """Every demand that makes no sense of this bundle, one sentence each."""
        names = tuple(label.name for label in spec.labels)
        found = [
            f"accept.dice names {name!r}, which is no structure of the bundle ({', '.join(names) or 'it has none'})"
            for name in self.dice_of(names)
            if name not in names
        ]
        shares = {**{f"dice of {n}": v for n, v in self.dice_of(names).items()}, "inside": self.inside}
        shares |= {"sensitivity": self.sensitivity, "specificity": self.specificity}
        found += [
            f"accept.{n} must be from 0 to 1, got {v:g}" for n, v in shares.items() if v is not None and not 0 <= v <= 1
        ]
        counts = {"patients": self.patients, "unusable": self.unusable}
        found += [f"accept.{n} must be 0 or more, got {v}" for n, v in counts.items() if v is not None and v < 0]
        kinds = ("dice", "inside") if spec.task == "classification" else ("sensitivity", "specificity")
        found += [f"accept.{n} is not for a {spec.task} bundle" for n in kinds if getattr(self, n) is not None]
        if self.inside is not None and not spec.intervals.get("labels"):
            found.append("accept.inside: the bundle has no volume intervals; its model card says why")
        return found
