"""Puts a bundle together: graph, proof, golden case, card, hashes.

It appears whole, after the clinic's own check, or not at all.
"""

import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medssl.data.cache import Cache, CachedCase
from medssl.export.confidence import Confidence, measure_confidence
from medssl.export.golden import golden_windows, more_windows
from medssl.export.model_card import model_card
from medssl.export.onnx import OPSET, OUTPUTS, write_onnx
from medssl.export.operating_point import operating_point
from medssl.export.options import CardOptions, ConfidenceOptions, OperationOptions, ParityOptions
from medssl.export.parity import BATCHES, Parity, measure_parity, torch_function
from medssl.export.pretraining import ENOUGH, Pretraining
from medssl.export.trained import Trained, spread
from medssl.export.training_images import learned_count, spacing_range, told_modalities
from medssl.imaging.errors import BundleError
from medssl.imaging.files import atomic_folder, atomic_path, write_json, write_text
from medssl.imaging.series import SeriesRule
from medssl.imaging.volume import Volume
from medssl.runtime.bundle import GATE_FILE, Bundle, BundleSpec, summed_files, write_sums
from medssl.runtime.session import Session, open_session, usable_threads
from medssl.tasks.inference import Ensemble, WithFeatures
from medssl.tasks.model_file import ModelSpec

_PROVENANCE = (
    *("manifest_sha256", "data_sha256", "fingerprint", "patients", "cases"),
    *("seed", "step", "steps", "planned_steps", "unfinished", "folds"),
)
_WINDOWS = 6


@dataclass(frozen=True)
class Request:
    """What is to be exported.

    Args:
        networks: One network, or the folds of an ensemble, on the CPU.
        spec: What they need and give; its `mirror_axes` are those of the clinic.
        cache: Cache with real cases to prove parity on.
        evaluation: Content of results.json for the card, or None.
        card: What the bundle says of itself.
        parity: What is allowed.
        operation: What is done with the answer.
        confidence: What the bundle says of its own certainty.
        patients: Patients that each network learned from, empty sets where nobody knows.
        reference: Original label map of a case, as `evaluate` reads it.
        series: What a series of a study must be to serve as each channel.
        pretrained_on: Patients that a pretraining learned from before; None where nobody knows.
    """

    networks: Sequence[nn.Module]
    spec: ModelSpec
    cache: Cache
    evaluation: Mapping[str, Any] | None
    card: CardOptions
    parity: ParityOptions
    operation: OperationOptions
    confidence: ConfidenceOptions
    patients: Sequence[frozenset[str]]
    reference: Callable[[Cache, CachedCase], Volume]
    series: tuple[SeriesRule, ...] = ()
    pretrained_on: frozenset[str] | None = None

    def trained(self) -> Trained:
        """The networks with what they learned from."""
        pretraining = Pretraining(self.pretrained_on, max(ENOUGH, self.confidence.interval_patients))
        return Trained(self.networks, self.patients, self.spec, self.cache, self.reference, pretraining)


def write_bundle(out: Path, request: Request) -> Parity:
    """Write a bundle folder, or a .zip when `out` ends so.

    Raises:
        BundleError: `out` exists, the network cannot be exported, or the graph does not do what the network does;
            nothing is left behind.
    """
    if out.exists():
        raise BundleError(f"{out} exists already: choose another name; nothing is overwritten", reason="exists")
    with _place(out) as folder:
        spec = request.spec
        confidence = _confidence(request)
        network = Ensemble(request.networks, spec.activation).eval()
        whole, names = (
            (network, OUTPUTS[:1]) if confidence.embeddings is None else (WithFeatures(network).eval(), OUTPUTS)
        )
        write_onnx(whole, len(spec.channels), spec.window, folder / "model.onnx", names)
        golden = golden_windows(request.cache, _labelled_first(request.cache), spec.window)
        parity = _proven(folder / "model.onnx", network, golden.image, request)
        _write_golden(folder / "golden.npz", whole, golden.image, names)
        if (gate := confidence.embeddings) is not None:
            with atomic_path(folder / GATE_FILE) as temporary:
                np.savez_compressed(temporary, mean=gate.mean, scale=gate.scale, embeddings=gate.embeddings)
        bundle = _bundle_spec(out, request, parity, golden.missing, confidence)
        write_json(folder / "bundle.json", bundle.to_json())
        write_text(folder / "MODEL_CARD.md", model_card(bundle, request.evaluation, request.card.limits))
        write_sums(folder)
        open_session(Bundle.open(folder), request.parity.threads)  # as the clinic will
    return parity


