"""Variants of a bundle in fp16 and int8: made by ONNX Runtime's own tools, kept only where they do the same work."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx

from medssl.data.cache import Cache
from medssl.export.comparison import Comparison, compare
from medssl.export.golden import more_windows
from medssl.export.options import PrecisionOptions
from medssl.export.trained import Judges
from medssl.imaging.errors import CacheError, MedsslError
from medssl.imaging.files import atomic_folder, write_json, write_text
from medssl.runtime.bundle import Bundle, summed_files, write_sums
from medssl.runtime.session import Session, open_session

# isort: split
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static  # after medssl.runtime.ort
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

Variant = Literal["fp16", "int8"]
_Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Outcome:
    """A variant that was tried: where it lies, or why it was not kept; without a comparison where it does not run."""

    variant: Variant
    comparison: Comparison | None
    folder: Path | None
    problems: tuple[str, ...]


def write_variants(out: Path, cache: Cache, judges: Judges, options: PrecisionOptions) -> list[Outcome]:
    """Make the variants of a bundle as bundles of their own, `OUT-fp16` and `OUT-int8`; each is tried by itself.

    Args:
        out: The fp32 bundle, a folder.
        cache: Prepared cache.
        judges: Labelled cases to measure on, and others for the ranges of int8.
        options: Which, and what is allowed.
    """
    bundle, found = Bundle.open(out), []
    for variant in options.variants:
        try:
            found.append(_variant(bundle, out, variant, cache, judges, options))
        except MedsslError as error:
            found.append(Outcome(variant, None, None, (error.message,)))
    return found


def _variant(
    bundle: Bundle, out: Path, variant: Variant, cache: Cache, judges: Judges, options: PrecisionOptions
) -> Outcome:
    """Make and measure one.

    Raises:
        BundleError: It cannot be loaded, or its golden case cannot be computed.
        CacheError: No case is left to measure the ranges of int8 on.
        ImageError: Its answers are no numbers.
    """
    with tempfile.TemporaryDirectory(prefix="medssl-precision-") as name:
        model = Path(name) / "model.onnx"
        if variant == "fp16":
            _halve(bundle.folder / "model.onnx", model)
        else:
            _quantise(bundle.folder / "model.onnx", model, _ranges(bundle, cache, judges, options))
        fp32, low = (Session(path, options.threads, "cpu") for path in (bundle.folder / "model.onnx", model))
        compared = compare(fp32, low, bundle, model, cache, judges)
        if problems := compared.problems(options):
            return Outcome(variant, compared, None, tuple(problems))
        folder = out.with_name(f"{out.name}-{variant}")
        with atomic_folder(folder) as temporary:
            _write(temporary, bundle, variant, model, compared, low)
        return Outcome(variant, compared, folder, ())


def _ranges(bundle: Bundle, cache: Cache, judges: Judges, options: PrecisionOptions) -> _Float:
    """Windows of patients who do not judge the variant."""
    if not judges.others:
        raise CacheError(
            "every patient who is not in the test split is measured on, so none is left to find the ranges of int8 on: "
            "a smaller precision.cases leaves some",
            reason="no-cases",
        )
    return more_windows(cache, judges.others, bundle.spec.window, options.calibration_windows).image


def _write(folder: Path, bundle: Bundle, variant: Variant, model: Path, compared: Comparison, session: Session) -> None:
    for name in summed_files(bundle.folder):
        shutil.copyfile(bundle.folder / name, folder / name)
    shutil.copyfile(model, folder / "model.onnx")
    spec = replace(
        bundle.spec,
        precision=variant,
        golden_tolerance=compared.golden_tolerance,
        parity={**bundle.spec.parity, "precision": {"variant": variant, **asdict(compared)}},
    )
    write_json(folder / "bundle.json", spec.to_json())
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8").rstrip()
    write_text(folder / "MODEL_CARD.md", f"{card}\n\n## Precision\n\n{described(variant, compared)}\n")
    write_sums(folder)
    open_session(Bundle.open(folder), session.threads, "cpu")


def described(variant: Variant, compared: Comparison) -> str:
    """A sentence with the numbers."""
    whose = "held out" if compared.held_out else "that networks of the bundle have learned from"
    change = compared.max_distance_change
    gate = "" if change is None else f"the gate's distance changes by {change:.1%} at most, "
    return (
        f"{variant} on {compared.cases} labelled case(s) {whose}: quality {compared.quality:.4f} beside "
        f"{compared.quality_fp32:.4f} in fp32, smallest agreement {compared.min_agreement:.4f}, probabilities change "
        f"by {compared.max_probability_change:.4f} at most, {gate}logits of the golden case differ by up to "
        f"{compared.max_logit_difference:.3g}; {compared.megabytes:.1f} MB; one window "
        f"{1000 * compared.window_s:.0f} ms beside {1000 * compared.window_s_fp32:.0f} ms on this machine's processor."
    )


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
