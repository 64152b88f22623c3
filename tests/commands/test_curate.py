"""`medssl curate`: from a manifest to a smaller one that can be prepared, with a reason for all that is left out."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom_phantom import write_series
from PIL import Image
from small_encoder import small_encoder

from medssl.__main__ import main
from medssl.commands import curate as verb
from medssl.commands import curate_images, curate_likeness, curate_target
from medssl.data.cache import Cache
from medssl.imaging.geometry import Geometry
from medssl.imaging.manifest import Manifest, Row
from medssl.imaging.preprocess import Preprocess
from medssl.imaging.readers import open as opened
from medssl.imaging.readers.nifti import read_nifti
from medssl.imaging.readers.open import read_volume
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti

_COLUMNS = 24


def _smooth(rng: np.random.Generator) -> np.ndarray:
    coarse = Image.fromarray(rng.uniform(20, 230, (6, 6)).astype(np.float32))
    return np.asarray(coarse.resize((_COLUMNS, 30), Image.Resampling.BILINEAR))


def _pictures(folder: Path) -> Path:
    """Two patients with three pictures each, each picture twice but for noise; one empty, one labelled copy."""
    rng = np.random.default_rng(0)
    rows = []

    def add(name: str, patient: str, array: np.ndarray, **more: str) -> None:
        path = folder / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array.clip(0, 255).astype(np.uint8)).save(path)
        rows.append(Row(name, patient, f"images/{name}.png", modality=more.pop("modality", "CT"), **more))

    for patient in "ab":
        for number in range(3):
            base = _smooth(rng)
            add(f"{patient}{number}", patient, base)
            add(f"{patient}{number}_again", patient, base + rng.normal(0, 1, base.shape))
    add("empty", "c", np.full((30, _COLUMNS), 7.0))
    add("dark", "c", np.pad(np.full((1, 1), 250.0), ((10, 19), (10, 13))))
    add("answered", "d", base, class_name="ill")
    add("tested", "e", base, split="test")
    add("other", "f", _smooth(rng), modality="MR")
    Manifest.from_rows(rows, folder).write(folder / "manifest.csv")
    return folder / "manifest.csv"


def _curate(manifest: Path, out: Path, *more: str) -> int:
    return main(["curate", str(manifest), "--out", str(out), *more])


def _left(out: Path) -> dict[str, dict[str, str]]:
    with (out / "left_out.csv").open(newline="") as stream:
        return {row["case"]: row for row in csv.DictReader(stream)}


def test_copies_and_useless_pictures_are_left_out_and_answers_are_kept(tmp_path: Path):
    manifest, out = _pictures(tmp_path / "data"), tmp_path / "out"
    more = ["--likeness.scope", "patient", "--likeness.threshold", "4", "--quality.modality", "CT"]
    assert _curate(manifest, out, *more) == 0
    kept = {row.case for row in Manifest.read(out / "manifest.csv").rows}
    assert kept == {"a0", "a1", "a2", "b0", "b1", "b2", "answered", "tested"}
    left = _left(out)
    assert {name: row["like"] for name, row in left.items() if row["like"]} == {
        f"{patient}{n}_again": f"{patient}{n}" for patient in "ab" for n in range(3)
    }
    assert [left[name]["reason"] for name in ("empty", "dark", "other")] == ["constant", "almost empty", "modality MR"]
    about = json.loads((out / "curation.json").read_text())
    assert (about["images"], about["kept"], about["kept_always"]) == (17, 8, 2)
    assert about["left_out"] == {"like another (dhash)": 6, "constant": 1, "almost empty": 1, "modality MR": 1}
    with Image.open(out / "left_out.png") as sheet:
        assert len(np.unique(np.asarray(sheet))) > 20
    assert main(["prepare", str(out / "manifest.csv"), "--out", str(tmp_path / "cache"), "--config", "image_2d"]) == 0
    assert len(Cache.open(tmp_path / "cache").cases) == 8


@pytest.mark.parametrize(("border", "left"), [("0", {}), ("0.1", {"cut": "cut by the field of view"})])
def test_what_the_field_of_view_cuts_is_left_out_on_request(border: str, left: dict[str, str], tmp_path: Path):
    """A disc in the middle, and the same one half outside: it covers 19 of the 108 pixels of the frame."""
    y, x = np.mgrid[:30, :24]
    for name, middle in (("whole", 12), ("cut", 0)):
        disc = 200 * ((y - 15) ** 2 + (x - middle) ** 2 < 100)
        Image.fromarray(disc.astype(np.uint8)).save(tmp_path / f"{name}.png")
    rows = [Row(name, name, f"{name}.png", modality="CT") for name in ("whole", "cut")]
    Manifest.from_rows(rows, tmp_path).write(tmp_path / "manifest.csv")
    more = ["--likeness.rule", "none", "--quality.border", border]
    assert _curate(tmp_path / "manifest.csv", tmp_path / "out", *more) == 0
    assert {name: row["reason"] for name, row in _left(tmp_path / "out").items()} == left


def _coloured(folder: Path, colours: dict[str, tuple[object, object, object]]) -> Path:
    folder.mkdir(parents=True)
    for name, channels in colours.items():
        Image.fromarray(np.stack(channels, -1).astype(np.uint8)).save(folder / f"{name}.png")
    Manifest.from_rows([Row(name, name, f"{name}.png") for name in colours], folder).write(folder / "manifest.csv")
    return folder / "manifest.csv"


@pytest.mark.parametrize("rule", ["dhash", "ssim", "mutual_information"])
def test_all_channels_are_looked_at(rule: str, tmp_path: Path):
    """Green fluorescence is not constant, and images that are alike in red alone are no copies."""
    rng = np.random.default_rng(0)
    none, red, first = np.zeros((30, _COLUMNS)), _smooth(rng), _smooth(rng)
    colours = {"green": (none, first, none), "again": (none, first, none), "other": (none, _smooth(rng), none)}
    colours |= {name: (red, _smooth(rng), _smooth(rng)) for name in ("red", "same_red")}
    colours |= {"dark": (none, none, none)}
    manifest = _coloured(tmp_path / "data", colours)
    assert _curate(manifest, tmp_path / "out", "--likeness.scope", "set", "--likeness.rule", rule) == 0
    left = _left(tmp_path / "out")
    assert {name: row["reason"] for name, row in left.items()} == {
        "again": f"like another ({rule})", "dark": "constant",
    }  # fmt: skip
    assert left["again"]["like"] == "green"


def test_a_grey_copy_of_a_colour_picture_is_found(tmp_path: Path):
    grey = _smooth(np.random.default_rng(0))
    manifest = _coloured(tmp_path / "data", {"colour": (grey, grey, grey)})
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "data" / "grey.png")
    rows = [*Manifest.read(manifest).rows, Row("grey", "grey", "grey.png")]
    Manifest.from_rows(rows, tmp_path / "data").write(manifest)
    assert _curate(manifest, tmp_path / "out", "--likeness.scope", "set") == 0
    assert list(_left(tmp_path / "out")) == ["grey"]


@pytest.mark.parametrize(("scope", "wider"), [("volume", "patient or set"), ("patient", "set")])
def test_where_nothing_is_compared_it_is_told(
    scope: str, wider: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The scope of volumes, which is the default, holds one 2D image each."""
    picture = _smooth(np.random.default_rng(0))
    manifest = _coloured(tmp_path / "data", dict.fromkeys(("a", "b", "c"), (picture, picture, picture)))
    assert _curate(manifest, tmp_path / "out", "--likeness.scope", scope) == 0
    (warning,) = json.loads((tmp_path / "out" / "curation.json").read_text())["warnings"]
    assert f"no two of 3 images are of one {scope}" in warning
    assert f"choose likeness.scope {wider}, or" in warning
    assert f"WARNING: {warning}" in capsys.readouterr().out
    assert _curate(manifest, tmp_path / "whole", "--likeness.scope", "set") == 0
    assert json.loads((tmp_path / "whole" / "curation.json").read_text())["warnings"] == []
    assert list(_left(tmp_path / "whole")) == ["b", "c"]


