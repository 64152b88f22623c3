"""Feature files: what is written comes back, any Parquet reader can read it, and what does not fit is refused."""

import copy
import json
from pathlib import Path

import feature_tables
import numpy as np
import pyarrow.parquet as pq
import pytest

from medssl.evaluation.feature_files import claim, decoded, jpeg, part, read_features, require_same
from medssl.imaging.errors import MedsslError


def _vectors(count: int = 7, width: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


def test_what_is_written_comes_back_and_says_what_made_it(tmp_path: Path):
    vectors = _vectors()
    path = feature_tables.folder(tmp_path / "f", vectors, class_=["a", "b", "a", "b", "a", "b", "a"])
    found = read_features([path])
    assert np.array_equal(found.vectors, vectors)
    assert found.columns["class"] == ("a", "b", "a", "b", "a", "b", "a")
    assert found.names == tuple(f"c{n}" for n in range(7))
    assert decoded(found.pictures[0]).shape == (12, 12)
    plain = pq.read_table(part(path, 0))
    assert plain["case"].to_pylist() == ["c0", "c1", "c2", "c3"]
    assert plain["features"].to_pylist()[1] == pytest.approx(vectors[1])
    about = json.loads(plain.schema.metadata[b"medssl"])
    assert about["encoder"]["sha256"] == "a" * 64
    assert about["preprocess"] == feature_tables.ABOUT["preprocess"]
    assert about["options"]["pooling"] == "mean"
    assert {"medssl", "torch", "numpy", "pyarrow"} <= set(about["versions"])


def test_several_folders_are_one_table_and_slices_have_names_of_their_own(tmp_path: Path):
    first = feature_tables.folder(tmp_path / "a", _vectors(4), slice=["0", "3", "0", "1"], case=["v", "v", "w", "w"])
    second = feature_tables.folder(tmp_path / "b", _vectors(2), case=["x", "y"])
    found = read_features([first, second])
    assert found.names == ("v#0", "v#3", "w#0", "w#1", "x", "y")
    with pytest.raises(MedsslError, match="case 'v#0' is in two of these folders"):
        read_features([first, first])
    assert found.warnings == (), "one data set"


def test_patients_of_one_name_in_two_data_sets_are_told(tmp_path: Path):
    first = feature_tables.folder(tmp_path / "a", _vectors(4), patient=["1", "2", "3", "3"])
    second = feature_tables.folder(tmp_path / "b", _vectors(2), case=["x", "y"], patient=["3", "9"])
    for path in (second / "features.json",):
        path.write_text(path.read_text().replace("1" * 64, "2" * 64))
    (warning,) = read_features([first, second]).warnings
    assert warning.startswith("1 patient name(s) are in several of these data sets, first '3'")


@pytest.mark.parametrize(
    ("place", "value", "reason", "said"),
    [
        (("encoder", "sha256"), "b" * 64, "other-encoder", "encoder differ"),
        (("preprocess", "spacing_mm"), [2.0, 2.0], "other-preprocessing", r"spacing_mm: \[1.0, 1.0\] and \[2.0, 2.0\]"),
        (("options", "pooling"), "peak", "other-options", "pooling: mean and peak"),
        (("options", "size"), [9, 9], "other-options", "size"),
    ],
)
def test_features_made_otherwise_are_not_compared(
    tmp_path: Path, place: tuple[str, str], value: object, reason: str, said: str
):
    about = copy.deepcopy(feature_tables.ABOUT)
    about[place[0]][place[1]] = value
    first = feature_tables.folder(tmp_path / "a", _vectors(4))
    second = feature_tables.folder(tmp_path / "b", _vectors(4), about, case=["s", "t", "u", "v"])
    with pytest.raises(MedsslError, match=said) as caught:
        read_features([first, second])
    assert caught.value.reason == reason


def test_the_place_of_the_encoder_does_not_matter():
    moved = copy.deepcopy(feature_tables.ABOUT)
    moved["encoder"]["file"] = "/elsewhere.safetensors"
    require_same(feature_tables.ABOUT, moved, "a", "b")


def test_features_that_are_no_numbers_are_refused_by_name(tmp_path: Path):
    vectors = _vectors()
    vectors[5, 2], vectors[6, 0] = np.nan, np.inf
    with pytest.raises(MedsslError, match=r"2 case\(s\) are no numbers \(NaN\), first 'c5'"):
        read_features([feature_tables.folder(tmp_path / "f", vectors)])


def test_unfinished_damaged_and_foreign_folders_are_refused(tmp_path: Path):
    path = feature_tables.folder(tmp_path / "f", _vectors())
    whole = part(path, 1).read_bytes()
    part(path, 1).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MedsslError, match=r"part-00001.parquet is damaged .* remove it and run medssl embed again"):
        read_features([path])
    part(path, 1).unlink()
    with pytest.raises(MedsslError, match=r"is not finished: 1 of 2 files are missing, first part-00001\.parquet"):
        read_features([path])
    with pytest.raises(MedsslError, match="holds no features"):
        read_features([tmp_path])
    content = json.loads((path / "features.json").read_text())
    for text, said in (("{", "is damaged"), (json.dumps(content | {"schema_version": 99}), "update medssl")):
        (path / "features.json").write_text(text)
        with pytest.raises(MedsslError, match=said):
            read_features([path])


