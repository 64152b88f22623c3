"""The hippocampus of real patients, from files to a model that is better than chance after a minute."""

import csv
import json
from pathlib import Path

import pytest

from medssl.__main__ import main
from medssl.tasks.model_file import load_model


@pytest.mark.slow
def test_a_minute_on_real_patients_finds_the_hippocampus(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "msd_hippocampus_dev"
    assert main(["index", str(folder), f"--out={tmp_path / 'all.csv'}"]) == 0
    with (tmp_path / "all.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"]][:14]
    for number, row in enumerate(rows):
        row["split"] = "train" if number < 10 else "val"
        row["patient"] = row["case"]
        for name in ("image", "label"):
            row[name] = str((tmp_path / row[name]).resolve())
    with (tmp_path / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert main(["prepare", str(tmp_path / "manifest.csv"), f"--out={tmp_path / 'cache'}", "--config=mr_native"]) == 0
    small = {"features": [8, 16, 32, 64], "blocks": [0, 1, 1, 1]}
    options = [f"--network.encoder.init_args={json.dumps(small)}", "--train.steps=100", "--train.precision=bf16"]
    argv = ["finetune", "--config=segmentation_unet3d", f"--data={tmp_path / 'cache'}", f"--out={tmp_path / 'run'}"]
    assert main([*argv, *options]) == 0
    assert load_model(tmp_path / "run")[1].validation["dice"] > 0.5
