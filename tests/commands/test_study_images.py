"""Sets of images beside a study's own: nothing of a held-out patient, and resumed wherever it stopped."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from dicom_phantom import write_series

from medssl.commands import study_images
from medssl.commands.prepare import prepare
from medssl.commands.study_images import prepare_images
from medssl.data.cache import Cache
from medssl.evaluation.study_plan import ImageSet
from medssl.imaging.errors import ImageError, MedsslError
from medssl.imaging.geometry import Geometry
from medssl.imaging.manifest import Manifest, Row
from medssl.imaging.preprocess import Preprocess
from medssl.imaging.readers.open import read_volume
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti
from medssl.models.component import Overrides

_OPTIONS = {"workers": 1, "labels": [{"name": "a", "value": 1}], "split": "70/15/15"}


def _voxels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, (5, 10, 12)).astype(np.int16)


def _nifti(path: Path, seed: int) -> Path:
    array = _voxels(seed)
    write_nifti(Volume(array[None], Geometry(np.eye(4), array.shape)), path)
    return path


def _study(root: Path) -> Path:
    """A cache: a series and an image of patients that are learned from, a series and an image of some that are not."""
    write_series(root / "a", _voxels(0), series="1.2.1", PatientID="A")
    write_series(root / "b", _voxels(1), series="1.2.2", PatientID="B")
    _nifti(root / "c.nii.gz", 2)
    _nifti(root / "d.nii.gz", 3)
    splits = {"a": "train", "b": "test", "c.nii.gz": "val", "d.nii.gz": "train"}
    rows = [Row(name.split(".")[0], f"person {name[0]}", name, split=split) for name, split in splits.items()]
    Manifest.from_rows(rows, root=root).write(root / "manifest.csv")
    prepare(root / "manifest.csv", root / "cache", workers=1)
    return root / "cache"


def _cases(cache: Path) -> dict[str, str]:
    """Case to the file that it was read from."""
    return {case.case: Path(case.image_field).name for case in Cache.open(cache).cases}


def test_nothing_of_a_held_out_patient_is_pretrained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    own, more = _study(tmp_path / "study"), tmp_path / "more"
    write_series(more / "copied", _voxels(1), series="1.2.2", PatientID="anonymous")  # another name, the same voxels
    write_series(more / "another", _voxels(4), series="1.2.5", PatientID="B")  # another series of that patient
    converted = read_volume(tmp_path / "study" / "b")
    write_nifti(Volume(converted.array, converted.geometry), more / "converted.nii.gz")
    (more / "unpacked.nii").write_bytes(gzip.decompress((tmp_path / "study" / "c.nii.gz").read_bytes()))
    _nifti(more / "person c.nii.gz", 8)  # told by its name to be of a patient of split val
    write_series(more / "learned", _voxels(0), series="1.2.9", PatientID="A again")
    _nifti(more / "d.nii.gz", 5)  # a case of the study is called d as well
    _nifti(more / "new.nii.gz", 6)
    (more / "patients.csv").write_text("id,patient\nperson c,person c\n")
    cache = prepare_images(ImageSet("more images", "more"), _OPTIONS, own, tmp_path, tmp_path / "out")
    new = {"more_images_d": "d.nii.gz", "more_images_new": "new.nii.gz"}
    assert _cases(cache) == {**new, "a": "a", "d": "d.nii.gz"}
    told = capsys.readouterr().out
    assert "more images: 5 image(s) of patients that are held out are left out" in told
    assert "more images: 1 image(s) are training images of the study: taken once" in told

    alone = ImageSet("alone", "more", own=False)
    found = _cases(prepare_images(alone, _OPTIONS, own, tmp_path, tmp_path / "out"))
    assert sorted(found.values()) == ["d.nii.gz", "learned", "new.nii.gz"]


def test_slices_of_a_volume_are_held_out_with_it(tmp_path: Path):
    _nifti(tmp_path / "study" / "v.nii.gz", 1)
    _nifti(tmp_path / "study" / "w.nii.gz", 2)
    rows = [
        Row(f"{name}{k}", name, f"{name}.nii.gz#slice=0:{k}", split=split)
        for name, split in (("v", "test"), ("w", "train"))
        for k in range(2)
    ]
    Manifest.from_rows(rows, root=tmp_path / "study").write(tmp_path / "study" / "manifest.csv")
    options = {"workers": 1, "preprocess": {"spatial_dims": 2}}
    own = tmp_path / "study" / "cache"
    prepare(tmp_path / "study" / "manifest.csv", own, Preprocess(spatial_dims=2), workers=1)
    (tmp_path / "more").mkdir()
    for name in ("v", "w"):
        packed = (tmp_path / "study" / f"{name}.nii.gz").read_bytes()
        (tmp_path / "more" / f"copy of {name}.nii").write_bytes(gzip.decompress(packed))
    images = ImageSet("slices", "more", Overrides({"slices": 0}), own=False)
    cases = Cache.open(prepare_images(images, options, own, tmp_path, tmp_path / "out")).cases
    assert {case.image_field.partition("#")[0].rpartition("/")[2] for case in cases} == {"copy of w.nii"}
    assert len(cases) == 5


def test_a_set_goes_on_wherever_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = _study(tmp_path / "study")
    _nifti(tmp_path / "more" / "new.nii.gz", 6)
    run = study_images.run_verb
    stopped = ["index", "curate"]

    def killed(verb: str, argv: Sequence[str]) -> None:
        run(verb, argv)
        if verb in stopped:
            stopped.remove(verb)
            raise KeyboardInterrupt

    monkeypatch.setattr(study_images, "run_verb", killed)
    images = ImageSet("more", "more", own=False)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            prepare_images(images, _OPTIONS, own, tmp_path, tmp_path / "out")
    assert _cases(prepare_images(images, _OPTIONS, own, tmp_path, tmp_path / "out")) == {"more_new": "new.nii.gz"}


def test_a_set_that_cannot_be_told_from_the_study_is_refused(tmp_path: Path):
    own = _study(tmp_path / "study")
    (tmp_path / "more").mkdir()
    for name in "cd":
        packed = (tmp_path / "study" / f"{name}.nii.gz").read_bytes()
        (tmp_path / "more" / f"{name}.nii").write_bytes(gzip.decompress(packed))
    with pytest.raises(MedsslError, match="all 2 images are of the study itself"):
        prepare_images(ImageSet("more", "more"), _OPTIONS, own, tmp_path, tmp_path / "out")
    (tmp_path / "study" / "c.nii.gz").write_bytes(b"")
    with pytest.raises(ImageError, match=r"c\.nii\.gz"):
        prepare_images(ImageSet("again", "more"), _OPTIONS, own, tmp_path, tmp_path / "out")