@pytest.mark.parametrize("damaged", ["features.json", "part"])
def test_a_description_that_lacks_something_is_damaged(tmp_path: Path, damaged: str):
    path = feature_tables.folder(tmp_path / "f", _vectors())
    content = json.loads((path / "features.json").read_text())
    for changes, said in (
        ({"encoder": None}, "encoder missing"),
        ({"encoder": {"file": "x"}, "channels": "x"}, "channels, encoder.sha256, encoder.method missing"),
        ({"options": {}, "parts": "2"}, "parts, options.size, options.pooling missing"),
    ):
        wrong = {**content, **changes}
        if damaged == "features.json":
            (path / "features.json").write_text(json.dumps(wrong))
        else:
            table = pq.read_table(part(path, 1)).replace_schema_metadata({b"medssl": json.dumps(wrong).encode()})
            pq.write_table(table, part(path, 1))
        with pytest.raises(MedsslError, match=said) as caught:
            read_features([path])
        assert caught.value.reason == "bad-features"
    if damaged == "features.json":
        with pytest.raises(MedsslError, match="is damaged"):
            claim(path, content)


def test_a_part_of_other_features_in_the_folder_is_refused(tmp_path: Path):
    about = copy.deepcopy(feature_tables.ABOUT)
    about["encoder"]["sha256"] = "b" * 64
    first, second = (feature_tables.folder(tmp_path / n, _vectors(), a) for n, a in (("a", None), ("b", about)))
    part(first, 1).write_bytes(part(second, 1).read_bytes())
    with pytest.raises(MedsslError, match=r"features.json and part-00001.parquet cannot be compared: encoder differ"):
        read_features([first])


def test_a_folder_is_claimed_once(tmp_path: Path):
    path = feature_tables.folder(tmp_path / "f", _vectors())
    content = json.loads((path / "features.json").read_text())
    claim(path, content | {"versions": {"medssl": "other"}, "cache": "/moved"})
    for changed, said in (({"cases": 8}, "cases differ"), ({"data_sha256": "2"}, "data_sha256 differ")):
        with pytest.raises(MedsslError, match=said):
            claim(path, content | changed)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(MedsslError, match="is not empty and holds no features"):
        claim(tmp_path / "full", content)


def test_a_picture_shows_the_first_channel_as_it_lies():
    image = np.zeros((2, 20, 10), np.float32)
    image[0, :5] = 1
    flat, of_volume = decoded(jpeg(image, False)), decoded(jpeg(image, True))
    assert flat.shape == (20, 10)
    assert of_volume.shape == (10, 20)
    assert flat[:4].min() > 200
    assert flat[8:].max() < 50
    assert of_volume[:, :4].min() > 200
