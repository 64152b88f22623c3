"""A server of the KServe v2 protocol computes what the local session computes; what is not the bundle's is refused.

Those tests that take `serve` run against tritonserver, too: `make test-triton`.
"""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kserve_server import kserve
from tiny_bundle import write_bundle
from tritonserver import MISSING, command

from medssl.__main__ import main
from medssl.imaging.errors import BundleError, ConfigError, MedsslError
from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti
from medssl.runtime.bundle import Bundle
from medssl.runtime.confidence import Gate
from medssl.runtime.predictor import Predictor
from medssl.runtime.session import open_session
from medssl.runtime.triton import TritonSession, model_name

pytest.importorskip("tritonclient.http", reason="the extra triton is not installed")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "tiny")


def _image() -> Volume:
    values = np.linspace(0, 30, 10 * 9 * 8, dtype=np.float32).reshape(1, 10, 9, 8)
    return Volume(values, Geometry(np.diag([0.5, 0.5, 2.5, 1.0]), (10, 9, 8)))


def test_the_repository_says_what_the_network_takes_and_gives(bundle: Path, tmp_path: Path):
    assert main(["triton", str(bundle), "--out", str(tmp_path / "repo"), "--max_batch", "4"]) == 0
    text = (tmp_path / "repo" / "tiny" / "config.pbtxt").read_text()
    assert 'name: "image" data_type: TYPE_FP32 dims: [ 1, 8, 8, 8 ]' in text
    assert 'name: "logits" data_type: TYPE_FP32 dims: [ 3, 8, 8, 8 ]' in text
    assert "max_batch_size: 4" in text
    assert Bundle.open(bundle).sha256 in text
    assert (tmp_path / "repo" / "tiny" / "1" / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()
    assert main(["triton", str(bundle), "--out", str(tmp_path / "repo")]) == 2  # nothing is overwritten


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--disable-auto-complete-config"]], ids=["completed", "as it is"])
def test_tritonserver_finds_nothing_wrong_with_the_configuration(options: list[str], bundle: Path, tmp_path: Path):
    """Where it lacks the backend of ONNX Runtime, that is all it has to say; where it has it, the network is loaded."""
    main(["triton", str(bundle), "--out", str(tmp_path / "repo")])
    program = [*command(), *options, f"--model-repository={tmp_path / 'repo'}", "--allow-http=false"]
    lines = []
    with subprocess.Popen(
        [*program, "--allow-metrics=false"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        for line in server.stdout or ():
            lines.append(line)
            if "successfully loaded 'tiny'" in line:
                server.terminate()
    loaded = any("successfully loaded 'tiny'" in line for line in lines)
    failed = re.findall(r"failed to load 'tiny' version 1: Invalid argument: (.*)\"", "".join(lines))
    assert loaded or failed == [MISSING], "".join(lines)


def test_the_server_predicts_what_this_machine_predicts(bundle: Path, tmp_path: Path, serve: Callable):
    main(["triton", str(bundle), "--out", str(tmp_path / "repo")])
    here = Predictor(bundle, threads=1, batch_size=2).predict(_image())
    with serve(tmp_path / "repo") as url:
        there = Predictor(bundle, batch_size=2, endpoint=url).predict(_image())
        write_nifti(_image(), tmp_path / "a.nii.gz")
        assert (
            main(["predict", str(bundle), str(tmp_path / "a.nii.gz"), "--out", str(tmp_path / "o"), "--endpoint", url])
            == 0
        )
    assert here.mask
    assert there.mask
    np.testing.assert_array_equal(here.mask.array, there.mask.array)
    assert there.report["providers"] == [f"Triton at {url}"]
    assert len(np.unique(here.mask.array)) == 3


@pytest.mark.parametrize("max_batch", [1, 3])
def test_more_windows_than_the_server_takes_at_once(max_batch: int, bundle: Path, tmp_path: Path, serve: Callable):
    """The golden case alone has two."""
    main(["triton", str(bundle), "--out", str(tmp_path / "repo"), "--max_batch", str(max_batch)])
    here = Predictor(bundle, threads=1, batch_size=5).predict(_image())
    with serve(tmp_path / "repo") as url:
        there = Predictor(bundle, batch_size=5, endpoint=url).predict(_image())
    assert here.mask
    assert there.mask
    np.testing.assert_array_equal(here.mask.array, there.mask.array)


def test_features_come_from_the_server(tmp_path: Path, serve: Callable):
    rng = np.random.default_rng(0)
    gate = Gate(np.zeros(1, np.float32), np.ones(1, np.float32), rng.normal(size=(9, 1)).astype(np.float32), 3, 5.0)
    bundle = write_bundle(tmp_path / "gated", gate=gate)
    main(["triton", str(bundle), "--out", str(tmp_path / "repo"), "--max_batch", "3"])
    here = Predictor(bundle, threads=1).predict(_image()).report
    with serve(tmp_path / "repo") as url:
        there = Predictor(bundle, batch_size=4, endpoint=url).predict(_image()).report
    assert there["gate"] == pytest.approx(here["gate"])
    assert [flag["code"] for flag in there["flags"]] == [flag["code"] for flag in here["flags"]]
    assert there["flags"]


@pytest.mark.parametrize("name", ["Größe 2 (mm)", "肝", "ct.liver-v1.2", "a+b%20c"])
def test_any_name_of_a_bundle_can_be_served(name: str, tmp_path: Path, serve: Callable):
    bundle = write_bundle(tmp_path / "named", name=name)
    main(["triton", str(bundle), "--out", str(tmp_path / "repo")])
    with serve(tmp_path / "repo") as url:
        assert Predictor(bundle, endpoint=url).predict(_image()).report["model"] == name


def test_names_that_are_alike_in_ascii_are_not_alike_on_the_server():
    assert [model_name(name) for name in ("tiny", "ct.liver-v1.2", "a/b")] == ["tiny", "ct.liver-v1.2", "a_b"]
    assert all(name.isascii() for name in (model_name("肝"), model_name("肺")))
    assert model_name("肝") != model_name("肺")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the client forgets a dead socket
def test_another_network_after_a_restart_predicts_nothing(bundle: Path, tmp_path: Path, serve: Callable):
    """The server was right when the session began; a mask would go out with the hash of a bundle it is not from."""
    main(["triton", str(bundle), "--out", str(tmp_path / "repo")])
    with serve(tmp_path / "repo") as url:
        predictor = Predictor(bundle, endpoint=url)
        first = predictor.predict(_image())
    port = int(url.rpartition(":")[2])
    with pytest.raises(BundleError) as error:
        predictor.predict(_image())
    assert error.value.reason == "endpoint"
    with serve(tmp_path / "repo", port):  # the same again
        again = predictor.predict(_image())
    assert first.mask
    assert again.mask
    np.testing.assert_array_equal(first.mask.array, again.mask.array)
    config = tmp_path / "repo" / "tiny" / "config.pbtxt"
    config.write_text(config.read_text().replace(Bundle.open(bundle).sha256, "0" * 64))
    with serve(tmp_path / "repo", port), pytest.raises(BundleError) as error:
        predictor.predict(_image())
    assert error.value.reason == "other-bundle"


def test_another_version_of_the_network_is_not_taken(bundle: Path, tmp_path: Path, serve: Callable):
    """Triton serves the latest version of a model; the bundle's is 1."""
    main(["triton", str(bundle), "--out", str(tmp_path / "repo")])
    shutil.copytree(tmp_path / "repo" / "tiny" / "1", tmp_path / "repo" / "tiny" / "2")
    with serve(tmp_path / "repo") as url, pytest.raises(BundleError) as error:
        TritonSession(url, Bundle.open(bundle))
    assert error.value.reason == "endpoint"


def test_another_bundle_behind_the_name_is_refused(bundle: Path, tmp_path: Path, serve: Callable):
    main(["triton", str(bundle), "--out", str(tmp_path / "repo")])
    config = tmp_path / "repo" / "tiny" / "config.pbtxt"
    config.write_text(config.read_text().replace(Bundle.open(bundle).sha256, "0" * 64))
    with serve(tmp_path / "repo") as url, pytest.raises(BundleError) as error:
        open_session(Bundle.open(bundle), endpoint=url)
    assert error.value.reason == "other-bundle"


def test_a_network_that_computes_something_else_fails_the_golden_case(bundle: Path, tmp_path: Path, serve: Callable):
    main(["triton", str(bundle), "--out", str(tmp_path / "repo")])
    model = tmp_path / "repo" / "tiny" / "1" / "model.onnx"
    model.write_bytes(model.read_bytes().replace(np.float32(-10).tobytes(), np.float32(-11).tobytes()))
    with serve(tmp_path / "repo") as url, pytest.raises(BundleError) as error:
        open_session(Bundle.open(bundle), endpoint=url)
    assert error.value.reason == "golden"


def test_a_server_that_fails_in_the_golden_case_says_nothing_of_the_network(bundle: Path, tmp_path: Path):
    main(["triton", str(bundle), "--out", str(tmp_path / "repo")])
    (tmp_path / "repo" / "tiny" / "1" / "model.onnx").unlink()
    with kserve(tmp_path / "repo") as url, pytest.raises(BundleError) as error:
        open_session(Bundle.open(bundle), endpoint=url)
    assert error.value.reason == "endpoint"


def test_an_answer_that_cannot_be_read_is_the_servers_fault(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Triton's backend for Python under numpy 2 gives the shape of its outputs, and no bytes."""
    main(["triton", str(bundle), "--out", str(tmp_path / "repo")])

    def unreadable(result: object, name: str) -> None:
        raise ValueError(f"cannot reshape {name}")

    monkeypatch.setattr("tritonclient.http.InferResult.as_numpy", unreadable)
    with kserve(tmp_path / "repo") as url, pytest.raises(BundleError, match="cannot reshape logits") as error:
        TritonSession(url, Bundle.open(bundle))(np.zeros((1, 1, 8, 8, 8), np.float32))
    assert error.value.reason == "endpoint"


def test_no_server_and_no_model_are_told(bundle: Path, tmp_path: Path, serve: Callable):
    (tmp_path / "empty").mkdir()
    with serve(tmp_path / "empty") as url, pytest.raises(BundleError) as error:
        TritonSession(url, Bundle.open(bundle))
    assert error.value.reason == "endpoint"
    with pytest.raises(BundleError) as error:  # the port is closed again
        TritonSession(url, Bundle.open(bundle))
    assert error.value.reason == "endpoint"


@pytest.mark.parametrize("url", ["http://triton.hospital:8000", "ftp://127.0.0.1", "127.0.0.1:8000"])
def test_images_do_not_cross_the_network_in_the_clear(url: str, bundle: Path):
    with pytest.raises(MedsslError) as error:
        TritonSession(url, Bundle.open(bundle))
    assert isinstance(error.value, ConfigError)


@pytest.mark.parametrize(
    "more", ["http://me:secret@127.0.0.1:8000", "https://t@triton:8000", "https://triton?key=secret"]
)
def test_a_secret_in_the_url_is_refused_since_reports_name_the_url(more: str, bundle: Path):
    with pytest.raises(ConfigError, match="leave them out of the URL") as error:
        TritonSession(more, Bundle.open(bundle))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://127.0.0.1:x", "http://[::1", "https://"])
def test_what_is_no_url_is_told(url: str, bundle: Path):
    with pytest.raises(ConfigError, match="https://HOST:PORT is expected"):
        TritonSession(url, Bundle.open(bundle))
