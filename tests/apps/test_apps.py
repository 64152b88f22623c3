"""The applications on generated data, from a folder to a prediction, with two steps of each training."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from medssl.__main__ import main
from medssl.commands.app import make_manifest, read_application
from medssl.data.cache import Cache
from medssl.imaging.errors import ManifestError

_APPS = Path(__file__).parents[2] / "apps"


def _table(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _picture(path: Path, seed: int, shape: tuple[int, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)).save(path)


def _covid(folder: Path) -> Path:
    rows = []
    for n in range(24):
        name = f"s{n:02d}.png"
        _picture(folder / "images" / name, n, (100 + n, 150))
        split = ("train", "train", "val", "test")[n // 2 % 4]
        rows.append({"image": name, "covid": n % 2, "split": split, "group_patient_or_paper": f"g{n // 2}_{n % 2}"})
    _picture(folder / "images" / "unlabelled.png", 99, (120, 150))
    _table(folder / "labels.csv", rows)
    return folder


def _grades(folder: Path) -> Path:
    rows = []
    for n in range(40):
        split = "test" if n >= 25 else "train"
        name = f"{split}_{n:02d}.png"
        _picture(folder / "images" / name, n, (60, 90, 3))
        rows.append({"image": name, "split": split, "dr_grade_0_4": n % 5})
    for name, copy, grade in (("train_90", "train_00", 0), ("train_91", "train_01", 4), ("train_92", "test_30", 0)):
        shutil.copy(folder / "images" / f"{copy}.png", folder / "images" / f"{name}.png")
        rows.append({"image": f"{name}.png", "split": "train", "dr_grade_0_4": grade})
    _table(folder / "labels.csv", rows)
    return folder


def _lesions(folder: Path) -> Path:
    rows = []
    for n in range(12):
        name = f"{'test' if n >= 8 else 'train'}_{n:02d}.png"
        _picture(folder / "images" / name, n, (60, 90, 3))
        for lesion, where in (("OD", slice(10, 30)), ("HE", slice(25, 40)), ("MA", slice(38, 42))):
            mask = np.zeros((60, 90), np.uint8)
            mask[where, where] = 255
            path = folder / "masks" / f"{Path(name).stem}_{lesion}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
            rows.append({"image": name, "mask": path.name, "class": lesion})
    _table(folder / "masks.csv", rows)
    return folder


def _rows(app: str, data: Path, out: Path, profile: str = "") -> dict[str, dict[str, str]]:
    make_manifest(read_application(_APPS / app, profile), data, out / "manifest.csv")
    with (out / "manifest.csv").open(newline="") as stream:
        return {row["case"]: row for row in csv.DictReader(stream)}


def test_slices_of_a_group_are_a_patient(tmp_path: Path):
    rows = _rows("covid_ct", _covid(tmp_path / "data"), tmp_path)
    assert (rows["s03"]["class"], rows["s03"]["patient"], rows["s03"]["split"]) == ("covid", "g1_1", "train")
    assert (rows["unlabelled"]["class"], rows["unlabelled"]["split"]) == ("", "train")
    assert {row["split"] for row in rows.values()} == {"train", "val", "test"}


def test_without_splits_in_the_table_unlabelled_slices_leave_them_to_be_drawn(tmp_path: Path):
    for n in range(12):
        _picture(tmp_path / "data" / "images" / f"s{n:02d}.png", n, (60, 60))
    _table(tmp_path / "data" / "labels.csv", [{"image": f"s{n:02d}.png", "covid": n % 2} for n in range(10)])
    rows = _rows("covid_ct", tmp_path / "data", tmp_path)
    assert {row["split"] for row in rows.values()} == {""}
    arguments = ["--preprocess.spatial_dims", "2", "--split", "60/20/20", "--workers", "1"]
    assert main(["prepare", str(tmp_path / "manifest.csv"), "--out", str(tmp_path / "cache"), *arguments]) == 0
    cases = Cache.open(tmp_path / "cache").cases
    assert Counter(case.split for case in cases if case.class_name) == {"train": 6, "val": 2, "test": 2}
    assert {case.split for case in cases if not case.class_name} == {"train"}


def test_copies_of_a_photograph_are_one_patient(tmp_path: Path):
    rows = _rows("fundus", _grades(tmp_path / "data"), tmp_path)
    assert rows["train_90"]["patient"] == rows["train_00"]["patient"]
    assert rows["train_90"]["class"] == "grade_0"
    assert rows["train_91"]["class"] == rows["train_01"]["class"] == ""  # two graders, two grades
    assert "train_92" not in rows  # a copy of a test image
    assert rows["test_30"]["split"] == "test"
    counts = [sum(row["split"] == split for row in rows.values()) for split in ("train", "val", "test")]
    assert counts[1] >= 3
    assert sum(counts) == 42


def test_masks_of_lesions_become_one_label_map(tmp_path: Path):
    rows = _rows("fundus", _lesions(tmp_path / "data"), tmp_path, "lesions")
    label = np.asarray(Image.open(tmp_path / rows["train_00"]["label"]))
    assert label.shape == (60, 90)
    assert (label[12, 12], label[27, 27], label[39, 39], label[5, 5]) == (5, 2, 1, 0)


@pytest.mark.parametrize(
    ("app", "folder", "cases"),
    [("covid_ct", "covid_ct", 746), ("fundus", "idrid_dr_grading", 515), ("fundus", "idrid_lesion_seg", 81)],
)
def test_the_real_sets_are_read(real_data: Path, tmp_path: Path, app: str, folder: str, cases: int):
    rows = _rows(app, real_data / folder, tmp_path)
    assert len(rows) == cases
    splits: dict[str, set[str]] = {}
    for row in rows.values():
        splits.setdefault(row["patient"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {row["split"] for row in rows.values()} == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("app", "table", "told"),
    [
        ("covid_ct", None, "has no labels.csv"),
        ("covid_ct", [{"image": "gone.png", "covid": 1}], "gone.png is not in"),
        ("covid_ct", [{"image": "a.png", "covid": "maybe"}], "0 or 1 is expected"),
        ("fundus", None, "has neither labels.csv"),
        ("fundus", [{"image": "a.png", "grade": 1}], "lacks the column"),
        ("fundus", [{"image": "gone.png", "dr_grade_0_4": 1}], "is not there"),
    ],
)
def test_a_folder_that_is_not_what_it_should_be_is_refused(
    tmp_path: Path, app: str, table: list[dict[str, Any]] | None, told: str
):
    _picture(tmp_path / "data" / "images" / "a.png", 0, (40, 60))
    if table is not None:
        _table(tmp_path / "data" / "labels.csv", table)
    with pytest.raises(ManifestError, match=told):
        _rows(app, tmp_path / "data", tmp_path)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("app", "make", "profile"),
    [("covid_ct", _covid, "10min"), ("fundus", _grades, "grading"), ("fundus", _lesions, "lesions")],
)
def test_an_application_runs_to_a_bundle_that_agrees_with_its_evaluation(
    tmp_path: Path, app: str, make: Any, profile: str
):
    folder = tmp_path / "app"
    shutil.copytree(_APPS / app, folder)
    stages = read_application(_APPS / app, profile).stages
    encoder = {"features": [4, 8, 8, 8], "blocks": [0, 1, 1, 1], "norm": "batch"}
    for stage in (stages["pretrain"], stages["finetune"]["network"]):
        stage["encoder"]["init_args"] = encoder
    stages["prepare"]["workers"] = 1
    stages["pretrain"] |= {"views": {"size": [64, 64]}, "train": {"steps": 2, "batch_size": 4}}
    stages["finetune"] |= {"transfer": {}, "train": {"steps": 2, "batch_size": 4}}
    stages["evaluate"]["measure"] = {**stages["evaluate"].get("measure", {}), "resamples": 100}
    (folder / "app.yaml").write_text(yaml.safe_dump({"name": app, **stages}))
    data, run = make(tmp_path / "data"), tmp_path / "run"
    assert main(["app", "run", str(folder), "--data", str(data), "--out", str(run)]) == 0
    assert (run / "report.html").is_file()
    card = (run / "bundle" / "MODEL_CARD.md").read_text()
    assert "Not a medical device" in card
    with (run / "evaluate" / "cases.csv").open(newline="") as stream:
        cases = list(csv.DictReader(stream))
    name = cases[0]["case"]
    image = next((data / "images").glob(f"{name}.*"))
    assert main(["predict", str(run / "bundle"), str(image), "--out", str(tmp_path / "predicted")]) == 0
    report = json.loads(next((tmp_path / "predicted").rglob("report.json")).read_text())
    if profile != "lesions":
        given = {key.removeprefix("probability_"): float(v) for key, v in cases[0].items() if key.startswith("prob")}
        found = report["probabilities"] if "probabilities" in report else report["classes"]
        for label, share in given.items():
            assert found[label] == pytest.approx(share, abs=2e-3)
