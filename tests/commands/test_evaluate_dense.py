"""`medssl evaluate` of an encoder that is asked for places: landmarks, and structures from one patch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import Browser
from PIL import Image
from report_checks import check_page, check_results, read_csv
from small_cache import small_cache

from medssl.__main__ import main
from medssl.commands.evaluate_dense import _without_size
from medssl.commands.pretrain import pretrain
from medssl.data.augment_options import NO_AUGMENTATION, ViewAugment
from medssl.data.cache import Cache
from medssl.imaging.errors import CacheError
from medssl.models.component import Component
from medssl.models.networks import build_encoder
from medssl.models.weights import save_encoder
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import ViewOptions

_SPLITS = ("train",) * 3 + ("val",) * 2 + ("test",) * 3
_CNN = Component("medssl.models.unet.ResidualUNetEncoder", {"features": [4, 8, 8], "blocks": [0, 1, 1]})
_SAM = Component("medssl.methods.sam.SAM", {"width": 8, "fine": [50, 10, 50, 20], "coarse": [20, 4, 10, 5]})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return small_cache(tmp_path_factory.mktemp("cache"), [(18, 17, 16)] * 8, splits=_SPLITS, labelled=[True] * 8)


def _encoder(folder: Path, dims: int, factor: float = 1.0, network: Component = _CNN) -> Path:
    torch.manual_seed(0)
    described = Component(network.class_path, {**network.init_args, "spatial_dims": dims, "in_channels": 1})
    meta = {"channels": ["x"], "provenance": {"crop": [16] * dims}, "method": {"class_path": "a.b.SimCLR"}}
    weights = {name: value * factor for name, value in build_encoder(network, dims, 1).state_dict().items()}
    save_encoder(folder / "encoder.safetensors", weights, None, {"encoder": described.to_json(), **meta})
    return folder


def _evaluate(run: Path, cache: Cache, out: Path, *more: str) -> dict[str, Any]:
    quick = ["--frozen.random_seeds=2", "--measure.resamples=100"]
    assert main(["evaluate", str(run), "--data", str(cache.path), "--out", str(out), *quick, *more]) == 0
    assert 'src="http' not in (out / "report.html").read_text()
    return check_results(out / "results.json")


@pytest.mark.integration
def test_landmarks_by_a_run_of_sam_and_by_a_plain_encoder(
    cache: Cache, tmp_path: Path, browser: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    dims = cache.spatial_dims
    views = ViewOptions((16,) * dims, augment=ViewAugment(**NO_AUGMENTATION))
    pretrain(cache.path, tmp_path / "sam", _SAM, _CNN, views, TrainOptions(steps=1, batch_size=2, accelerator="cpu"))
    plain, asked = _encoder(tmp_path / "plain", dims), "--frozen.target=landmarks"
    found = _evaluate(tmp_path / "sam", cache, tmp_path / "out", asked, f"--baseline={plain}", "--frozen.templates=2")
    assert list(found["arms"]) == ["sam", "plain", "random weights", "same relative place"]
    assert (found["landmarks"], found["templates"], found["cases"]) == (["box", "corner"], ["c0", "c1"], 3)
    searches = {arm: content["searches"] for arm, content in found["arms"].items()}
    assert {arm: len(content["each"]) for arm, content in found["arms"].items()}["random weights"] == 2
    assert found["arms"]["sam"]["each"] == [found["arms"]["sam"]["median_mm"]["estimate"]]
    assert searches == {"sam": 12, "plain": 12, "random weights": 24, "same relative place": 12}
    assert found["arms"]["same relative place"]["median_mm"]["estimate"] == pytest.approx(0, abs=1e-6)
    own = found["arms"]["sam"]["median_mm"]["estimate"]
    assert found["differences"]["same relative place"]["estimate"] == pytest.approx(own)
    assert found["comparisons"] == len(found["differences"]) == 3
    assert {one["verdict"] for one in found["differences"].values()} == {"no difference shown"}, "of three patients"
    assert found["warnings"][0].startswith("3 of 3 comparisons cannot show a difference")
    assert capsys.readouterr().out.count("sam reaches a median error in mm of") == 3
    check_page(browser, tmp_path / "out" / "report.html")
    table = tmp_path / "points.csv"
    rows = [f"{case},tip,{x},4,3" for case, x in (("c1", 5), ("c5", 5), ("c6", 9))]
    table.write_text("\n".join(["case,name,x,y,z", *rows]) + "\n")
    found = _evaluate(plain, cache, tmp_path / "table", asked, f"--frozen.landmarks={table}")
    assert (found["templates"], found["cases"], found["landmarks"]) == (["c1"], 2, ["tip"])
    assert found["arms"]["same relative place"]["mean_mm"]["estimate"] == pytest.approx(2)
    assert found["warnings"][0].startswith("1 of 3 cases of split test have no landmark that is looked for")


@pytest.mark.integration
def test_structures_from_one_patch(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _encoder(tmp_path / "run", cache.spatial_dims)
    found = _evaluate(run, cache, tmp_path / "out", "--frozen.target=prompt")
    assert list(found["arms"]) == ["run", "random weights"]
    arm = found["arms"]["run"]
    assert list(arm["structures"]) == ["box"]
    assert (arm["prompts"], arm["too_small"]) == (3, 3)
    assert arm["oracle"]["estimate"] >= arm["dice"]["estimate"]
    untrained = found["arms"]["random weights"]
    assert untrained["encoders"] == len(untrained["each"]) == 2
    assert sum(untrained["each"]) / 2 == pytest.approx(untrained["dice"]["estimate"])
    assert "reaches a Dice of" in capsys.readouterr().out
    numbers = {row["number"]: row["estimate"] for row in read_csv(tmp_path / "out" / "results.csv")}
    assert float(numbers["arms.run.dice"]) == arm["dice"]["estimate"]
    p_values = {row["number"]: row["p_value_corrected"] for row in read_csv(tmp_path / "out" / "results.csv")}
    assert float(p_values["differences.random weights"]) == found["differences"]["random weights"]["p_value_corrected"]
    assert "p corrected" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.integration
def test_cases_without_a_label_map_are_told_of_both_splits(tmp_path: Path) -> None:
    labelled = [split == "train" or number % 2 == 0 for number, split in enumerate(_SPLITS)]
    some = small_cache(tmp_path / "cache", [(18, 17)] * 8, splits=_SPLITS, labelled=labelled)
    found = _evaluate(_encoder(tmp_path / "run", 2), some, tmp_path / "out", "--frozen.target=prompt")
    for split, named in (("val", "1 of 2 cases of split val"), ("test", "2 of 3 cases of split test")):
        (told,) = [text for text in found["warnings"] if f"{named} have no label map and are in no number" in text]
        assert told in (tmp_path / "out" / "report.html").read_text(), split


@pytest.mark.integration
def test_encoders_with_other_strides_are_asked_for_the_same_structures(cache: Cache, tmp_path: Path) -> None:
    dims = cache.spatial_dims
    fine = Component(_CNN.class_path, {"features": [4], "blocks": [0]})
    run, baseline = _encoder(tmp_path / "fine", dims, network=fine), _encoder(tmp_path / "coarse", dims)
    found = _evaluate(run, cache, tmp_path / "out", "--frozen.target=prompt", f"--baseline={baseline}")
    assert {(arm["prompts"], arm["too_small"]) for arm in found["arms"].values()} == {(3, 3)}
    assert set(found["differences"]) == {"coarse", "random weights"}


def test_what_cannot_be_measured_is_told(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dims, out = cache.spatial_dims, tmp_path / "out"
    run = _encoder(tmp_path / "run", dims)
    broken = _encoder(tmp_path / "broken", dims, factor=float("nan"))
    unlabelled = small_cache(tmp_path / "bare", [(18, 17, 16)[:dims]] * 8, splits=_SPLITS)
    picture = tmp_path / "map.png"
    Image.new("L", (4, 4)).save(picture)
    for encoder, data, more, words in (
        (broken, cache, ["--frozen.target=landmarks"], "no numbers"),
        (broken, cache, ["--frozen.target=prompt"], "no numbers"),
        (run, unlabelled, ["--frozen.target=landmarks"], "no case of split train has a landmark"),
        (run, unlabelled, ["--frozen.target=prompt"], "has a label map"),
        (run, cache, ["--frozen.landmarks=x.csv"], "needs target landmarks"),
        (run, cache, ["--frozen.target=landmarks", "--frozen.landmarks=x.csv"], "cannot be read"),
        (run, cache, ["--frozen.target=prompt", "--frozen.size=[1]"], "frozen.size"),
        (run, cache, ["--frozen.target=prompt", f"--feature_map={picture}"], "a report of prompt shows no feature_map"),
    ):  # fmt: skip
        code = main(["evaluate", str(encoder), "--data", str(data.path), "--out", str(out), *more])
        told = capsys.readouterr().err
        assert code == 2, words
        assert words in told
        assert "Traceback" not in told
    assert not out.exists()


def test_distances_are_in_mm_only_where_images_say_how_large_a_pixel_is(cache: Cache) -> None:
    known = cache.cases[-3:]
    unknown = [replace(case, calibrated=False) for case in known]
    assert _without_size(known) == []
    (told,) = _without_size(unknown)
    assert told.startswith("No image says how large a pixel is: every distance is in pixels")
    with pytest.raises(
        CacheError, match=r"2 of 3 images with landmarks do not say how large a pixel is \(the first: c5"
    ):
        _without_size([*unknown[:2], known[2]])
