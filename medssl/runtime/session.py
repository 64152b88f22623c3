"""ONNX Runtime, set up for a clinic: explicit threads, no memory arena, only graphs that are self-contained."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import BundleError
from medssl.runtime.bundle import Bundle
from medssl.runtime.bundle_guard import MAX_MODEL_BYTES, check_graph, refuse_size
from medssl.runtime.device import Device, providers_for
from medssl.runtime.ort import onnxruntime
from medssl.runtime.triton import TritonSession


def usable_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Session:
    """A loaded network: `session(image)` maps (B, C, *window) float32 to logits.

    Args:
        model: ONNX file without external data.
        threads: Threads to compute with; 0 takes every processor this process may use.
        device: What computes.

    Raises:
        BundleError: The file is no usable graph, or the device cannot be used.
        ConfigError: This build of ONNX Runtime does not offer the device.
    """

    def __init__(self, model: Path, threads: int = 0, device: Device = "auto") -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_threads()
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # an arena keeps the peak for ever; a clinic's machine has other work
        options.log_severity_level = 3
        refuse_size(model, MAX_MODEL_BYTES)
        content = model.read_bytes()
        check_graph(content)
        providers = providers_for(device, onnxruntime.get_available_providers())
        try:
            # From bytes: a graph that points to files beside it cannot load them.
            self._session = onnxruntime.InferenceSession(content, sess_options=options, providers=providers)
        except Exception as error:  # onnxruntime raises kinds of its own that share no base class
            text = " ".join(str(error).split())[:300]
            raise BundleError(f"{model.name} cannot be loaded ({text})", reason="bad-model") from error
        inputs, outputs = self._session.get_inputs(), [o.name for o in self._session.get_outputs()]
        if [i.name for i in inputs] != ["image"] or outputs not in (["logits"], ["logits", "features"]):
            raise BundleError(f"{model.name} must map `image` to `logits` and `features`", reason="bad-model")
        self.has_features = len(outputs) == 2
        self.threads = options.intra_op_num_threads
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        if device != "auto" and self.providers[0] != providers[0]:
            raise BundleError(
                f"device {device} cannot be used on this machine: ONNX Runtime fell back to {self.providers[0]}; "
                "look at its driver, or use --device cpu",
                reason="no-device",
            )

    def __call__(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of a batch of windows."""
        return self._run(["logits"], image)[0]

    def with_features(self, image: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Logits and features (B, F) of a batch of windows, for a graph that has both."""
        logits, features = self._run(["logits", "features"], image)
        return logits, features

    def confirm(self) -> None:
        """Nothing to ask: what was loaded into this process stays as it is."""

    def _run(self, names: list[str], image: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        outputs = self._session.run(names, {"image": image})
        return [np.asarray(output, dtype=np.float32) for output in outputs]


def open_session(
    bundle: Bundle, threads: int = 0, device: Device = "auto", endpoint: str = ""
) -> tuple[Session | TritonSession, float]:
    """Load a bundle's network, here or on a server, and replay its golden case.

    Returns:
        The session and the largest difference of logits.

    Raises:
        BundleError: The network does not give on this machine what it gave when the bundle was made.
    """
    if endpoint:
        session: Session | TritonSession = TritonSession(endpoint, bundle)
    else:
        session = Session(bundle.folder / "model.onnx", threads, device)
    if bundle.has_gate and not session.has_features:
        raise BundleError("the bundle has a gate, but its graph gives no `features`", reason="bad-model")
    image, logits, features = bundle.golden()
    try:
        got, own = session.with_features(image) if features is not None else (session(image), None)
    except BundleError:  # a server does not answer: that says nothing of the network
        raise
    except Exception as error:  # as above
        raise BundleError(
            f"the golden case cannot be computed ({' '.join(str(error).split())[:300]})", reason="golden"
        ) from error
    allowed = bundle.spec.golden_tolerance
    difference = _difference(got, logits)
    relative = 0.0
    if features is not None and own is not None:
        relative = _difference(own, features) / max(float(np.abs(features).max()), 1.0)
    if not (difference <= allowed and relative <= allowed):
        raise BundleError(
            f"golden case: this machine differs by {max(difference, relative):.3g} from what was recorded "
            f"(allowed {allowed:g}); nothing was predicted",
            reason="golden",
        )
    return session, difference


def _difference(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> float:
    return float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")
