"""`medssl embed`, `search`, `anomalies`: from a cache to nearest cases and candidates, and what they refuse."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_cache import small_cache
from small_encoder import small_encoder

from medssl.__main__ import main
from medssl.data.cache import Cache, write_case
from medssl.evaluation.embedding import Embedder
from medssl.evaluation.feature_files import decoded, part, read_features
from medssl.evaluation.options import EmbedOptions
from medssl.imaging.geometry import Geometry
from medssl.imaging.manifest import Manifest, Row
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti


def _embed(run: Path, data: Path, out: Path, *more: str) -> int:
    return main(["embed", str(run), "--data", str(data), "--out", str(out), *more])


def _pictures(folder: Path, count: int = 24) -> Path:
    """A cache of pictures of two kinds, stripes across and stripes down, of two sites."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(count):
        stripes = np.tile(100 + 80 * np.sin(np.arange(20) * (0.8 + 0.05 * rng.random())), (20, 1))
        array = (stripes if n % 2 else stripes.T) + rng.normal(0, 4, (20, 20))
        path = folder / "images" / f"i{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array.clip(0, 255).astype(np.uint8)).save(path)
        names = {"class_name": "down" if n % 2 else "across", "site": "x" if n < count // 2 else "y"}
        rows.append(Row(f"i{n}", f"p{n}", f"images/{path.name}", **names))
    Manifest.from_rows(rows, folder).write(folder / "manifest.csv")
    assert main(["prepare", str(folder / "manifest.csv"), "--out", str(folder / "cache"), "--config", "image_2d"]) == 0
    return folder / "cache"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `cache`, `run` and, of them, `features`."""
    folder = tmp_path_factory.mktemp("embed")
    _pictures(folder)
    run = small_encoder(folder / "run", provenance={"crop": [16, 16]})
    assert _embed(run, folder / "cache", folder / "features", "--shard=9", "--batch_size=4") == 0
    return folder


def test_every_case_gets_the_features_of_its_middle(made: Path):
    table = read_features([made / "features"])
    cache = Cache.open(made / "cache")
    assert table.columns["case"] == tuple(case.case for case in cache.cases)
    assert set(table.columns["site"]) == {"x", "y"}
    embedder = Embedder(made / "run" / "encoder.safetensors", cache.preprocess, cache.channels, EmbedOptions())
    case = cache.cases[10]
    crop = cache.image(case)[None, :, 2:18, 2:18]
    wanted = embedder.features([{None: crop[0]}], ["x"])[0]
    assert table.vectors[10] == pytest.approx(wanted, rel=1e-5)
    assert table.about["options"]["size"] == [16, 16]
    assert table.about["data_sha256"] == cache.data_sha256


def test_a_killed_run_goes_on_and_ends_the_same(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out, real, calls = tmp_path / "features", Embedder.features, []

    def killed(self, shown, names):
        calls.append(names)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, shown, names)

    more = ("--shard=9", "--batch_size=4")
    monkeypatch.setattr(Embedder, "features", killed)
    assert _embed(made / "run", made / "cache", out, *more) == 130
    assert sorted(p.name for p in out.iterdir()) == ["features.json", "part-00000.parquet"]
    first = part(out, 0).read_bytes()
    assert main(["search", str(out), "--query", "i0"]) == 2  # not finished
    assert _embed(made / "run", made / "cache", out, *more) == 0
    assert part(out, 0).read_bytes() == first
    assert len(calls) == 4 + 5
    assert np.array_equal(read_features([out]).vectors, read_features([made / "features"]).vectors)
    assert _embed(made / "run", made / "cache", out, *more, "--embed.pooling=peak") == 2


def test_a_case_and_an_image_file_find_what_is_like_them(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "found"
    image = tmp_path / "copy.png"
    shutil.copy(made / "images" / "i7.png", image)
    more = ["--top", "3", "--out", str(out), "--patients", "all"]
    assert main(["search", str(made / "features"), "--query", "i4", str(image), *more]) == 0
    said = capsys.readouterr().out
    assert f"search: the patient of {image} is not known" in said
    assert said.splitlines()[0].split() == ["query", "rank", "case", "patient", "split", "class", "site", "cosine"]
    with (out / "neighbours.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["rank"] for row in rows] == ["1", "2", "3"] * 2
    assert {row["class"] for row in rows[:3]} == {"across"}
    assert "i4" not in {row["case"] for row in rows[:3]}
    assert (rows[3]["case"], rows[3]["class"]) == ("i7", "down")
    assert float(rows[3]["cosine"]) > 0.999
    with Image.open(out / "neighbours.png") as sheet:
        assert len(np.unique(np.asarray(sheet))) > 20


@pytest.mark.parametrize("patients", ["others", "all"])
def test_the_file_of_a_case_is_that_case(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], patients: str):
    """It would find itself, and under `others` its own patient."""
    linked = tmp_path / "link.png"
    linked.symlink_to(made / "images" / "i7.png")
    answers = []
    for query in ("i7", str(linked)):
        assert main(["search", str(made / "features"), "--query", query, "--top", "3", "--patients", patients]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert "p7" not in answers[0].split()


def test_no_neighbour_is_told(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for count, patients in ((1, ["a"]), (2, ["a", "a"])):
        cache = small_cache(tmp_path / f"cache{count}", [(12, 12)] * count, patients=patients)
        out = tmp_path / f"features{count}"
        assert _embed(made / "run", cache.path, out) == 0
        assert main(["search", str(out), "--query", "c0"]) == (2 if count == 1 else 0)
    said = capsys.readouterr()
    assert "the features are of one image" in said.err
    assert "no image of another patient than that of c0: --patients all finds those of its own" in said.out


def test_a_folder_in_which_nothing_was_written_is_begun_anew(made: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert _embed(made / "run", made / "cache", out, "--embed.pooling=summary") == 2
    assert _embed(made / "run", made / "cache", out) == 0
    assert read_features([out]).about["options"]["pooling"] == "mean"


def test_candidates_are_listed_with_reasons_and_pictures(made: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    rows = Manifest.read(made / "manifest.csv").rows
    wrong = [Row(**{**row.__dict__, "class_name": "down"}) if row.case == "i8" else row for row in rows]
    Manifest.from_rows(wrong, made).write(made / "wrong.csv")
    assert main(["prepare", str(made / "wrong.csv"), "--out", str(cache), "--config", "image_2d"]) == 0
    assert _embed(made / "run", cache, tmp_path / "features") == 0
    assert main(["anomalies", str(tmp_path / "features"), "--out", str(tmp_path / "out"), "--neighbours", "5"]) == 0
    with (tmp_path / "out" / "candidates.csv").open(newline="") as stream:
        first = next(csv.DictReader(stream))
    assert (first["kind"], first["case"], first["class"], first["suggested"]) == ("mislabelled", "i8", "down", "across")
    assert "probe: across" in first["reason"]
    assert "neighbours: across" in first["reason"]
    with (tmp_path / "out" / "scores.csv").open(newline="") as stream:
        scores = {row["case"]: float(row["doubt"]) for row in csv.DictReader(stream)}
    assert max(scores, key=lambda case: scores[case]) == "i8"
    about = json.loads((tmp_path / "out" / "anomalies.json").read_text())
    assert about["judged"] == about["rows"] == 24
    for name in ("mislabelled.png", "outliers.png"):
        with Image.open(tmp_path / "out" / name) as sheet:
            assert sheet.size[0] > 500


@pytest.mark.parametrize("volumes", ["mean", "each"])
def test_slices_of_volumes_by_a_2d_encoder(tmp_path: Path, volumes: str, capsys: pytest.CaptureFixture[str]):
    cache = small_cache(tmp_path / "cache", [(10, 12, 6), (9, 9, 5), (10, 10, 1)], classes=("a", "b"))
    run = small_encoder(tmp_path / "run")
    more = (f"--embed.volumes={volumes}", "--embed.slices=3")
    assert _embed(run, cache.path, tmp_path / "out", *more) == 0
    table = read_features([tmp_path / "out"])
    slices = ["c0#0", "c0#2", "c0#5", "c1#0", "c1#2", "c1#4", "c2#0"]
    assert list(table.names) == (["c0", "c1", "c2"] if volumes == "mean" else slices)
    embedder = Embedder(run / "encoder.safetensors", cache.preprocess, cache.channels, EmbedOptions(volumes="each"))
    image = cache.image(cache.cases[0])[:, 1:9, 2:10]
    alone = embedder.features([{n: image[..., n]} for n in (0, 2, 5)], ["a"] * 3)
    wanted = alone.mean(0) if volumes == "mean" else alone[1]
    assert table.vectors[0 if volumes == "mean" else 1] == pytest.approx(wanted, rel=1e-4)
    query = "c1" if volumes == "mean" else "c1#2"
    assert main(["search", str(tmp_path / "out"), "--query", query, "--top", "9"]) == 0
    assert len(capsys.readouterr().out.splitlines()[-20:]) >= (3 if volumes == "mean" else 5)


def test_slices_lie_across_the_axis_of_the_pretraining(tmp_path: Path):
    cache = small_cache(tmp_path / "cache", [(5, 12, 10)] * 2)
    run = small_encoder(tmp_path / "run", provenance={"crop": [8, 8], "slice_axis": 0})
    for name, more, slices in (("own", (), 5), ("asked", ("--embed.slice_axis=2",), 10)):
        assert _embed(run, cache.path, tmp_path / name, "--embed.volumes=each", *more) == 0
        table = read_features([tmp_path / name])
        assert len(table) == 2 * slices
        assert table.about["options"]["slice_axis"] == (0 if name == "own" else 2)


def test_images_prepared_otherwise_are_told_and_the_warning_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cache = small_cache(tmp_path / "cache", [(12, 12)] * 3)
    other = {**cache.preprocess.to_json(), "spacing_mm": [9.0, 9.0]}
    run = small_encoder(tmp_path / "run", preprocess=other)
    assert _embed(run, cache.path, tmp_path / "out", "--shard=2") == 0
    said = "run was pretrained on images prepared otherwise (spacing_mm)"
    assert said in capsys.readouterr().out
    assert said in json.loads((tmp_path / "out" / "features.json").read_text())["warnings"][0]
    part(tmp_path / "out", 1).unlink()
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert _embed(moved, cache.path, tmp_path / "out", "--shard=2") == 0, "it goes on, whatever the folder is called"


def test_cases_that_could_not_be_prepared_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cache = small_cache(tmp_path / "cache", [(12, 12)] * 3)
    content = json.loads((cache.path / "cache.json").read_text())
    (cache.path / "cache.json").write_text(json.dumps({**content, "not_prepared": {"cut": "test", "hole": ""}}))
    assert _embed(small_encoder(tmp_path / "run"), cache.path, tmp_path / "out") == 0
    (warning,) = json.loads((tmp_path / "out" / "features.json").read_text())["warnings"]
    assert warning.startswith("2 case(s) could not be prepared and have no features (cut, hole)")
    assert warning in capsys.readouterr().out


def test_volumes_by_a_3d_encoder(tmp_path: Path):
    cache = small_cache(tmp_path / "cache", [(10, 12, 8)] * 3)
    run = small_encoder(tmp_path / "run", dims=3)
    assert _embed(run, cache.path, tmp_path / "out", "--embed.pooling=levels") == 0
    assert read_features([tmp_path / "out"]).vectors.shape == (3, 12)


def test_what_cannot_be_embedded_is_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    assert _embed(tmp_path, made / "cache", out, "--shard=0") == 2
    told = capsys.readouterr().err
    assert "is no encoder: name an encoder.safetensors" in told
    assert "shard must be 1 or more" in told
    deep = small_encoder(tmp_path / "deep", dims=3, channels=["x", "y"])
    assert _embed(deep, made / "cache", out) == 2
    told = capsys.readouterr().err
    assert "encoder of 3D images" in told
    assert "takes 2 channel(s)" in told
    assert _embed(made / "run", made / "cache", out, "--embed.pooling=summary") == 2
    assert "this encoder has mean, peak, levels" in capsys.readouterr().err
    (out / "features.json").unlink()
    broken = small_encoder(tmp_path / "broken", factor=float("nan"))
    assert _embed(broken, made / "cache", out) == 2
    assert "are no numbers (NaN), first 'i0'" in capsys.readouterr().err
    assert not list(out.glob("*.parquet"))
    assert _embed(made / "run", made / "cache", out) == 0
    assert _embed(made / "run", made / "cache", out, "--embed.pooling=levels") == 2
    assert "was begun otherwise (options of embed differ)" in capsys.readouterr().err


def test_one_image_that_is_no_number_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cache = small_cache(tmp_path / "cache", [(12, 12)] * 5)
    image = np.full((1, 12, 12), np.nan, np.float32)
    write_case(cache.path, cache.cases[3], image, None, {})
    assert _embed(small_encoder(tmp_path / "run"), cache.path, tmp_path / "out", "--shard=2") == 2
    told = capsys.readouterr().err
    assert "c3/image.b2nd" in told
    assert "voxels that are no numbers" in told
    assert sorted(p.name for p in (tmp_path / "out").glob("*.parquet")) == ["part-00000.parquet"]


def test_queries_that_cannot_be_answered_are_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    features, image = str(made / "features"), str(shutil.copy(made / "images" / "i7.png", tmp_path))
    assert main(["search", features, "--query", "i99", "nowhere.png", "--top", "2"]) == 2
    told = capsys.readouterr().err
    assert "'i99' is no case of these features and no file; did you mean 'i9'?" in told
    assert "'nowhere.png' is no case" in told
    other = small_encoder(tmp_path / "other", seed=1, provenance={"crop": [16, 16]})
    assert main(["search", features, "--query", image, "--encoder", str(other / "encoder.safetensors")]) == 2
    assert "cannot be compared: encoder differ" in capsys.readouterr().err
    (tmp_path / "text.png").write_text("no picture")
    assert main(["search", features, "--query", str(tmp_path / "text.png")]) == 2
    assert "text.png" in capsys.readouterr().err
    assert _embed(other, made / "cache", tmp_path / "features") == 0
    for verb, more in (("search", ["--query", "i1"]), ("anomalies", ["--out", str(tmp_path / "out")])):
        assert main([verb, features, str(tmp_path / "features"), *more]) == 2
        assert "cannot be compared: encoder differ" in capsys.readouterr().err
    assert main(["anomalies", features, "--out", str(tmp_path / "out"), "--folds=1", "--outlier=0", "--top=0"]) == 2
    told = capsys.readouterr().err
    assert all(f"{name} must be" in told for name in ("folds", "outlier", "top"))
    assert main(["feature-map", features, "--out", str(made), "--neighbours=1", "--min_dist=2"]) == 2
    told = capsys.readouterr().err
    assert all(text in told for text in ("exists already", "neighbours must be", "min_dist must lie"))


def test_options_for_slices_are_refused_where_none_are_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cache = small_cache(tmp_path / "cache", [(12, 12)] * 3)
    more = ("--embed.volumes=each", "--embed.slices=3", "--embed.slice_axis=0")
    assert _embed(small_encoder(tmp_path / "run"), cache.path, tmp_path / "out", *more) == 2
    told = capsys.readouterr().err
    assert all(f"embed.{name} is for a 2D encoder on volumes" in told for name in ("volumes", "slices", "slice_axis"))


def test_slices_that_were_prepared_lie_in_pictures_as_they_were_prepared(tmp_path: Path):
    """Rows and columns already: they are not turned a second time."""
    volume = np.zeros((1, 40, 60, 3), np.float32)
    volume[:, :, 45:] = 1000  # anterior, which viewers show on top
    volume += np.random.default_rng(0).normal(0, 10, volume.shape).astype(np.float32)
    write_nifti(Volume(volume, Geometry(np.eye(4), volume.shape[1:]), "CT"), tmp_path / "v.nii.gz")
    rows = [Row(f"s{k}", "p", f"v.nii.gz#slice=2:{k}", modality="CT") for k in range(3)]
    Manifest.from_rows(rows, tmp_path).write(tmp_path / "manifest.csv")
    cache = tmp_path / "cache"
    flat = ("--preprocess.spatial_dims", "2")
    assert main(["prepare", str(tmp_path / "manifest.csv"), "--out", str(cache), "--workers", "0", *flat]) == 0
    run = small_encoder(tmp_path / "run")
    assert _embed(run, cache, tmp_path / "out", "--embed.size=[48,32]") == 0
    picture = decoded(read_features([tmp_path / "out"]).pictures[0])
    assert picture.shape == (48, 32)
    assert picture[:8].mean() > 150
    assert picture[-20:].mean() < 80