def _confidence(request: Request) -> Confidence:
    with all_threads(request.parity.threads):
        return measure_confidence(request.trained(), request.confidence, request.operation)


def _write_golden(path: Path, network: nn.Module, image: np.ndarray, names: Sequence[str]) -> None:
    with torch.no_grad():
        answers = network(torch.from_numpy(image))
    outputs = [answers] if isinstance(answers, torch.Tensor) else answers
    arrays = {name: output.float().numpy() for name, output in zip(names, outputs, strict=True)}
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, image=image, **arrays)


@contextmanager
def all_threads(threads: int) -> Iterator[None]:
    """Torch on as many threads as ONNX Runtime would take."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or usable_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _proven(model: Path, network: nn.Module, golden: np.ndarray, request: Request) -> Parity:
    """Parity within the rules.

    Raises:
        BundleError: It is not.
    """
    cases = spread(_labelled_first(request.cache), request.parity.cases)
    count = max(_WINDOWS - len(golden), max(BATCHES) - len(golden), 0)
    windows = golden
    if count:
        windows = np.concatenate([golden, more_windows(request.cache, cases, request.spec.window, count).image])
    session = Session(model, request.parity.threads)
    with all_threads(request.parity.threads):
        parity = measure_parity(torch_function(network), session, request.cache, cases, windows, request.spec)
    if problems := parity.problems(request.parity):
        raise BundleError(
            "the exported graph does not do what the trained network does: "
            + "; ".join(problems)
            + ". No bundle is made",
            reason="parity",
        )
    return parity


def _bundle_spec(
    out: Path, request: Request, parity: Parity, missing: Sequence[int], confidence: Confidence
) -> BundleSpec:
    spec, card = request.spec, request.card
    provenance = {key: spec.provenance[key] for key in _PROVENANCE if key in spec.provenance}
    learned = request.trained().learned()
    if "folds" in provenance and (cases := learned_count(request.trained())) is not None:
        provenance["cases"] = cases
    return BundleSpec(
        name=card.name or out.name.removesuffix(".zip"),
        task=spec.task,
        channels=spec.channels,
        preprocess=spec.preprocess,
        window=spec.window,
        overlap=spec.overlap,
        mirror_axes=spec.mirror_axes,
        activation=spec.activation,
        ignore_label=spec.ignore_label,
        labels=spec.labels,
        classes=spec.classes,
        operating_point=operating_point(request.trained(), request.operation.threshold, confidence.temperature),
        temperature=confidence.temperature,
        calibration=confidence.calibration,
        intervals=confidence.intervals,
        gate=confidence.gate,
        series=request.series,
        modalities=tuple(card.modalities) or told_modalities(learned),
        spacing_mm=spacing_range(learned, spec.preprocess.orientation),
        post_processing={"largest_component": list(request.operation.largest_component)},
        intended_use=card.intended_use,
        licence=card.licence,
        provenance={
            **provenance,
            "networks": len(request.networks),
            "architecture": f"{_class(spec.network.encoder)} + {_class(spec.network.decoder)}",
            "pretrained": spec.provenance.get("init") is not None,
            "validation": dict(spec.validation),
            "made": datetime.now(UTC).strftime("%Y-%m-%d"),
            "versions": {name: metadata.version(name) for name in ("medssl", "torch", "onnx", "onnxruntime")},
        },
        parity={
            **parity.to_json(),
            "allowed_logit_difference": request.parity.max_logit_difference,
            "due_dice": request.parity.min_dice,
            "opset": OPSET,
            **({"classes_not_in_golden_case": list(missing)} if missing else {}),
        },
    )


def _class(component: Any) -> str:
    return str(component.class_path).rpartition(".")[2]


def _labelled_first(cache: Cache) -> list[CachedCase]:
    return sorted(cache.cases, key=lambda case: not case.has_label)


@contextmanager
def _place(out: Path) -> Iterator[Path]:
    """Temporary folder that becomes the bundle, or its zip file, on success."""
    if out.suffix.lower() != ".zip":
        with atomic_folder(out) as folder:
            yield folder
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=out.parent) as name:
        folder = Path(name)
        yield folder
        with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for part in (*summed_files(folder), "SHA256SUMS"):
                archive.write(folder / part, part)
