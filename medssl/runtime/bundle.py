"""The bundle: a network with everything needed to use it, verified before it touches a patient.

BUNDLE/model.onnx       input `image` (B, C, *window) float32, output `logits` (B, K, *window) or (B, K)
BUNDLE/bundle.json      BundleSpec
BUNDLE/golden.npz       `image` and the `logits` torch gave for it
BUNDLE/MODEL_CARD.md
BUNDLE/SHA256SUMS       hashes of the files above
"""

import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import BundleError, MedsslError
from medssl.imaging.files import sha256, write_text
from medssl.imaging.labels import Label
from medssl.imaging.preprocess import Preprocess
from medssl.imaging.readers.archive import unpacked
from medssl.runtime.bundle_guard import MAX_TEXT_BYTES, check_arrays, check_values, read_options, refuse_size
from medssl.runtime.sliding_window import Activation

SCHEMA_VERSION = 1
FILES = ("model.onnx", "bundle.json", "golden.npz", "MODEL_CARD.md")
GOLDEN_TOLERANCE = 1e-2
"""Largest difference of logits between the golden case and this machine; other processors round otherwise."""


@dataclass(frozen=True)
class BundleSpec:
    """What bundle.json says.

    Args:
        name: Name of the model.
        task: `segmentation` or `classification`.
        channels: Names of the input channels.
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
    overlap: float = 0.5
    mirror_axes: tuple[int, ...] = ()
    activation: Activation = "softmax"
    ignore_label: int | None = None
    labels: tuple[Label, ...] = ()
    classes: tuple[str, ...] = ()
    operating_point: dict[str, Any] = field(default_factory=dict)
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
        return {"schema_version": SCHEMA_VERSION, **content}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "BundleSpec":
        """Inverse of `to_json`.

        Raises:
            BundleError: Another schema version, missing or unknown entries.
        """
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            needs = (
                "a newer medssl"
                if isinstance(version, int) and version > SCHEMA_VERSION
                else "the medssl that wrote it"
            )
            raise BundleError(
                f"bundle has schema version {version}, this medssl reads {SCHEMA_VERSION}: it needs {needs}",
                reason="schema-version",
            )
        values = {name: value for name, value in content.items() if name != "schema_version"}
        try:
            values["preprocess"] = Preprocess.from_json(values["preprocess"])
            values["labels"] = tuple(Label.from_json(label) for label in values["labels"])
            for name in ("channels", "window", "mirror_axes", "classes"):
                values[name] = tuple(values[name])
            check_values(values)
            return cls(**values)
        except (KeyError, TypeError, ValueError, AttributeError, MedsslError) as error:
            raise BundleError(f"bundle.json does not follow the schema ({error})", reason="schema") from error


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
        return cls(folder, BundleSpec.from_json(content), sha256(folder / "SHA256SUMS"))

    def golden(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Golden input and the logits it must give.

        Raises:
            BundleError: The file does not hold them.
        """
        check_arrays(self.folder / "golden.npz")
        try:
            with np.load(self.folder / "golden.npz", allow_pickle=False) as arrays:
                return arrays["image"].astype(np.float32), arrays["logits"].astype(np.float32)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BundleError(f"golden.npz is damaged ({error})", reason="golden") from error


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over the bundle's files."""
    write_text(folder / "SHA256SUMS", "".join(f"{sha256(folder / name)}  {name}\n" for name in FILES))


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
    changed = [name for name in FILES if sums.get(name) != sha256(folder / name)]
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
