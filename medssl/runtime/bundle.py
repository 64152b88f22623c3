"""The bundle: a network with everything needed to use it, verified before it touches a patient.

BUNDLE/model.onnx       input `image` (B, C, *window) float32, output `logits` (B, K, *window) or (B, K) and, where the
                        bundle has a gate, `features` (B, F)
BUNDLE/bundle.json      BundleSpec
BUNDLE/golden.npz       `image`, and the `logits` and `features` torch gave for it
BUNDLE/features.npz     features of training images, where the bundle has a gate
BUNDLE/MODEL_CARD.md
BUNDLE/SHA256SUMS       hashes of the files above
"""

import re
import zipfile
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import BundleError, MedsslError
from medssl.imaging.files import sha256, write_text
from medssl.imaging.labels import Label
from medssl.imaging.preprocess import Preprocess
from medssl.imaging.readers.archive import unpacked
from medssl.imaging.series import SeriesRule
from medssl.runtime.bundle_guard import MAX_TEXT_BYTES, check_arrays, check_values, read_options, refuse_size
from medssl.runtime.sliding_window import Activation

SCHEMA_VERSION = 2
FILES = ("model.onnx", "bundle.json", "golden.npz", "MODEL_CARD.md")
GATE_FILE = "features.npz"
"""Present in bundles with a gate alone, and hashed like the others."""
Precision = Literal["fp32", "fp16", "int8"]
NO_INTENDED_USE = "Research on images like those it was trained on."
"""What stands in a bundle whose maker did not say what it is for."""
GOLDEN_TOLERANCE = 1e-2
"""Largest difference of logits between the golden case and this machine; other processors round otherwise."""
MAX_GOLDEN_TOLERANCE = 2.0
"""No bundle may ask for more: a golden case that allows more would no longer tell a wrong graph."""


@dataclass(frozen=True)
class BundleSpec:
    """What bundle.json says.

    Args:
        name: Name of the model.
        task: `segmentation` or `classification`.
        channels: Names of the input channels.
        series: What a series of a study must be to serve as each channel; empty = none was stated.
        modalities: DICOM modalities of the images it is for (of several channels the first one's); empty = unknown.
        spacing_mm: `smallest` and `largest` voxel size of the training images, along the axes of
            `preprocess.orientation`; empty = unknown.
        preprocess: What is done to an image first.
        window: Size of the network's input.
        overlap: Share by which windows overlap.
        mirror_axes: Axes mirrored at prediction.
        activation: How logits become probabilities.
        ignore_label: Value of the training labels that did not count; the network never gives it.
        labels: Foreground classes of a segmentation.
        classes: Classes of a classification.
        operating_point: Two classes: `class` is called from `threshold` on, with what that cost on validation cases;
            empty = the more probable class.
        temperature: Logits are divided by it before they become probabilities.
        calibration: How the temperature was found, and what it changed; empty = the network's own probabilities.
        intervals: `coverage` that is stated and, by the label's value as text, what `interval_ml` needs; `missing` says
            why there are none.
        gate: Threshold of the distance to the training images, and how well it tells other images; `missing` says why
            there is none.
        precision: Numbers the graph computes in.
        golden_tolerance: Largest difference of logits and (relative) features between the golden case and a machine.
        post_processing: `largest_component`: label values of which only the largest connected part is kept.
        intended_use: What the model is for, in a sentence.
        licence: Licence of the weights and of the data behind them.
        provenance: Hashes, versions, dates, fingerprint of the training data.
        parity: Proof that the graph equals torch: differences and Dice.
    """

    name: str
    task: str
    channels: tuple[str, ...]
    preprocess: Preprocess
    window: tuple[int, ...]
    series: tuple[SeriesRule, ...] = ()
    modalities: tuple[str, ...] = ()
    spacing_mm: dict[str, list[float]] = field(default_factory=dict)
    overlap: float = 0.5
    mirror_axes: tuple[int, ...] = ()
    activation: Activation = "softmax"
    ignore_label: int | None = None
    labels: tuple[Label, ...] = ()
    classes: tuple[str, ...] = ()
    operating_point: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    calibration: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, Any] = field(default_factory=dict)
    precision: Precision = "fp32"
    golden_tolerance: float = GOLDEN_TOLERANCE
    post_processing: dict[str, Any] = field(default_factory=dict)
    intended_use: str = ""
    licence: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)

    @property
    def num_outputs(self) -> int:
        """K: background and labels, or classes."""
        return (
            1 + max((label.value for label in self.labels), default=0)
            if self.task == "segmentation"
            else len(self.classes)
        )

    def to_json(self) -> dict[str, Any]:
        """Content of bundle.json."""
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        content["preprocess"] = self.preprocess.to_json()
        content["labels"] = [label.to_json() for label in self.labels]
        content["series"] = [rule.to_json() for rule in self.series]
        return {"schema_version": SCHEMA_VERSION, **content}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "BundleSpec":
        """Inverse of `to_json`.

        Raises:
            BundleError: Another schema version, missing or unknown entries.
        """
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"bundle has schema version {version}, this is medssl {metadata.version('medssl')}, which reads "
                f"{SCHEMA_VERSION}: it needs {_needs(content)}",
                reason="schema-version",
            )
        values = {name: value for name, value in content.items() if name != "schema_version"}
        try:
            values["preprocess"] = Preprocess.from_json(values["preprocess"])
            values["labels"] = tuple(Label.from_json(label) for label in values["labels"])
            values["series"] = tuple(SeriesRule.from_json(rule) for rule in values["series"])
            values.setdefault("modalities", [])  # bundles of earlier versions have none
            for name in ("channels", "window", "mirror_axes", "classes", "modalities"):
                values[name] = tuple(values[name])
            check_values(values)
            spec = cls(**values)
            if len(spec.series) not in (0, len(spec.channels)) or not spec.temperature > 0:
                raise ValueError("series must be one a channel, temperature above 0")
            if not 0 < spec.golden_tolerance <= MAX_GOLDEN_TOLERANCE:
                raise ValueError(f"golden_tolerance must be above 0 and at most {MAX_GOLDEN_TOLERANCE:g}")
            return spec
        except (KeyError, TypeError, ValueError, AttributeError, MedsslError) as error:
            raise BundleError(f"bundle.json does not follow the schema ({error})", reason="schema") from error


