"""`medssl curate` by the features of a real encoder: what it cannot embed is left out by name and told."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_encoder import small_encoder

from medssl.__main__ import main
from medssl.commands import curate_target
from medssl.imaging.geometry import Geometry
from medssl.imaging.manifest import Manifest, Row
from medssl.imaging.preprocess import Preprocess
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti


def _volume(path: Path, slices: int, seed: int, air: int = 0) -> Row:
    """A volume of noise, of which the last slices are air of one value; all of split train."""
    array = np.random.default_rng(seed).uniform(0, 200, (16, 14, slices)).astype(np.float32)
    array[..., slices - air :] = 7
    write_nifti(Volume(array[None], Geometry(np.diag([0.8, 0.8, 5.0, 1.0]), array.shape), "CT"), path)
    return Row(path.name[0], path.name[0], path.name, split="train")


def _manifest(folder: Path, name: str, rows: list[Row]) -> Path:
    Manifest.from_rows(rows, folder).write(folder / f"{name}.csv")
    return folder / f"{name}.csv"


def _encoder(folder: Path) -> list[str]:
    made = small_encoder(folder / "run", preprocess=Preprocess(spatial_dims=2).to_json())
    return ["--encoder", str(made / "encoder.safetensors")]


def test_a_target_s_slices_of_air_choose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Air that was cut from the image has one value, which no encoder is shown."""
    pool = _manifest(tmp_path, "pool", [_volume(tmp_path / "u.nii.gz", 4, seed=0)])
    target = _manifest(tmp_path, "target", [_volume(tmp_path / "t.nii.gz", 5, seed=1, air=2)])
    more = ["--slices", "2", "--likeness.rule", "none", "--coreset.budget", "2", "--target", str(target)]
    assert main(["curate", str(pool), "--out", str(tmp_path / "out"), *more, *_encoder(tmp_path)]) == 0
    assert len(Manifest.read(tmp_path / "out" / "manifest.csv").rows) == 2
    about = json.loads((tmp_path / "out" / "curation.json").read_text())
    assert about["target_useless"] == {"constant": 2}
    assert about["similarity_curve"] == sorted(about["similarity_curve"], reverse=True)
    assert all(-1 <= cosine <= 1 for cosine in about["similarity_curve"])
    assert about["similarity_curve"]
    assert f"2 of 5 images of {target} choose nothing: 2 constant" in capsys.readouterr().out


def test_a_target_of_air_alone_is_told_before_the_open_set_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    pool = _manifest(tmp_path, "pool", [_volume(tmp_path / "u.nii.gz", 4, seed=0)])
    target = _manifest(tmp_path, "target", [_volume(tmp_path / "t.nii.gz", 3, seed=1, air=3)])
    monkeypatch.setattr("medssl.commands.curate.look", lambda *given: pytest.fail("the open set is looked at"))
    more = ["--slices", "2", "--coreset.budget", "2", "--target", str(target), *_encoder(tmp_path)]
    assert main(["curate", str(pool), "--out", str(tmp_path / "out"), *more]) == 2
    assert "none of its 3 images is of use (3 constant)" in capsys.readouterr().err


def test_a_sparse_target_is_looked_at_as_the_open_set_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The share of foreground that is asked for is the open set's; its modality and its frame are not."""
    asked = []
    look = curate_target.look
    monkeypatch.setattr(
        curate_target, "look", lambda images, quality, *more: asked.append(quality) or look(images, quality, *more)
    )
    pool = _manifest(tmp_path, "pool", [_volume(tmp_path / "u.nii.gz", 4, seed=0)])
    target = _manifest(tmp_path, "target", [_volume(tmp_path / "t.nii.gz", 3, seed=1)])
    more = ["--slices", "2", "--likeness.rule", "none", "--coreset.budget", "2", "--target", str(target)]
    more += ["--quality.foreground", "0.01", "--quality.border", "1", "--quality.modality", "CT"]
    assert main(["curate", str(pool), "--out", str(tmp_path / "out"), *more, *_encoder(tmp_path)]) == 0
    assert [(one.foreground, one.border, one.modality) for one in asked] == [(0.01, 0, "")]


def _pictures(folder: Path) -> list[Row]:
    """Three grey pictures, one in colour and one of which a channel of three has one value."""
    rng = np.random.default_rng(0)
    shapes = {"grey": (16, 16), "more": (16, 16), "last": (16, 16), "colour": (16, 16, 3), "flat": (16, 16, 3)}
    for name, shape in shapes.items():
        array = rng.uniform(0, 250, shape).astype(np.uint8)
        if name == "flat":
            array[..., 0] = 3
        Image.fromarray(array).save(folder / f"{name}.png")
    return [Row(name, name, f"{name}.png", split="train") for name in shapes]


_ODD = {"colour": "not embedded (channels)", "flat": "not embedded (constant-image)"}


@pytest.mark.parametrize("way", ["rule", "coreset"])
def test_what_cannot_be_embedded_is_left_out_by_name(way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = _pictures(tmp_path)
    pool, target = _manifest(tmp_path, "pool", rows), _manifest(tmp_path, "target", rows[:1])
    more = ["--likeness.rule", "embedding", "--likeness.scope", "set", "--likeness.threshold", "1"]
    if way == "coreset":
        more = ["--likeness.rule", "none", "--coreset.budget", "9", "--target", str(target)]
    assert main(["curate", str(pool), "--out", str(tmp_path / "out"), *more, *_encoder(tmp_path)]) == 0
    assert [row.case for row in Manifest.read(tmp_path / "out" / "manifest.csv").rows] == ["grey", "more", "last"]
    with (tmp_path / "out" / "left_out.csv").open(newline="") as stream:
        assert {row["case"]: row["reason"] for row in csv.DictReader(stream)} == _ODD
    told = (
        "2 of 5 images cannot be embedded and are left out; the first, 'colour': 3 channel(s) where the encoder takes 1"
    )
    assert told in capsys.readouterr().out


def test_a_target_of_other_channels_is_told_before_the_open_set_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    rows = _pictures(tmp_path)
    pool, target = _manifest(tmp_path, "pool", rows), _manifest(tmp_path, "target", rows[3:])
    monkeypatch.setattr("medssl.commands.curate.look", lambda *given: pytest.fail("the open set is looked at"))
    more = ["--coreset.budget", "2", "--target", str(target), *_encoder(tmp_path)]
    assert main(["curate", str(pool), "--out", str(tmp_path / "out"), *more]) == 2
    why = ", ".join(f"1 {reason}" for reason in _ODD.values())
    assert f"none of its 2 images is of use ({why})" in capsys.readouterr().err


def test_a_query_of_other_channels_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows, (_, encoder) = _pictures(tmp_path), _encoder(tmp_path)
    cache, features = tmp_path / "cache", tmp_path / "features"
    arguments = ["--preprocess.spatial_dims", "2", "--workers", "1"]
    manifest = _manifest(tmp_path, "pool", rows[:3])
    assert main(["prepare", str(manifest), "--out", str(cache), *arguments]) == 0
    assert main(["embed", encoder, "--data", str(cache), "--out", str(features)]) == 0
    assert main(["search", str(features), "--query", str(tmp_path / "colour.png")]) == 2
    assert f"{tmp_path / 'colour.png'}: 3 channel(s) where the encoder takes 1" in capsys.readouterr().err
