"""The embedding tools on real radiographs and CT volumes, with an encoder of random weights."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_encoder import small_encoder

from medssl.__main__ import main
from medssl.evaluation.feature_files import read_features
from medssl.imaging.manifest import Manifest, Row


def _cache(rows: list[Row], folder: Path, *more: str) -> Path:
    folder.mkdir(parents=True)
    Manifest.from_rows(rows, folder).write(folder / "manifest.csv")
    arguments = [str(folder / "manifest.csv"), "--out", str(folder / "cache"), "--split", "60/20/20", *more]
    assert main(["prepare", *arguments]) == 0
    return folder / "cache"


@pytest.mark.integration
def test_repeated_radiographs_find_one_another(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = real_data / "chest_xray_pneumonia"
    with (source / "labels.csv").open(newline="") as stream:
        listed = list(csv.DictReader(stream))
    repeats = [n for n, row in enumerate(listed) if row["duplicate_of_earlier"] == "1"]
    chosen = sorted({*repeats[:3], *range(0, len(listed), 50)})
    rows = [
        Row(f"x{n}", f"p{n}", str(source / "images" / listed[n]["image"]), class_name=listed[n]["pneumonia"])
        for n in chosen
    ]
    cache = _cache(rows, tmp_path / "chest", "--config", "image_2d", "--preprocess.spacing_mm", "[4, 4]")
    channels = len(json.loads((cache / "cache.json").read_text())["channels"])
    run = small_encoder(
        tmp_path / "run", channels=["x"] * channels, in_channels=channels, provenance={"crop": [64] * 2}
    )
    assert main(["embed", str(run), "--data", str(cache), "--out", str(tmp_path / "features"), "--shard", "8"]) == 0
    capsys.readouterr()
    copy = _copy(Path(rows[2].image), tmp_path)
    assert main(["search", str(tmp_path / "features"), "--query", copy, "--top", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-1] == "1.0000"
    assert main(["anomalies", str(tmp_path / "features"), "--out", str(tmp_path / "out")]) == 0
    about = json.loads((tmp_path / "out" / "anomalies.json").read_text())
    assert about["rows"] == about["judged"] == len(chosen)


def _copy(image: Path, folder: Path) -> str:
    """An image of its own: the file of a listed case would be taken for that case, which is no neighbour of itself."""
    return str(shutil.copyfile(image, folder / f"copy_of_{image.name}"))


@pytest.mark.integration
def test_ct_volumes_as_slices_and_as_volumes(real_data: Path, tmp_path: Path):
    source = real_data / "covid_ct_volumes" / "images"
    rows = [Row(f"ct{n}", f"p{n}", str(source / f"covid{n}.nii.gz"), modality="CT") for n in (1, 2, 4)]
    intensity = "{kind: percentile, low: [0.5], high: [99.5]}"
    cache = _cache(rows, tmp_path / "ct", "--preprocess.spacing_mm", "[6, 6, 6]", "--preprocess.intensity", intensity)
    flat = small_encoder(tmp_path / "flat", provenance={"crop": [32, 32]})
    deep = small_encoder(tmp_path / "deep", dims=3, provenance={"crop": [32, 32, 16]})
    each = ("--embed.volumes=each", "--embed.slices=8")
    for name, run, more in (("slices", flat, each), ("volumes", deep, ())):
        assert main(["embed", str(run), "--data", str(cache), "--out", str(tmp_path / name), *more]) == 0
    slices, volumes = (read_features([tmp_path / name]) for name in ("slices", "volumes"))
    assert len(slices) == 24
    assert len(volumes) == 3
    near = np.linalg.norm(slices.vectors[1:] - slices.vectors[:-1], axis=1)
    within = np.array([a == b for a, b in zip(slices.columns["case"][1:], slices.columns["case"], strict=False)])
    every = np.linalg.norm(slices.vectors[:, None] - slices.vectors, axis=-1)
    assert np.median(near[within]) < np.median(every[every > 0])  # the next slice is nearer than another one
    query = ["--query", _copy(source / "covid2.nii.gz", tmp_path), "--top", "1", "--out", str(tmp_path / "out")]
    assert main(["search", str(tmp_path / "volumes"), *query]) == 0
    with (tmp_path / "out" / "neighbours.csv").open(newline="") as stream:
        row = next(csv.DictReader(stream))
    assert row["case"] == "ct2"
    assert float(row["cosine"]) > 0.999
