"""What a variant of a bundle does beside fp32: both graphs are used on the same cases as the clinic uses them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medssl.data.cache import Cache, CachedCase
from medssl.export.options import PrecisionOptions
from medssl.export.parity import overlap, window_seconds
from medssl.export.trained import Judges
from medssl.runtime.bundle import GATE_FILE, MAX_GOLDEN_TOLERANCE, Bundle, BundleSpec
from medssl.runtime.confidence import Featured, Gate, Tally
from medssl.runtime.findings import classified
from medssl.runtime.postprocess import keep_largest
from medssl.runtime.session import Session
from medssl.runtime.sliding_window import classify, segment
from medssl.tasks.classification import auroc

_Float = npt.NDArray[np.float32]
_Network = Callable[[_Float], _Float]


@dataclass(frozen=True)
class Comparison:
    """What a variant does beside fp32.

    Args:
        cases: Labelled cases that both predicted.
        held_out: No network has learned from them; else both are too good alike.
        quality: Mean Dice, or AUROC, of the variant.
        quality_fp32: That of fp32.
        min_agreement: Smallest Dice between both masks of any class in any case; of a classification the share of
            cases with one answer.
        max_probability_change: Of any class: change of the mean calibrated probability of the voxels that were given
            it, or mean change of its probability in a case.
        max_distance_change: Of the gate's distance of any case, and of windows turned into negatives, as a share of it
            or of the threshold, whichever is more; None without a gate.
        flags_changed: Images of those of which one alone is flagged.
        golden_tolerance: Needed for the golden case: twice the difference from torch in fp32.
        golden_limit: The most that it may need: half of the largest logit, or what any bundle may.
        max_logit_difference: On the golden case.
        megabytes: Size of the graph.
        window_s: Median time of one window on this machine's processor.
        window_s_fp32: That of fp32.
    """

    cases: int
    held_out: bool
    quality: float
    quality_fp32: float
    min_agreement: float
    max_probability_change: float
    max_distance_change: float | None
    flags_changed: int
    golden_tolerance: float
    golden_limit: float
    max_logit_difference: float
    megabytes: float
    window_s: float
    window_s_fp32: float

    def problems(self, options: PrecisionOptions) -> list[str]:
        """Why the variant is not to be used; what is no number is a reason too."""
        distance = self.max_distance_change
        rules = [
            (
                self.quality_fp32 - self.quality <= options.max_quality_loss,
                f"quality falls from {self.quality_fp32:.4f} to {self.quality:.4f}, allowed is a loss of "
                f"{options.max_quality_loss:g}",
            ),
            (
                self.min_agreement >= options.min_agreement,
                f"agreement with fp32 is {self.min_agreement:.4f} only, {options.min_agreement:g} is due",
            ),
            (
                self.max_probability_change <= options.max_probability_change,
                f"the probability of a class changes by {self.max_probability_change:.4f}, allowed are "
                f"{options.max_probability_change:g}",
            ),
            (
                distance is None or distance <= options.max_distance_change,
                f"the gate's distance changes by {distance or 0:.1%}, allowed are {options.max_distance_change:.0%}",
            ),
            (self.flags_changed == 0, f"{self.flags_changed} image(s) are flagged by one of both alone"),
            (
                self.golden_tolerance <= self.golden_limit,
                f"its golden case needs a tolerance of {self.golden_tolerance:.3g}, at most {self.golden_limit:.3g} is "
                "allowed",
            ),
        ]
        return [problem for holds, problem in rules if not holds]


def compare(fp32: Session, low: Session, bundle: Bundle, model: Path, cache: Cache, judges: Judges) -> Comparison:
    """Predict the cases with both.

    Args:
        fp32: The bundle's own graph.
        low: The variant.
        bundle: The bundle in fp32.
        model: File of the variant.
        cache: Prepared cache.
        judges: Labelled cases of it.

    Raises:
        ImageError: An answer that is no number.
    """
    spec = bundle.spec
    gate = Gate.load(bundle.folder / GATE_FILE, spec.gate) if bundle.has_gate else None
    clinics = [_Clinic(session, spec, gate) for session in (fp32, low)]
    measure = _masks if spec.task == "segmentation" else _classes
    quality_fp32, quality, agreement, probability = measure(clinics, spec, cache, judges.cases)
    image, logits, _ = bundle.golden()
    for clinic in clinics:
        clinic.look_at(-image)
    distances = np.array([clinic.distances for clinic in clinics])
    return Comparison(
        cases=len(judges.cases),
        held_out=judges.held_out,
        quality=quality,
        quality_fp32=quality_fp32,
        min_agreement=agreement,
        max_probability_change=probability,
        max_distance_change=None if gate is None else _change(distances, gate.threshold),
        flags_changed=0 if gate is None else int(np.diff(distances <= gate.threshold, axis=0).sum()),
        golden_tolerance=max(spec.golden_tolerance, 2 * _golden_difference(bundle, low)),
        golden_limit=min(MAX_GOLDEN_TOLERANCE, max(spec.golden_tolerance, 0.5 * float(np.abs(logits).max()))),
        max_logit_difference=float(np.abs(low(image) - logits).max()),
        megabytes=model.stat().st_size / 1e6,
        window_s=window_seconds(low, image[:1]),
        window_s_fp32=window_seconds(fp32, image[:1]),
    )


class _Clinic:
    """A graph used as the clinic uses it: mirrored, cleaned and calibrated as the bundle says, seen by its gate."""

    def __init__(self, session: Session, spec: BundleSpec, gate: Gate | None) -> None:
        self._session, self._spec, self._gate = session, spec, gate
        self.tally = Tally(spec.num_outputs, spec.activation, spec.temperature)
        self.distances: list[float] = []

    def mask(self, image: _Float) -> npt.NDArray[np.uint8]:
        spec, network = self._spec, self._network()
        found = segment(
            image,
            spec.window,
            network,
            spec.num_outputs,
            overlap=spec.overlap,
            batch_size=1,
            mirror_axes=spec.mirror_axes,
            observe=self.tally.observe,
        )
        self._note(network)
        return keep_largest(found, tuple(spec.post_processing.get("largest_component", ())))

    def shares(self, image: _Float) -> npt.NDArray[np.float64]:
        spec, network = self._spec, self._network()
        found = classify(
            image,
            spec.window,
            network,
            mirror_axes=spec.mirror_axes,
            activation=spec.activation,
            temperature=spec.temperature,
        )
        self._note(network)
        return found

    def look_at(self, windows: _Float) -> None:
        """Distance of each window by itself."""
        if self._gate is not None:
            features = self._session.with_features(windows)[1]
            self.distances += [self._gate.distance(one) for one in features]

    def _network(self) -> _Network:
        if self._gate is None:
            return self._session
        return Featured(self._session.with_features, 2 ** len(self._spec.mirror_axes))

    def _note(self, network: _Network) -> None:
        if self._gate is not None and isinstance(network, Featured):
            self.distances.append(self._gate.distance(network.features()))


def _masks(
    clinics: Sequence[_Clinic], spec: BundleSpec, cache: Cache, cases: Sequence[CachedCase]
) -> tuple[float, float, float, float]:
    """Mean Dice of both, the smallest Dice between them and the largest change of a class's mean probability; voxels
    that do not count are left out of the first two.
    """
    qualities: list[list[float]] = [[], []]
    agreement = 1.0
    for case in cases:
        image, truth = cache.image(case), cache.label(case)
        masks = [clinic.mask(image) for clinic in clinics]
        counts = truth != (spec.ignore_label if spec.ignore_label is not None else -1)
        for label in spec.labels:
            true, *found = (array[counts] == label.value for array in (truth, *masks))
            for values, mask in zip(qualities, found, strict=True):
                if (dice := overlap(true, mask)) is not None:
                    values.append(dice)
            if (same := overlap(*found)) is not None:
                agreement = min(agreement, same)
    said = [[clinic.tally.mean(label.value) or 0.0 for label in spec.labels] for clinic in clinics]
    means = [float(np.mean(values)) if values else float("nan") for values in qualities]
    return means[0], means[1], agreement, float(np.abs(np.diff(said, axis=0)).max())


def _classes(
    clinics: Sequence[_Clinic], spec: BundleSpec, cache: Cache, cases: Sequence[CachedCase]
) -> tuple[float, float, float, float]:
    """Mean AUROC of the classes of both, the share of cases that both call alike (at the bundle's operating point), and
    the largest mean change of a class's probability.
    """
    truth = np.array([spec.classes.index(case.class_name) for case in cases])
    shares = [np.array([clinic.shares(cache.image(case)) for case in cases]) for clinic in clinics]
    present = [n for n in range(len(spec.classes)) if 0 < int((truth == n).sum()) < len(truth)]
    quality = [
        float(np.mean([auroc(found[:, n], truth == n) for n in present])) if present else float("nan")
        for found in shares
    ]
    called = [[str(classified(each, spec)["class"]) for each in found] for found in shares]
    alike = float(np.mean([one == other for one, other in zip(*called, strict=True)]))
    return quality[0], quality[1], alike, float(np.abs(shares[0] - shares[1]).mean(axis=0).max())


def _change(distances: npt.NDArray[np.float64], threshold: float) -> float:
    return float((np.abs(distances[1] - distances[0]) / np.maximum(distances[0], threshold)).max())


def _golden_difference(bundle: Bundle, session: Session) -> float:
    """Largest difference of logits, or relative difference of features, from what torch gave in fp32."""
    image, logits, features = bundle.golden()
    if features is None:
        return float(np.abs(session(image) - logits).max())
    got, own = session.with_features(image)
    relative = float(np.abs(own - features).max()) / max(float(np.abs(features).max()), 1.0)
    return float(np.max([np.abs(got - logits).max(), relative]))