@pytest.mark.parametrize("rule", ["ssim", "mutual_information", "every_n", "none"])
def test_the_other_rules(rule: str, tmp_path: Path):
    manifest = _pictures(tmp_path / "data")
    more = {"every_n": ["--likeness.every", "2", "--likeness.scope", "set"], "none": []}
    more = more.get(rule, ["--likeness.scope", "set"])
    assert _curate(manifest, tmp_path / "out", "--likeness.rule", rule, *more) == 0
    kept = {row.case for row in Manifest.read(tmp_path / "out" / "manifest.csv").rows}
    assert kept >= {"a0", "answered", "tested"}
    if rule in ("ssim", "mutual_information"):
        assert not any(name.endswith("again") for name in kept)
    assert ("a0_again" in kept) == (rule == "none")


@pytest.mark.parametrize("rule", ["ssim", "mutual_information"])
def test_too_many_pairs_are_refused_before_an_image_is_looked_at(
    rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    manifest, looked = _pictures(tmp_path / "data"), []
    monkeypatch.setattr(curate_likeness, "MOST_IN_PAIRS", 6)
    monkeypatch.setattr(verb, "look", lambda images, *more: looked.append(len(images)) or (list(images)[:0], []))
    assert _curate(manifest, tmp_path / "out", "--likeness.rule", rule, "--likeness.scope", "set") == 2
    told = capsys.readouterr().err
    assert f"{rule} compares one pair after another, and 15 images are of one set: up to 105 pairs" in told
    assert "choose likeness.rule dhash or embedding" in told
    assert looked == []
    assert _curate(manifest, tmp_path / "out", "--likeness.rule", rule, "--likeness.scope", "patient") == 0
    assert looked == [15]


def _volumes(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    rows = []
    for name in "uv":
        planes = [_smooth(rng) for _ in range(3) for _ in range(1)]
        array = np.stack([plane for plane in planes for _ in range(4)], -1)[None]
        path = folder / f"{name}.nii.gz"
        grid = Geometry(np.diag([0.8, 0.8, 5.0, 1.0]), array.shape[1:])
        write_nifti(Volume(array.astype(np.float32), grid, "CT"), path)
        rows.append(Row(name, f"patient_{name}", path.name, modality="CT"))
    Manifest.from_rows(rows, folder).write(folder / "manifest.csv")
    return folder / "manifest.csv"


def test_volumes_are_taken_apart_and_the_slices_can_be_prepared(tmp_path: Path):
    manifest, out = _volumes(tmp_path), tmp_path / "out"
    assert _curate(manifest, out, "--slices", "2") == 0
    rows = Manifest.read(out / "manifest.csv").rows
    assert [row.case for row in rows] == [f"{name}_s{k:04d}" for name in "uv" for k in (0, 4, 8)]
    assert {row.patient for row in rows} == {"patient_u", "patient_v"}
    assert _left(out)["v_s0011"]["like"] == "v_s0008"
    arguments = ["--preprocess.spatial_dims", "2", "--preprocess.spacing_mm", "[1.6, 1.6]", "--workers", "1"]
    assert main(["prepare", str(out / "manifest.csv"), "--out", str(tmp_path / "cache"), *arguments]) == 0
    cache = Cache.open(tmp_path / "cache")
    assert {case.shape for case in cache.cases} == {(12, 15)}, "rows and columns, as viewers show them"


@pytest.mark.parametrize(("air", "organ", "noise"), [(-1000, 40, 15), (12, 400, 6)], ids=["CT", "MR"])
def test_slices_of_air_are_empty_and_those_of_organs_stay(air: int, organ: int, noise: int, tmp_path: Path):
    """Between its own darkest and brightest pixel noise is bright all over; a picture has no others."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:30, :_COLUMNS]
    array = rng.normal(air, noise, (30, _COLUMNS, 12))
    array[..., 3:9] += (organ - air) * ((y - 15) ** 2 + (x - 12) ** 2 < 40)[..., None]
    array[14, 12, 4] = 50 * organ  # a clip of metal
    grid = Geometry(np.diag([0.8, 0.8, 5.0, 1.0]), array.shape)
    write_nifti(Volume(array[None].astype(np.float32), grid), tmp_path / "v.nii.gz")
    grey = 128 + 100 * rng.normal(size=(30, _COLUMNS)).clip(-1, 1)
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "p.png")
    Manifest.from_rows([Row("v", "v", "v.nii.gz")], tmp_path).write(tmp_path / "volume.csv")
    Manifest.from_rows([Row("p", "p", "p.png")], tmp_path).write(tmp_path / "picture.csv")
    more = ["--likeness.rule", "none", "--quality.border", "0.3"]
    assert _curate(tmp_path / "volume.csv", tmp_path / "out", "--slices", "2", *more) == 0
    empty = {f"v_s{k:04d}": "almost empty" for k in (0, 1, 2, 9, 10, 11)}
    assert {name: row["reason"] for name, row in _left(tmp_path / "out").items()} == empty
    assert _curate(tmp_path / "picture.csv", tmp_path / "whole", *more[:2]) == 0
    assert _left(tmp_path / "whole") == {}


def test_slices_that_are_listed_belong_to_their_volume(tmp_path: Path):
    """Taken apart first and compared later, the same are left out."""
    manifest = _volumes(tmp_path)
    assert _curate(manifest, tmp_path / "all", "--slices", "2", "--likeness.rule", "none") == 0
    assert _curate(tmp_path / "all" / "manifest.csv", tmp_path / "later") == 0
    assert _curate(manifest, tmp_path / "once", "--slices", "2") == 0
    cases = [[r.case for r in Manifest.read(tmp_path / way / "manifest.csv").rows] for way in ("later", "once")]
    assert cases[0] == cases[1]


def test_a_volume_that_cannot_be_read_is_left_out(tmp_path: Path):
    manifest = _volumes(tmp_path)
    (tmp_path / "u.nii.gz").write_bytes(b"broken")
    assert _curate(manifest, tmp_path / "out", "--slices", "2") == 0
    assert {row.case[0] for row in Manifest.read(tmp_path / "out" / "manifest.csv").rows} == {"v"}
    assert _left(tmp_path / "out")["u"]["reason"].startswith("unreadable (")
    assert json.loads((tmp_path / "out" / "curation.json").read_text())["images"] == 13


def test_a_volume_s_shape_is_read_from_its_header_and_a_damaged_one_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first volume's voxels are no numbers, which its header does not tell."""
    manifest = _volumes(tmp_path)
    whole = read_volume(tmp_path / "u.nii.gz")
    write_nifti(replace(whole, array=np.full_like(whole.array, np.nan)), tmp_path / "u.nii.gz")
    read = []
    monkeypatch.setattr(opened, "read_nifti", lambda path: read.append(path.name) or read_nifti(path))
    assert _curate(manifest, tmp_path / "out", "--slices", "2", "--workers", "0") == 0
    assert read == ["u.nii.gz", "v.nii.gz"]
    left = {name: row["reason"] for name, row in _left(tmp_path / "out").items() if name[0] == "u"}
    assert left == {f"u_s{k:04d}": "unreadable (non-finite)" for k in range(12)}


def test_a_coreset_of_nothing_is_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    manifest = _pictures(tmp_path / "data")
    rows = [row for row in Manifest.read(manifest).rows if row.case in ("empty", "answered")]
    Manifest.from_rows(rows, manifest.parent).write(manifest)
    target = manifest.parent / "target.csv"
    Manifest.from_rows([Row("t", "t", "images/a0.png", split="train")], manifest.parent).write(target)
    made = small_encoder(tmp_path / "run", preprocess=Preprocess(spatial_dims=2).to_json())
    more = ["--encoder", str(made / "encoder.safetensors"), "--target", str(target), "--coreset.budget", "2"]
    assert _curate(manifest, tmp_path / "out", *more) == 0
    assert "no image is left to take a coreset of" in capsys.readouterr().out
    assert [row.case for row in Manifest.read(tmp_path / "out" / "manifest.csv").rows] == ["answered"]


def test_a_2d_image_among_volumes_is_left_out_and_told(tmp_path: Path):
    """A topogram in a series of its own ended the run."""
    manifest = _volumes(tmp_path / "data")
    Image.fromarray(np.full((30, _COLUMNS), 90, np.uint8)).save(tmp_path / "data" / "flat.png")
    rows = [Row("flat", "patient_u", "flat.png", modality="CT"), *Manifest.read(manifest).rows]
    Manifest.from_rows(rows, tmp_path / "data").write(manifest)
    assert _curate(manifest, tmp_path / "out", "--slices", "2") == 0
    assert _left(tmp_path / "out")["flat"]["reason"] == "a 2D image, no volume"
    assert all(row.case != "flat" for row in Manifest.read(tmp_path / "out" / "manifest.csv").rows)


def _bars(images: list[curate_images.Image], encoder: Path, device: str) -> tuple[np.ndarray, list, list]:
    """Histograms of pictures in place of an encoder's features."""
    pictures = [curate_images.picture_of(image) for image in images]
    return np.stack([np.histogram(picture, 24, (0, 255))[0] for picture in pictures]).astype(np.float32), images, []


def test_pictures_choose_slices_of_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The target is a copy of one slice as a picture, and a volume of which each slice is a copy of another one."""
    manifest = _volumes(tmp_path / "pool")
    volumes = [read_volume(manifest.parent / f"{name}.nii.gz").array[0] for name in "uv"]
    folder = tmp_path / "target"
    folder.mkdir()
    Image.fromarray(volumes[0][..., 4].astype(np.uint8)).save(folder / "flat.png")
    whole = np.repeat(volumes[1][None, ..., 8:9], 3, axis=-1)
    write_nifti(Volume(whole, Geometry(np.eye(4), whole.shape[1:])), folder / "whole.nii.gz")
    rows = [Row("flat", "f", "flat.png", split="train"), Row("whole", "w", "whole.nii.gz", split="train")]
    for module in (verb, curate_target):
        monkeypatch.setattr(module, "embed", _bars)
    (tmp_path / "encoder.safetensors").touch()
    more = ["--slices", "2", "--encoder", str(tmp_path / "encoder.safetensors"), "--target", str(folder / "target.csv")]
    for name, given, chosen in (("a", rows[:1], ["u_s0004"]), ("b", rows, ["u_s0004", "v_s0008"])):
        Manifest.from_rows(given, folder).write(folder / "target.csv")
        assert _curate(manifest, tmp_path / name, *more, "--coreset.budget", str(len(chosen))) == 0
        assert [row.case for row in Manifest.read(tmp_path / name / "manifest.csv").rows] == chosen


def test_a_target_that_cannot_be_read_is_told_before_the_open_set_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    manifest = _volumes(tmp_path)
    (tmp_path / "broken.nii.gz").write_bytes(b"broken")
    Manifest.from_rows([Row("t", "t", "broken.nii.gz", split="train")], tmp_path).write(tmp_path / "target.csv")
    (tmp_path / "encoder.safetensors").touch()
    monkeypatch.setattr(verb, "look", lambda *given: pytest.fail("the open set is looked at"))
    more = ["--encoder", str(tmp_path / "encoder.safetensors"), "--target", str(tmp_path / "target.csv")]
    assert _curate(manifest, tmp_path / "out", "--slices", "2", *more, "--coreset.budget", "2") == 2
    assert "target.csv: t cannot be read" in capsys.readouterr().err


def test_two_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(curate_images, "_BATCH", 4)  # so that each volume is a part of its own
    manifest = _volumes(tmp_path)
    for workers in ("1", "2"):
        assert _curate(manifest, tmp_path / workers, "--slices", "2", "--workers", workers) == 0
    for name in ("manifest.csv", "left_out.csv"):
        assert (tmp_path / "1" / name).read_text() == (tmp_path / "2" / name).read_text()


def test_slices_of_a_labelled_volume_are_looked_at_and_its_label_map_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    manifest = _volumes(tmp_path)
    u, v = Manifest.read(manifest).rows
    rows = [replace(u, label="u.nii.gz"), replace(v, class_name="ill")]
    Manifest.from_rows(rows, tmp_path).write(manifest)
    assert _curate(manifest, tmp_path / "whole", "--likeness.rule", "none") == 0
    assert "label map" not in capsys.readouterr().out, "whole volumes keep theirs"
    assert [bool(row.label) for row in Manifest.read(tmp_path / "whole" / "manifest.csv").rows] == [True, False]
    assert _curate(manifest, tmp_path / "out", "--slices", "2") == 0
    assert "slices have no label map: those of 1 volume(s) are not in the new manifest" in capsys.readouterr().out
    kept = Manifest.read(tmp_path / "out" / "manifest.csv").rows
    assert [row.case for row in kept if row.case[0] == "u"] == ["u_s0000", "u_s0004", "u_s0008"]
    assert sum(row.class_name == "ill" for row in kept) == 12, "a class keeps every slice"
    assert not any(row.label for row in kept)
    about = json.loads((tmp_path / "out" / "curation.json").read_text())
    assert (about["label_maps_left_out"], about["kept_always"]) == (1, 12)


@pytest.mark.integration
def test_embeddings_and_a_coreset(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    manifest = _pictures(tmp_path / "data")
    assert (
        main(["prepare", str(manifest), "--out", str(tmp_path / "cache"), "--config", "image_2d"]) == 2
    )  # but for two
    encoder = "{class_path: medssl.models.unet.ResidualUNetEncoder, init_args: {features: [4, 8], blocks: [0, 1]}}"
    arguments = ["--data", str(tmp_path / "cache"), "--out", str(tmp_path / "run"), "--config", "simclr_unet2d"]
    arguments += ["--encoder", encoder, "--views.size", "[16, 16]", "--views.source", "[24, 24]"]
    arguments += ["--train.steps", "2", "--train.batch_size", "4", "--train.warmup_steps", "0"]
    assert main(["pretrain", *arguments]) == 0
    weights = ["--encoder", str(tmp_path / "run" / "encoder.safetensors")]
    out = tmp_path / "embedded"
    assert _curate(manifest, out, *weights, "--likeness.rule", "embedding", "--likeness.scope", "set") == 0
    assert len(Manifest.read(out / "manifest.csv").rows) < 15
    rows = [row for row in Manifest.read(manifest).rows if row.case[1:2].isdigit() and row.case.startswith("a")]
    Manifest.from_rows(rows, manifest.parent).write(manifest.parent / "target.csv")
    more = ["--likeness.rule", "none", "--target", str(manifest.parent / "target.csv"), "--coreset.budget", "6"]
    out = tmp_path / "coreset"
    assert _curate(manifest, out, *weights, *more) == 0
    kept = {row.case for row in Manifest.read(out / "manifest.csv").rows} - {"answered", "tested"}
    assert kept == {row.case for row in rows}
    assert _left(out)["b0"]["reason"] == "less like the target"
    assert json.loads((out / "curation.json").read_text())["target_left_out"] == 0
    (warning,) = json.loads((out / "curation.json").read_text())["warnings"]
    assert warning.startswith(f"no case of target {manifest.parent / 'target.csv'} has a split, so all 6 choose")
    assert f"WARNING: {warning}" in capsys.readouterr().out
    # what is measured on chooses nothing: the same images are taken with test images in the target set
    measured = [replace(row, split="test") for row in Manifest.read(manifest).rows if row.case[0] == "b"]
    Manifest.from_rows([*rows, *measured], manifest.parent).write(manifest.parent / "target.csv")
    assert _curate(manifest, tmp_path / "again", *weights, *more) == 0
    assert _left(tmp_path / "again") == _left(out)
    assert json.loads((tmp_path / "again" / "curation.json").read_text())["target_left_out"] == 6
    assert json.loads((tmp_path / "again" / "curation.json").read_text())["warnings"] == []
    Manifest.from_rows(measured, manifest.parent).write(manifest.parent / "target.csv")
    capsys.readouterr()
    assert _curate(manifest, tmp_path / "none", *weights, *more) == 2
    assert "has 6 case(s), all of split val or test" in capsys.readouterr().err


@pytest.mark.parametrize("answer", [{"class_name": "ill"}, {"label": "images/a0.png"}])
def test_a_labelled_target_needs_its_splits_before_it_chooses(tmp_path: Path, answer: dict, capsys):
    """prepare would draw val and test from it later, and they would have chosen what is learned from."""
    manifest, target = _pictures(tmp_path / "data"), tmp_path / "data" / "target.csv"
    (tmp_path / "encoder.safetensors").touch()
    more = ["--encoder", str(tmp_path / "encoder.safetensors"), "--target", str(target), "--coreset.budget", "6"]
    row = Row("t0", "t0", "images/a0.png", **answer)
    Manifest.from_rows([row, Row("t1", "t1", "images/a1.png")], tmp_path / "data").write(target)
    assert _curate(manifest, tmp_path / "out", *more) == 2
    told = capsys.readouterr().err
    assert f"target {target} has 1 labelled case(s) and no splits" in told
    assert "write train, val and test into its column split first" in told
    Manifest.from_rows([replace(row, split="train")], tmp_path / "data").write(target)
    _curate(manifest, tmp_path / "out", *more)
    assert "no splits" not in capsys.readouterr().err  # another mistake: the encoder is empty


def test_mistakes_are_told_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    manifest = _pictures(tmp_path / "data")
    (tmp_path / "out").mkdir()
    more = ["--slices", "4", "--likeness.rule", "embedding", "--coreset.budget", "3", "--target", "nowhere"]
    assert _curate(manifest, tmp_path / "out", *more) == 2
    told = capsys.readouterr().err
    for part in ("exists already", "slices must be 0, 1 or 2", "need --encoder", "nowhere does not exist"):
        assert part in told
    assert _curate(manifest, tmp_path / "new", "--slices", "0") == 2
    assert "is a 2D image, and no other is a volume: leave --slices out" in capsys.readouterr().err
    assert _curate(manifest, tmp_path / "new", "--likeness.threshold", "99", "--likeness.every", "0") == 2
    told = capsys.readouterr().err
    assert "must lie in [0, 64]" in told
    assert "likeness.every" in told
    for given, words in (
        (["--likeness.every", "2"], ["likeness.every is for likeness.rule every_n, and it is dhash"]),
        (
            ["--likeness.rule", "every_n", "--likeness.threshold", "0.5", "--encoder", str(manifest)],
            ["likeness.threshold does nothing with likeness.rule every_n", "encoder is for likeness.rule embedding"],
        ),
        (["--likeness.rule", "none", "--likeness.scope", "set"], ["likeness.scope does nothing with"]),
        (["--coreset.seed", "3", "--slices", "4"], ["coreset.seed do nothing without", "slices must be"]),
    ):  # fmt: skip
        assert _curate(manifest, tmp_path / "new", *given) == 2
        told = capsys.readouterr().err
        assert all(word in told for word in words)
        assert f"{len(words)} mistake(s)" in told
    rows = [row for row in Manifest.read(manifest).rows if row.case == "empty"]
    Manifest.from_rows(rows, manifest.parent).write(manifest)
    assert _curate(manifest, tmp_path / "new") == 2
    assert "nothing of 1 images would be left" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_radiograph_is_the_same_as_a_picture_and_in_dicom(tmp_path: Path):
    plane = _smooth(np.random.default_rng(3))[:, :18]
    Image.fromarray(plane.astype(np.uint8)).save(tmp_path / "a.png")
    bare = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "Modality": "DX"}
    write_series(tmp_path / "dicom", plane.astype(np.uint8).astype(np.int16)[None], **bare)
    rows = [Row("picture", "p", "a.png"), Row("dicom", "q", "dicom")]
    Manifest.from_rows(rows, tmp_path).write(tmp_path / "manifest.csv")
    rule = ("--likeness.scope", "set", "--likeness.rule", "dhash", "--likeness.threshold", "0")
    assert _curate(tmp_path / "manifest.csv", tmp_path / "out", *rule) == 0
    assert set(_left(tmp_path / "out")) == {"dicom"}


@pytest.mark.parametrize("codes", ["RAS", "LPS"])
def test_anterior_lies_on_top_whichever_way_a_volume_is_stored(tmp_path: Path, codes: str):
    array = np.zeros((1, 10, 12, 3), np.float32)
    array[:, :, 9:] = 100
    affine = np.eye(4)
    if codes == "LPS":
        array, affine = array[:, ::-1, ::-1], np.diag([-1.0, -1.0, 1.0, 1.0])
    write_nifti(Volume(array.copy(), Geometry(affine, array.shape[1:]), "CT"), tmp_path / "v.nii.gz")
    for name in ("v.nii.gz", "v.nii.gz#slice=2:1"):
        picture = curate_images.picture_of(curate_images.Image(0, Row("v", "p", name), "v", tmp_path))
        assert picture is not None
        assert picture[:3].min() > picture[3:].max()


def test_uneven_series_are_looked_at_where_that_is_asked_for_and_listed_slices_stay(tmp_path: Path):
    planes = np.stack([_smooth(np.random.default_rng(n)) for n in range(6)]).astype(np.int16)
    places = [(0.0, 0.0, 2.5 * k) for k in (0, 1, 2, 4, 5, 6)]
    write_series(tmp_path / "uneven", planes, positions=places)
    manifest = _volumes(tmp_path)
    rows = [*Manifest.read(manifest).rows, Row("uneven", "w", "uneven"), Row("one", "x", "u.nii.gz#slice=2:1")]
    Manifest.from_rows(rows, tmp_path).write(manifest)
    assert _curate(manifest, tmp_path / "out", "--slices", "2", "--likeness.rule", "none") == 0
    left = {name: row["reason"] for name, row in _left(tmp_path / "out").items()}
    assert left == {"uneven": "unreadable (missing-slice)"}
    asked = ("--slices", "2", "--likeness.rule", "none", "--resample_irregular", "true")
    assert _curate(manifest, tmp_path / "all", *asked) == 0
    kept = [row.case for row in Manifest.read(tmp_path / "all" / "manifest.csv").rows]
    assert len([case for case in kept if case.startswith("uneven_s")]) == 7
    assert "one" in kept
