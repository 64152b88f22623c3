"""The fine-tuned model on disk: weights in safetensors, and everything needed to use them in JSON beside them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medssl.imaging.errors import CheckpointError, MedsslError
from medssl.imaging.files import sha256, write_json
from medssl.imaging.labels import Label
from medssl.imaging.preprocess import Preprocess
from medssl.models.networks import Network, NetworkSpec, build_network
from medssl.models.weights import write_weights
from medssl.runtime.sliding_window import Activation

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a fine-tuned model but its weights.

    Args:
        network: What the network is made of; its `task` is the model's.
        preprocess: Preprocessing of the images it was trained on.
        window: Voxels of one prediction, the crop size of the training.
        overlap: Share by which windows overlap.
        mirror_axes: Spatial axes over whose mirror images predictions are averaged.
        labels: Foreground classes of a segmentation; channel k of the logits is label value k, 0 background.
        classes: Classes of a classification, in the order of the logits.
        ignore_label: Label value that did not count.
        channels: Names of the image's channels.
        activation: How logits become probabilities, as the loss trained them.
        validation: Scores of the kept weights on the validation cases; empty without any.
        provenance: Where the model comes from: data hash, patients, initial weights, seed, versions.
    """

    network: NetworkSpec
    preprocess: Preprocess
    window: tuple[int, ...]
    overlap: float
    mirror_axes: tuple[int, ...]
    labels: tuple[Label, ...]
    classes: tuple[str, ...]
    ignore_label: int | None
    channels: tuple[str, ...]
    activation: Activation = "softmax"
    validation: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> Literal["segmentation", "classification"]:
        """What the model does."""
        return self.network.task

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for model.json, without the hash of the weights."""
        return {
            "schema_version": SCHEMA_VERSION,
            "task": self.task,
            "network": self.network.to_json(),
            "preprocess": self.preprocess.to_json(),
            "window": list(self.window),
            "overlap": self.overlap,
            "mirror_axes": list(self.mirror_axes),
            "labels": [label.to_json() for label in self.labels],
            "classes": list(self.classes),
            "ignore_label": self.ignore_label,
            "channels": list(self.channels),
            "activation": self.activation,
            "validation": dict(self.validation),
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ModelSpec":
        """Inverse of `to_json`."""
        return cls(
            network=NetworkSpec.from_json(content["network"]),
            preprocess=Preprocess.from_json(content["preprocess"]),
            window=tuple(int(n) for n in content["window"]),
            overlap=float(content["overlap"]),
            mirror_axes=tuple(int(a) for a in content["mirror_axes"]),
            labels=tuple(Label.from_json(label) for label in content["labels"]),
            classes=tuple(content["classes"]),
            ignore_label=content["ignore_label"],
            channels=tuple(content["channels"]),
            activation=content["activation"],
            validation=content["validation"],
            provenance=content["provenance"],
        )


def save_model(folder: Path, weights: Mapping[str, Tensor], spec: ModelSpec) -> None:
    """Write FOLDER/model.safetensors and, last, FOLDER/model.json with the hash of the weights.

    Args:
        folder: Folder of the run, or of one fold.
        weights: `state_dict` of the network that `spec.network` describes.
        spec: Everything else.

    Raises:
        MedsslError: No room, or no right to write.
    """
    (folder / "model.json").unlink(missing_ok=True)
    write_weights(folder / "model.safetensors", weights)
    content = {**spec.to_json(), "weights_sha256": sha256(folder / "model.safetensors")}
    write_json(folder / "model.json", content)


def load_model(folder: Path) -> tuple[Network, ModelSpec]:
    """Read a model that `save_model` wrote; the network is in eval mode on the CPU.

    Raises:
        CheckpointError: No model there, one that was cut or edited, or one of a newer version.
    """
    folder = Path(folder)
    spec, digest = _read(folder / "model.json")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise CheckpointError(f"{weights} is missing: the model is incomplete", reason="no-model")
    if sha256(weights) != digest:
        raise CheckpointError(
            f"{weights} does not have the hash that model.json gives: it was cut or edited and is not used",
            reason="model-hash",
        )
    try:
        network = build_network(spec.network, trusted_only=True)
        network.load_state_dict(load_file(weights), strict=True)
    except (SafetensorError, RuntimeError, MedsslError) as error:
        why = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{weights} does not fit its model.json ({why})", reason="model-mismatch") from error
    return network.eval().requires_grad_(False), spec


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weights that `load_model` loads.

    Raises:
        CheckpointError: No model there, or a damaged one.
    """
    return _read(Path(folder) / "model.json")[1]


def model_folders(run: Path) -> tuple[Path, ...]:
    """Folders of a run's models: the run itself, or its folds in order.

    Raises:
        CheckpointError: The run holds no finished model, or a fold of it does not.
    """
    run = Path(run)
    if (run / "model.json").is_file():
        return (run,)
    folds = sorted(run.glob("fold_*"), key=lambda p: int(p.name[5:]) if p.name[5:].isdigit() else -1)
    bare = [fold.name for fold in folds if not (fold / "model.json").is_file()]
    if not folds or bare:
        missing = f"{', '.join(bare)} of it have none yet" if bare else "it has neither model.json nor fold_0"
        raise CheckpointError(
            f"{run} holds no finished model: {missing}; finish it with medssl finetune --resume", reason="no-model"
        )
    return tuple(folds)


def _read(path: Path) -> tuple[ModelSpec, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = int(content["schema_version"])
        if version > SCHEMA_VERSION:
            raise CheckpointError(
                f"{path} has schema version {version}, this medssl reads up to {SCHEMA_VERSION}: update medssl",
                reason="newer-version",
            )
        return ModelSpec.from_json(content), str(content["weights_sha256"])
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing: {path.parent} holds no finished fine-tuned model", reason="no-model"
        ) from error
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, MedsslError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error!r}): the model is not used", reason="model-damaged"
        ) from error
