"""A study that goes on is of the data that it was begun with, or is refused."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from cohort import ENCODER
from PIL import Image

from medssl.__main__ import main
from medssl.commands.parsing import read_options
from medssl.commands.study_data import refuse_other_data
from medssl.commands.study_images import images_cache, prepare_images
from medssl.commands.study_runs import prepare_study
from medssl.commands.study_tuned import cache_of, prepare_options
from medssl.evaluation.study_plan import StudyPlan
from medssl.imaging.errors import ConfigError, MedsslError

_PREPARE = """import csv
from medssl.imaging.manifest import Manifest, Row


def make_manifest(data, out):
    with (data / "table.csv").open(newline="") as stream:
        rows = [Row(r["image"], r["patient"], str(data / r["image"]) + ".png", class_name=r["class"])
                for r in csv.DictReader(stream)]
    Manifest.from_rows(rows, out.parent).write(out)
"""
_CLASSES = {f"i{n}": "ill" if n % 2 else "well" for n in range(12)}


def _picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (12, 12), np.uint8)).save(path)


def _table(data: Path, classes: dict[str, str], **patients: str) -> None:
    with (data / "table.csv").open("w", newline="") as stream:
        rows = [(name, patients.get(name, f"p_{name}"), of_class) for name, of_class in classes.items()]
        csv.writer(stream).writerows([("image", "patient", "class"), *rows])


def _begin(root: Path) -> None:
    """A study that was stopped when its images had been prepared."""
    data, out, app = root / "data", root / "out", root / "app"
    for number, name in enumerate(_CLASSES):
        _picture(data / f"{name}.png", number)
    _picture(data / "more" / "other.png", 99)
    _table(data, _CLASSES)
    (data / "i3.png").write_bytes(b"")  # left out, now and then
    app.mkdir()
    (app / "prepare.py").write_text(_PREPARE)
    prepare = {"workers": 1, "preprocess": {"spatial_dims": 2}}
    (app / "app.yaml").write_text(yaml.safe_dump({"name": "tiny", "prepare": prepare}))
    plan = {"app": str(app), "metric": "auroc", "labels": [99], "reference": "scratch"}
    plan |= {"arms": [{"name": "scratch"}, {"name": "again"}]}
    network = {"encoder": ENCODER, "decoder": {"class_path": "medssl.models.decoders.ClassificationHead"}}
    finetune = {"task": "classification", "loss": "ce", "network": network, "crops": {"size": [8, 8], "foreground": 0}}
    plan |= {"image_sets": [{"name": "more", "images": "more"}], "finetune": finetune}
    (root / "plan.yaml").write_text(yaml.safe_dump(plan))
    study = _study(root)
    prepare_study(study, data, out)
    prepare_images(study.image_sets[0], prepare_options(study), cache_of(study, out), data, out)


def _study(root: Path) -> StudyPlan:
    return read_options(StudyPlan, root / "plan.yaml")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of such a study; tests that change its data put them back."""
    root = tmp_path_factory.mktemp("study")
    _begin(root)
    return root


def _curve(root: Path) -> int:
    return main(["curve", str(root / "plan.yaml"), "--data", str(root / "data"), "--out", str(root / "out")])


def _refused(root: Path) -> str:
    """Why data are refused; empty where they are not."""
    try:
        refuse_other_data(_study(root), root / "data", root / "out")
    except MedsslError as error:
        return error.message
    return ""


def test_a_study_goes_on_with_the_data_that_it_was_begun_with(begun: Path, capsys: pytest.CaptureFixture[str]):
    out = begun / "out"
    files, before = {path.name for path in out.iterdir()}, (out / "manifest.csv").read_bytes()
    assert _curve(begun) == 2
    assert "99 labelled patients, seed 0" in capsys.readouterr().err, "what is wrong is found in the plan"
    assert {path.name for path in out.iterdir()} - files == {"study.json"}, "the manifest that was made anew is gone"
    _picture(begun / "data" / "i5.png", 77)
    assert _curve(begun) == 2
    told = capsys.readouterr().err
    assert "was prepared from other data: i5 has another row in the manifest, or other files" in told
    assert "choose another --out, or bring back the data as they were" in told
    assert (out / "manifest.csv").read_bytes() == before
    _picture(begun / "data" / "i5.png", 5)
    assert not _refused(begun)


def test_rows_that_are_others_now_are_told(begun: Path):
    data = begun / "data"
    shutil.copy(data / "i0.png", data / "new.png")
    for told, classes, patients in (
        ("i4 has another row", {**_CLASSES, "i4": "ill"}, {}),
        ("i4 has another row", _CLASSES, {"i4": "p_i6"}),
        ("new is new", {**_CLASSES, "new": "ill"}, {}),
        ("i7 is gone", {name: own for name, own in _CLASSES.items() if name != "i7"}, {}),
        ("i5 has another row in the manifest, or other files, ...", dict.fromkeys(_CLASSES, "third"), {}),
    ):
        _table(data, classes, **patients)
        assert told in _refused(begun)
    _table(data, _CLASSES)
    assert not _refused(begun)


def test_images_of_a_pretraining_that_are_others_now_are_told(begun: Path):
    study, image = _study(begun), begun / "data" / "more" / "other.png"
    own = cache_of(study, begun / "out")
    cache = images_cache(study.image_sets[0], prepare_options(study), own, begun / "out")
    _picture(image, 7)
    assert _refused(begun).startswith(f"{cache} was prepared from other data: more_other has another row")
    image.unlink()
    assert f"{image}' does not exist" in _refused(begun)
    _picture(image, 99)


def test_nothing_is_refused_before_there_is_a_cache(begun: Path):
    _picture(begun / "data" / "i5.png", 77)
    assert _refused(begun)
    for record in (begun / "out").rglob("cache.json"):
        record.unlink()
    assert not _refused(begun)


def test_the_profile_of_the_application_says_how_images_are_prepared(tmp_path: Path):
    content = {"name": "tiny", "prepare": {"workers": 1}, "default_profile": "small"}
    sizes = {"small": 8, "large": 16}
    content["profiles"] = {name: {"prepare": {"preprocess": {"longest": size}}} for name, size in sizes.items()}
    (tmp_path / "app.yaml").write_text(yaml.safe_dump(content))
    plan = {
        "app": str(tmp_path),
        "metric": "dice",
        "labels": [1],
        "reference": "a",
        "arms": [{"name": "a"}, {"name": "b"}],
    }
    (tmp_path / "prepare.py").touch()
    plans = {}
    for name in ("large", "huge"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**plan, "profile": name}))
        plans[name] = read_options(StudyPlan, tmp_path / f"{name}.yaml")
    assert prepare_options(plans["large"]) == {"workers": 1, "preprocess": {"longest": 16}}
    with pytest.raises(ConfigError, match="profile 'huge' is unknown"):
        prepare_options(plans["huge"])
