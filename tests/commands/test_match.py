"""A point of a scan is found in the same body stored otherwise, at the right place of the patient."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK
from scipy import ndimage
from small_cache import small_cache

from medssl.__main__ import main
from medssl.commands.pretrain import pretrain
from medssl.data.augment_options import NO_AUGMENTATION, ViewAugment
from medssl.models.component import Component
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import ViewOptions

_CNN = Component("medssl.models.unet.ResidualUNetEncoder", {"features": [4, 8, 8], "blocks": [0, 1, 1]})
_SAM = Component("medssl.methods.sam.SAM", {"width": 8, "fine": [50, 10, 50, 20], "coarse": [20, 4, 10, 5]})
_POINT = (14, 9, 11)


def _run(folder: Path, dims: int, method: Component = _SAM) -> Path:
    cache = small_cache(folder / "cache", [(20, 18, 16)[:dims]] * 2)
    views = ViewOptions((16,) * dims, augment=ViewAugment(**NO_AUGMENTATION))
    pretrain(cache.path, folder / "run", method, _CNN, views, TrainOptions(steps=1, batch_size=2, accelerator="cpu"))
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _run(tmp_path_factory.mktemp("sam"), 3)


@pytest.fixture(scope="module")
def body() -> tuple[np.ndarray, np.ndarray]:
    """A body of blobs, and an oblique affine with a diagonal of unequal signs."""
    noise = np.random.default_rng(0).normal(size=(28, 24, 20))
    turn = SimpleITK.VersorTransform((0.1, 0.2, 0.3), 0.2).GetMatrix()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(turn, (3, 3)) @ np.diag([-1.0, 1.0, 1.0])
    affine[:3, 3] = (40.0, -30.0, 7.0)
    return ndimage.gaussian_filter(noise, 1.5).astype(np.float32) * 100, affine


def _write(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def _match(capsys: pytest.CaptureFixture[str], out: Path, *arguments: object) -> tuple[int, dict, str]:
    code = main(["match", *map(str, arguments), f"--out={out}"])
    found = json.loads((out / "matches.json").read_text())["matches"][0] if code == 0 else {}
    return code, found, capsys.readouterr().err


def test_another_order_of_the_axes_is_the_same_place(run, body, tmp_path, capsys) -> None:
    array, affine = body
    template = _write(tmp_path / "a.nii.gz", array, affine)
    turned = affine @ np.array([[0, 0, -1, 27], [1, 0, 0, 0], [0, -1, 0, 19], [0, 0, 0, 1.0]])
    other = _write(tmp_path / "b.nii.gz", array.transpose(1, 2, 0)[:, ::-1, ::-1], turned)
    world = affine[:3, :3] @ _POINT + affine[:3, 3]
    code, found, told = _match(capsys, tmp_path / "out", run, template, other, "--point", list(_POINT))
    assert code == 0, told
    assert np.abs(np.subtract(found["ras_mm"], world)).max() < 1.5
    expected = np.linalg.inv(turned) @ [*found["ras_mm"], 1]
    np.testing.assert_allclose(found["voxel"], expected[:3], atol=0.01)
    image = SimpleITK.ReadImage(str(other))
    np.testing.assert_allclose(
        image.TransformPhysicalPointToContinuousIndex(found["lps_mm"]), found["voxel"], atol=0.01
    )
    assert found["similarity"] > 0.9
    assert found["back_mm"] < 1.5
    assert found["weak"] == ""
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["matches.json", "query_0.png", "template.png"]


def test_the_match_moves_with_the_patient(run, body, tmp_path, capsys) -> None:
    array, affine = body
    template = _write(tmp_path / "a.nii.gz", array, affine)
    moved = affine.copy()
    moved[:3, 3] += (5.0, -80.0, 300.0)
    other = _write(tmp_path / "b.nii.gz", array, moved)
    world = affine[:3, :3] @ _POINT + affine[:3, 3]
    for space, point in (("ras", world), ("lps", world * [-1, -1, 1])):
        given = ("--space", space, "--point", [round(float(n), 4) for n in point])
        code, found, told = _match(capsys, tmp_path / space, run, template, other, *given)
        assert code == 0, told
        assert np.abs(np.subtract(found["ras_mm"], world) - (5.0, -80.0, 300.0)).max() < 1.5


def test_weak_matches_are_called_so(run, body, tmp_path, capsys) -> None:
    array, affine = body
    template = _write(tmp_path / "a.nii.gz", array, affine)
    other = _write(tmp_path / "b.nii.gz", np.random.default_rng(1).normal(size=(16, 16, 16)).astype(np.float32), affine)
    code = main(["match", str(run), str(template), str(other), "--point", str(list(_POINT))])
    assert code == 0
    assert "WEAK" in capsys.readouterr().out


def test_pictures_have_a_plane(tmp_path, capsys) -> None:
    run = _run(tmp_path, 2)
    image = ndimage.gaussian_filter(np.random.default_rng(0).uniform(0, 255, size=(26, 30)), 1.5)
    template = tmp_path / "a.png"
    PIL.Image.fromarray(image.astype(np.uint8)).save(template)
    code, found, told = _match(capsys, tmp_path / "out", run, template, template, "--point", [12, 20])
    assert code == 0, told
    assert np.abs(np.subtract(found["voxel"], (12, 20))).max() < 1.5


def test_what_cannot_be_matched_is_told_in_a_sentence(run, body, tmp_path, capsys) -> None:
    array, affine = body
    template = _write(tmp_path / "a.nii.gz", array, affine)
    point = ("--point", list(_POINT))
    two = f"{template};{template}"
    flat = tmp_path / "flat.png"
    PIL.Image.fromarray(array[:, :, 0].astype(np.uint8)).save(flat)
    encoder = {"patch_size": 4, "width": 12, "depth": 1, "heads": 2}
    cache = small_cache(tmp_path / "cache", [(20, 24)] * 2)
    pretrain(
        cache.path, tmp_path / "mae", Component("medssl.methods.mae.MAE", {"decoder": [12, 1, 2]}),
        Component("medssl.models.vit.ViT", encoder), ViewOptions((16, 16)),
        TrainOptions(steps=1, batch_size=2, accelerator="cpu"),
    )  # fmt: skip
    capsys.readouterr()
    for arguments, words in (
        ((run, template, template, "--point", [28, 1, 1]), "lies outside the scan"),
        ((run, template, template, "--point", "[.nan, 1, 1]"), "lies outside the scan"),
        ((run, template, two, *point), f"{two}: 2 channel(s)"),
        ((run, template, template, "--point", [1, 1]), "point needs 3 numbers in space voxel"),
        ((run, template, tmp_path / "missing.nii.gz", *point), "does not exist"),
        ((run, template, flat, *point), "2D"),
        ((tmp_path / "mae", template, template, *point), "points are matched by embeddings of a run of SAM"),
        ((tmp_path / "nowhere", template, template, *point), "does not exist"),
        ((run, template, *point), "queries is missing"),
    ):
        code, _, told = _match(capsys, tmp_path / "out", *arguments)
        assert code != 0, words
        assert words in told
        assert "Traceback" not in told
        assert not (tmp_path / "out").exists()