def _needs(content: dict[str, Any]) -> str:
    """The medssl that a bundle of another schema version needs: the one that wrote it, by its version where told."""
    version = content.get("schema_version")
    newer = isinstance(version, int) and version > SCHEMA_VERSION
    told: Any = content
    for name in ("provenance", "versions", "medssl"):
        told = told.get(name) if isinstance(told, dict) else None
    if not isinstance(told, str) or not re.fullmatch(r"[\w.+-]{1,40}", told):
        return "a newer medssl" if newer else "the medssl that wrote it"
    return f"medssl {told}, which wrote it{', or a newer one' if newer else ''}"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are present and unchanged.

    Args:
        folder: Folder with its files.
        spec: Content of bundle.json.
        sha256: Hash of SHA256SUMS, which stands for the whole bundle.
    """

    folder: Path
    spec: BundleSpec
    sha256: str

    @classmethod
    def open(cls, path: Path) -> "Bundle":
        """Open a bundle folder or .zip and check its hashes and schema.

        Raises:
            BundleError: Something is missing, changed, of another version or unsafe.
        """
        folder = _folder(Path(path))
        for name in (*FILES, "SHA256SUMS"):
            if not (folder / name).is_file():
                raise BundleError(f"{path} is no complete bundle: {name} is missing", reason="incomplete")
        check_hashes(folder)
        content = read_options(folder / "bundle.json")
        bundle = cls(folder, BundleSpec.from_json(content), sha256(folder / "SHA256SUMS"))
        if bundle.has_gate and not (folder / GATE_FILE).is_file():
            raise BundleError(f"{path} is no complete bundle: {GATE_FILE} is missing", reason="incomplete")
        return bundle

    @property
    def has_gate(self) -> bool:
        """Whether the bundle tells images that are unlike those it was trained on."""
        return "threshold" in self.spec.gate

    def golden(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Golden input, the logits it must give and, where the bundle has a gate, the features.

        Raises:
            BundleError: The file does not hold them.
        """
        check_arrays(self.folder / "golden.npz", "golden")
        try:
            with (self.folder / "golden.npz").open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                image, logits = arrays["image"].astype(np.float32), arrays["logits"].astype(np.float32)
                return image, logits, arrays["features"].astype(np.float32) if self.has_gate else None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BundleError(f"golden.npz is damaged ({error})", reason="golden") from error


def summed_files(folder: Path) -> tuple[str, ...]:
    """Names of the files that SHA256SUMS covers."""
    return (*FILES, GATE_FILE) if (folder / GATE_FILE).exists() else FILES


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over the bundle's files."""
    names = summed_files(folder)
    write_text(folder / "SHA256SUMS", "".join(f"{sha256(folder / name)}  {name}\n" for name in names))


def check_hashes(folder: Path) -> None:
    """Compare every file with SHA256SUMS.

    Raises:
        BundleError: A file is not listed, or is not what was listed.
    """
    refuse_size(folder / "SHA256SUMS", MAX_TEXT_BYTES)
    try:
        lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (ValueError, UnicodeDecodeError) as error:
        raise BundleError("SHA256SUMS is damaged", reason="hash-mismatch") from error
    changed = [name for name in summed_files(folder) if sums.get(name) != sha256(folder / name)]
    changed += sorted(set(sums) - set(summed_files(folder)))
    if changed:
        raise BundleError(
            f"{', '.join(changed)} changed since the bundle was made (hash mismatch): get the bundle again from its "
            "maker; nothing was predicted",
            reason="hash-mismatch",
        )


def _folder(path: Path) -> Path:
    if path.is_dir():
        return path
    if not path.is_file():
        raise BundleError(f"bundle {path} does not exist", reason="no-bundle")
    try:
        folder = unpacked(path)
    except MedsslError as error:
        raise BundleError(f"{path} is no bundle: {error.message}", reason=error.reason) from error
    inner = [p for p in folder.iterdir() if p.is_dir()]
    return inner[0] if len(inner) == 1 and not (folder / "bundle.json").is_file() else folder
