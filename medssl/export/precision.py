"""Variants of a bundle in fp16 and int8: made by ONNX Runtime's own tools, kept only where they do the same work."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from medssl.data.cache import Cache, CachedCase
from medssl.export.golden import more_windows
from medssl.export.options import PrecisionOptions
from medssl.export.parity import overlap, window_seconds
from medssl.imaging.files import atomic_folder, write_json, write_text
from medssl.runtime.bundle import Bundle, BundleSpec, summed_files, write_sums
from medssl.runtime.session import Session, open_session
from medssl.runtime.sliding_window import classify, segment
from medssl.tasks.classification import auroc

Variant = Literal["fp16", "int8"]
_Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Comparison:
    """What a variant does beside fp32, on cases held out where there are any.

    Args:
        cases: Labelled cases that both predicted.
        quality: Mean Dice, or AUROC, of the variant.
        quality_fp32: That of fp32.
        min_agreement: Smallest Dice between both masks of any class in any case; of a classification the share of
            cases with one answer.
        max_logit_difference: On the golden case.
        megabytes: Size of the graph.
        window_s: Median time of one window on this machine's processor.
        window_s_fp32: That of fp32.
    """

    cases: int
    quality: float
    quality_fp32: float
    min_agreement: float
    max_logit_difference: float
    megabytes: float
    window_s: float
    window_s_fp32: float

    def problems(self, options: PrecisionOptions) -> list[str]:
        """Why the variant is not to be used; what is no number is a reason too."""
        found = []
        if not self.quality_fp32 - self.quality <= options.max_quality_loss:
            found.append(
                f"quality falls from {self.quality_fp32:.4f} to {self.quality:.4f}, allowed is a loss of "
                f"{options.max_quality_loss:g}"
            )
        if not self.min_agreement >= options.min_agreement:
            found.append(f"agreement with fp32 is {self.min_agreement:.4f} only, {options.min_agreement:g} is due")
        return found


@dataclass(frozen=True)
class Outcome:
    """A variant that was made: where it lies, or why it was not kept."""

    variant: Variant
    comparison: Comparison
    folder: Path | None
    problems: tuple[str, ...]


def write_variants(out: Path, cache: Cache, cases: Sequence[CachedCase], options: PrecisionOptions) -> list[Outcome]:
    """Make the variants of a bundle as bundles of their own, `OUT-fp16` and `OUT-int8`.

    Args:
        out: The fp32 bundle, a folder.
        cache: Prepared cache.
        cases: Labelled cases to measure on.
        options: Which, and what is allowed.

    Raises:
        BundleError: The variant's golden case cannot be computed.
    """
    bundle = Bundle.open(out)
    return [_variant(bundle, out, variant, cache, cases, options) for variant in options.variants]


def _variant(
    bundle: Bundle,
    out: Path,
    variant: Variant,
    cache: Cache,
    cases: Sequence[CachedCase],
    options: PrecisionOptions,
) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="medssl-precision-") as name:
        model = Path(name) / "model.onnx"
        if variant == "fp16":
            _halve(bundle.folder / "model.onnx", model)
        else:
            windows = more_windows(cache, cases, bundle.spec.window, options.calibration_windows).image
            _quantise(bundle.folder / "model.onnx", model, windows)
        fp32, low = (Session(path, options.threads, "cpu") for path in (bundle.folder / "model.onnx", model))
        compared = _compare(fp32, low, bundle, model, cache, cases)
        if problems := compared.problems(options):
            return Outcome(variant, compared, None, tuple(problems))
        folder = out.with_name(f"{out.name}-{variant}")
        with atomic_folder(folder) as temporary:
            _write(temporary, bundle, variant, model, compared, low)
        return Outcome(variant, compared, folder, ())


def _write(folder: Path, bundle: Bundle, variant: Variant, model: Path, compared: Comparison, session: Session) -> None:
    for name in summed_files(bundle.folder):
        shutil.copyfile(bundle.folder / name, folder / name)
    shutil.copyfile(model, folder / "model.onnx")
    tolerance = max(bundle.spec.golden_tolerance, 2 * _golden_difference(bundle, session))
    spec = replace(
        bundle.spec,
        precision=variant,
        golden_tolerance=tolerance,
        parity={**bundle.spec.parity, "precision": {"variant": variant, **asdict(compared)}},
    )
    write_json(folder / "bundle.json", spec.to_json())
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8").rstrip()
    write_text(folder / "MODEL_CARD.md", f"{card}\n\n## Precision\n\n{described(variant, compared)}\n")
    write_sums(folder)
    open_session(Bundle.open(folder), session.threads, "cpu")


def described(variant: Variant, compared: Comparison) -> str:
    """A sentence with the numbers."""
    return (
        f"{variant} on {compared.cases} labelled case(s): quality {compared.quality:.4f} beside "
        f"{compared.quality_fp32:.4f} in fp32, smallest agreement {compared.min_agreement:.4f}, logits of the golden "
        f"case differ by up to {compared.max_logit_difference:.3g}; {compared.megabytes:.1f} MB; one window "
        f"{1000 * compared.window_s:.0f} ms beside {1000 * compared.window_s_fp32:.0f} ms on this machine's processor."
    )


def _golden_difference(bundle: Bundle, session: Session) -> float:
    """Largest difference of logits, or relative difference of features, from what torch gave in fp32."""
    image, logits, features = bundle.golden()
    if features is None:
        return float(np.abs(session(image) - logits).max())
    got, own = session.with_features(image)
    relative = float(np.abs(own - features).max()) / max(float(np.abs(features).max()), 1.0)
    return max(float(np.abs(got - logits).max()), relative)


def _halve(source: Path, target: Path) -> None:
    model = convert_float_to_float16(onnx.load(str(source)), keep_io_types=True)
    onnx.save_model(model, str(target))


def _quantise(source: Path, target: Path, windows: _Float) -> None:
    """Static quantisation of weights and activations, their ranges measured on real windows."""
    prepared = target.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(target),
        _Windows(windows),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["Conv", "ConvTranspose", "MatMul", "Gemm"],
    )


class _Windows(CalibrationDataReader):  # type: ignore[misc]
    """One window after the other, as the quantiser asks for them."""

    def __init__(self, windows: _Float) -> None:
        self._left: Iterator[_Float] = iter(windows)

    def get_next(self) -> dict[str, _Float] | None:
        window = next(self._left, None)
        return None if window is None else {"image": window[None]}


def _compare(
    fp32: Session, low: Session, bundle: Bundle, model: Path, cache: Cache, cases: Sequence[CachedCase]
) -> Comparison:
    spec = bundle.spec
    measure = _masks if spec.task == "segmentation" else _classes
    quality_fp32, quality, agreement = measure(fp32, low, spec, cache, cases)
    image, logits, _ = bundle.golden()
    return Comparison(
        cases=len(cases),
        quality=quality,
        quality_fp32=quality_fp32,
        min_agreement=agreement,
        max_logit_difference=float(np.abs(low(image) - logits).max()),
        megabytes=model.stat().st_size / 1e6,
        window_s=window_seconds(low, image[:1]),
        window_s_fp32=window_seconds(fp32, image[:1]),
    )


def _masks(
    fp32: Session, low: Session, spec: BundleSpec, cache: Cache, cases: Sequence[CachedCase]
) -> tuple[float, float, float]:
    """Mean Dice of both, and the smallest Dice between them; voxels that do not count are left out."""
    qualities: list[list[float]] = [[], []]
    agreement = 1.0
    for case in cases:
        image, truth = cache.image(case), cache.label(case)
        masks = [_mask(session, image, spec) for session in (fp32, low)]
        counts = truth != (spec.ignore_label if spec.ignore_label is not None else -1)
        for label in spec.labels:
            true, *found = (array[counts] == label.value for array in (truth, *masks))
            for values, mask in zip(qualities, found, strict=True):
                if (dice := overlap(true, mask)) is not None:
                    values.append(dice)
            if (same := overlap(*found)) is not None:
                agreement = min(agreement, same)
    means = [float(np.mean(values)) if values else float("nan") for values in qualities]
    return means[0], means[1], agreement


def _mask(session: Session, image: _Float, spec: BundleSpec) -> npt.NDArray[np.uint8]:
    return segment(image, spec.window, session, spec.num_outputs, overlap=spec.overlap, batch_size=1)


def _classes(
    fp32: Session, low: Session, spec: BundleSpec, cache: Cache, cases: Sequence[CachedCase]
) -> tuple[float, float, float]:
    """Mean AUROC of the classes of both, and the share of cases that both call alike."""
    truth = np.array([spec.classes.index(case.class_name) for case in cases])
    shares = [np.array([_shares(session, cache.image(case), spec) for case in cases]) for session in (fp32, low)]
    present = [n for n in range(len(spec.classes)) if 0 < int((truth == n).sum()) < len(truth)]
    quality = [
        float(np.mean([auroc(found[:, n], truth == n) for n in present])) if present else float("nan")
        for found in shares
    ]
    alike = float((shares[0].argmax(axis=1) == shares[1].argmax(axis=1)).mean())
    return quality[0], quality[1], alike


def _shares(session: Session, image: _Float, spec: BundleSpec) -> npt.NDArray[np.float64]:
    return classify(image, spec.window, session, activation=spec.activation, temperature=spec.temperature)
