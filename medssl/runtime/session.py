"""ONNX Runtime, set up for a clinic: explicit threads, no memory arena, only graphs that are self-contained."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from medssl.imaging.errors import BundleError
from medssl.runtime.bundle import GOLDEN_TOLERANCE, Bundle
from medssl.runtime.bundle_guard import MAX_MODEL_BYTES, check_graph, refuse_size
from medssl.runtime.triton import TritonSession


def usable_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Session:
    """A loaded network: `session(image)` maps (B, C, *window) float32 to logits.

    Args:
        model: ONNX file without external data.
        threads: Threads to compute with; 0 takes every processor this process may use.

    Raises:
        BundleError: The file is no usable graph.
    """

    def __init__(self, model: Path, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_threads()
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # an arena keeps the peak for ever; a clinic's machine has other work
        options.log_severity_level = 3
        refuse_size(model, MAX_MODEL_BYTES)
        content = model.read_bytes()
        check_graph(content)
        try:
            # From bytes: a graph that points to files beside it cannot load them.
            self._session = onnxruntime.InferenceSession(
                content, sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises kinds of its own that share no base class
            text = " ".join(str(error).split())[:300]
            raise BundleError(f"{model.name} cannot be loaded ({text})", reason="bad-model") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if [i.name for i in inputs] != ["image"] or [o.name for o in outputs] != ["logits"]:
            raise BundleError(f"{model.name} must map `image` to `logits`", reason="bad-model")
        self.threads = options.intra_op_num_threads
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())

    def __call__(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of a batch of windows."""
        return np.asarray(self._session.run(["logits"], {"image": image})[0], dtype=np.float32)


def open_session(bundle: Bundle, threads: int = 0, endpoint: str = "") -> tuple[Session | TritonSession, float]:
    """Load a bundle's network, here or on a server, and replay its golden case.

    Returns:
        The session and the largest difference of logits.

    Raises:
        BundleError: The network does not give on this machine what it gave when the bundle was made.
    """
    session = TritonSession(endpoint, bundle) if endpoint else Session(bundle.folder / "model.onnx", threads)
    image, logits = bundle.golden()
    try:
        got = session(image)
    except Exception as error:  # as above
        raise BundleError(
            f"the golden case cannot be computed ({' '.join(str(error).split())[:300]})", reason="golden"
        ) from error
    difference = float(np.abs(got - logits).max()) if got.shape == logits.shape else float("inf")
    if not difference <= GOLDEN_TOLERANCE:
        raise BundleError(
            f"golden case: this machine differs by {difference:.3g} from what was recorded "
            f"(allowed {GOLDEN_TOLERANCE}); nothing was predicted",
            reason="golden",
        )
    return session, difference
