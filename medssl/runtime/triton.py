"""A Triton server, or any of KServe's v2 protocol over HTTP, in place of the local session; its model repository.

The server computes; everything else, the bundle's checks and the golden case among them, stays here: what the endpoint
serves must carry the bundle's hash, also when an image is finished, and must give the golden case's outputs.
"""

import hashlib
import ipaddress
import ssl
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import BundleError, ConfigError, MedsslError, how_to_install
from medssl.imaging.files import atomic_folder, write_text
from medssl.imaging.naming import safe
from medssl.runtime.bundle import Bundle

_TIMEOUT_S = 300.0
_VERSION = "1"
"""Its repository holds this version alone; one that appears beside it while the server runs is another network."""


def model_name(name: str) -> str:
    """Name of a bundle on a server: a folder name in ASCII, since Triton does not decode what a URL had to encode."""
    whole = safe(name)
    plain = "".join(c if c.isascii() else "_" for c in whole)
    return plain if plain == whole else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def write_repository(bundle: Bundle, out: Path, *, max_batch: int = 8, instances: int = 1) -> Path:
    """Write a model repository with the bundle's network: `OUT/MODEL/config.pbtxt` and `OUT/MODEL/1/model.onnx`.

    Args:
        bundle: A bundle that was checked.
        out: Folder of the repository; other models in it stay.
        max_batch: Windows that the server may compute at once.
        instances: Copies of the network.

    Returns:
        Folder of the model.

    Raises:
        FileExistsError: The model is there already.
    """
    name = model_name(bundle.spec.name)
    with atomic_folder(out / name) as folder:
        (folder / _VERSION).mkdir()
        (folder / _VERSION / "model.onnx").write_bytes((bundle.folder / "model.onnx").read_bytes())
        write_text(folder / "config.pbtxt", _config(bundle, name, max_batch, instances))
    return out / name


def _config(bundle: Bundle, name: str, max_batch: int, instances: int) -> str:
    image, *outputs = (array for array in bundle.golden() if array is not None)
    tensors = [("input", "image", image), *zip(("output", "output"), ("logits", "features"), outputs, strict=False)]
    groups: dict[str, list[str]] = {"input": [], "output": []}
    for kind, tensor, array in tensors:
        dims = ", ".join(str(n) for n in array.shape[1:])
        groups[kind].append(f'  {{ name: "{tensor}" data_type: TYPE_FP32 dims: [ {dims} ] }}')
    return "\n".join(
        [
            f"# {name}, made from a medssl bundle; the hash below ties it to the bundle. Not a medical device.",
            f'name: "{name}"',
            'backend: "onnxruntime"',
            f"max_batch_size: {max_batch}",
            "input [\n" + ",\n".join(groups["input"]) + "\n]",
            "output [\n" + ",\n".join(groups["output"]) + "\n]",
            f"instance_group [ {{ count: {instances} }} ]",
            "dynamic_batching { }",
            'parameters { key: "enable_mem_arena" value: { string_value: "0" } }',
            f'parameters {{ key: "bundle_sha256" value: {{ string_value: "{bundle.sha256}" }} }}',
            "",
        ]
    )


class TritonSession:
    """A network on a server: maps (B, C, *window) float32 to logits as `Session` does.

    Args:
        endpoint: URL of the server, `https://HOST:PORT`; plain http reaches this machine alone.
        bundle: The bundle whose network it must serve.

    Raises:
        ConfigError: The URL is unusable, or the client is not installed.
        BundleError: The server does not answer, or serves another network.
    """

    threads = 0

    def __init__(self, endpoint: str, bundle: Bundle) -> None:
        try:
            import tritonclient.http as triton  # noqa: PLC0415 (an extra)
        except ModuleNotFoundError as error:
            raise ConfigError(
                [f"endpoint {endpoint}: the client is not installed: {how_to_install('triton')}"]
            ) from error
        self._triton: Any = triton
        self._endpoint, self._model, self._sha256 = endpoint, model_name(bundle.spec.name), bundle.sha256
        self.providers: tuple[str, ...] = (f"Triton at {endpoint}",)
        host, secure = _address(endpoint)
        self._client = triton.InferenceServerClient(
            url=host,
            ssl=secure,
            ssl_context_factory=ssl.create_default_context if secure else None,
            network_timeout=_TIMEOUT_S,
        )
        config = self._served()
        self._max_batch = max(int(config.get("max_batch_size", 1)), 1)
        self.has_features = any(output["name"] == "features" for output in config.get("output", ()))

    def _served(self) -> Any:
        """Configuration of the served network, whose hash must be the bundle's."""
        config = self._asked(lambda: self._client.get_model_config(self._model, _VERSION))
        served = config.get("parameters", {}).get("bundle_sha256", {}).get("string_value", "")
        if served != self._sha256:
            raise BundleError(
                f"{self._endpoint} serves a network called {self._model} of another bundle (hash {served[:12] or '-'}, "
                f"not {self._sha256[:12]}): make its repository again with medssl triton",
                reason="other-bundle",
            )
        return config

    def confirm(self) -> None:
        """Ask whether the server still serves the bundle's network: it may have been started again with another.

        Raises:
            BundleError: It does not, or does not answer.
        """
        self._served()

    def __call__(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits of a batch of windows."""
        return self._run(["logits"], image)[0]

    def with_features(self, image: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Logits and features (B, F) of a batch of windows, for a network that has both."""
        logits, features = self._run(["logits", "features"], image)
        return logits, features

    def _run(self, names: list[str], image: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        parts = [self._batch(names, image[i : i + self._max_batch]) for i in range(0, len(image), self._max_batch)]
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    def _batch(self, names: list[str], image: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        given = self._triton.InferInput("image", list(image.shape), "FP32")
        given.set_data_from_numpy(np.ascontiguousarray(image, dtype=np.float32))
        wanted = [self._triton.InferRequestedOutput(name, binary_data=True) for name in names]
        arrays = self._asked(lambda: self._answer(given, wanted, names))
        if any(array is None or len(array) != len(image) for array in arrays):
            raise BundleError(f"{self._endpoint} answered with other outputs than {names}", reason="endpoint")
        return [np.asarray(array, dtype=np.float32) for array in arrays]

    def _answer(self, given: Any, wanted: list[Any], names: list[str]) -> list[Any]:
        result = self._client.infer(self._model, [given], _VERSION, wanted)
        return [result.as_numpy(name) for name in names]

    def _asked(self, question: Any) -> Any:
        try:
            return question()
        except MedsslError:
            raise
        except Exception as error:  # the client, its sockets and its parser raise kinds of their own
            text = " ".join(str(error).split())[:300]
            raise BundleError(
                f"{self._endpoint} cannot compute {self._model} ({text}): is it running, and is the model loaded?",
                reason="endpoint",
            ) from error


def _address(endpoint: str) -> tuple[str, bool]:
    """Host and port for the client, and whether the connection is encrypted.

    Raises:
        ConfigError: No such URL, or patients' pixels would cross a network in the clear.
    """
    try:
        parts = urllib.parse.urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port beyond 65535, half of a bracket
        usable = False
    if not usable:
        raise ConfigError([f"endpoint {endpoint!r}: https://HOST:PORT is expected"])
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            [
                "endpoint: a name, a password and what follows ? or # are not sent, but each report would show them: "
                "leave them out of the URL"
            ]
        )
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise ConfigError([f"endpoint {endpoint!r}: patients' images would cross the network in the clear; use https"])
    return parts.netloc + parts.path.rstrip("/"), parts.scheme == "https"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
