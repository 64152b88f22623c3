"""A server of the KServe v2 protocol computes what the local session computes; what is not the bundle's is refused."""

from pathlib import Path

import numpy as np
import pytest
from kserve_server import kserve
from tiny_bundle import write_bundle

from medssl.__main__ import main
from medssl.imaging.errors import BundleError, ConfigError, MedsslError
from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti
from medssl.runtime.bundle import Bundle
from medssl.runtime.predictor import Predictor
from medssl.runtime.session import open_session
from medssl.runtime.triton import TritonSession

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


def test_the_server_predicts_what_this_machine_predicts(bundle: Path, tmp_path: Path):
    main(["triton", str(bundle), "--out", str(tmp_path / "repo")])
    here = Predictor(bundle, threads=1, batch_size=2).predict(_image())
    with kserve(tmp_path / "repo") as url:
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


def test_another_bundle_behind_the_name_is_refused(bundle: Path, tmp_path: Path):
    main(["triton", str(bundle), "--out", str(tmp_path / "repo")])
    config = tmp_path / "repo" / "tiny" / "config.pbtxt"
    config.write_text(config.read_text().replace(Bundle.open(bundle).sha256, "0" * 64))
    with kserve(tmp_path / "repo") as url, pytest.raises(BundleError) as error:
        open_session(Bundle.open(bundle), endpoint=url)
    assert error.value.reason == "other-bundle"


def test_a_network_that_computes_something_else_fails_the_golden_case(bundle: Path, tmp_path: Path):
    main(["triton", str(bundle), "--out", str(tmp_path / "repo")])
    model = tmp_path / "repo" / "tiny" / "1" / "model.onnx"
    model.write_bytes(model.read_bytes().replace(np.float32(-10).tobytes(), np.float32(-11).tobytes()))
    with kserve(tmp_path / "repo") as url, pytest.raises(BundleError) as error:
        open_session(Bundle.open(bundle), endpoint=url)
    assert error.value.reason == "golden"


def test_no_server_and_no_model_are_told(bundle: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with kserve(tmp_path / "empty") as url, pytest.raises(BundleError) as error:
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
