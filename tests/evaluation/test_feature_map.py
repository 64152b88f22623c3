"""The map of features: a page of its own, its pictures where they belong, and the same map from the same seed."""

import csv
import io
from base64 import b64encode
from pathlib import Path

import feature_tables
import numpy as np
import pytest
from browser import Browser
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from report_checks import check_page

from medssl.__main__ import main
from medssl.commands.feature_map import _agreements
from medssl.evaluation.report.embedding_map import coloured_figure, map_sections, thumbnail_map
from medssl.evaluation.report.figures import COLOURS
from medssl.evaluation.report.page import write_report


def test_the_page_says_how_alike_neighbours_are_and_needs_nothing_beside_it(tmp_path: Path, browser: Browser):
    table = feature_tables.table(np.eye(12), class_=["a", "b", "b", ""] * 3, site=["<x>"] * 6 + ["y"] * 6)
    places = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    sections = map_sections(table, places, {"class": 0.75, "site": 0.5}, thumbnail_map(places, table.pictures))
    assert sections[0].tables[0].rows == (("class", "2", "75%", "50%"), ("site", "2", "50%", "45%"))
    check_page(browser, write_report(tmp_path, sections, "Map of features"))
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "features of SimCLR encoder aaaaaaaaaaaa, pooling mean" in page
    assert "12 images of 12 patients" in page
    assert 'src="http' not in page


def test_rows_without_a_value_and_those_of_the_own_patient_count_nowhere():
    """Of rows with a site that others have, p finds its own in 2 of 3, q and s in 3 of 4, r in none."""
    vectors = np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1], [0.1, 1], [1, 0.05], [0.05, 1]])
    patients, sites = list("ppqrsuu"), ["a", "a", "a", "b", "b", "", ""]
    sites[4] = "a"
    table = feature_tables.table(vectors, patient=patients, site=sites)
    found = _agreements(table)
    assert list(found) == ["site"]
    assert found["site"] == pytest.approx((2 + 2 + 3 + 0 + 3) / (3 + 3 + 4 + 4 + 4))
    rows = map_sections(table, vectors.astype(np.float32), found, b"")[0].tables[0].rows
    chance = (2 / 3 + 2 / 3 + 3 / 4 + 0 + 3 / 4) / 5
    assert rows == (("site", "2", f"{found['site']:.0%}", f"{chance:.0%}"),)


def test_a_map_without_columns_has_its_pictures_alone():
    table = feature_tables.table(np.eye(12))
    sections = map_sections(table, np.eye(12, 2, dtype=np.float32), {}, b"")
    assert sections[0].tables == ()
    assert len(sections[1].pictures) == 1


def test_each_picture_lies_at_its_place_on_the_map():
    places = np.array([[0, 0], [10, 0], [10, 5]], np.float32)
    pictures = [feature_tables.picture(value) for value in (250, 120, 60)]
    with Image.open(io.BytesIO(thumbnail_map(places, pictures))) as sheet:
        shown = np.asarray(sheet)
    side = shown.shape[0]
    lower, left = slice(side // 2, None), slice(None, side // 2)
    dark = {name: int(part.min()) for name, part in {
        "lower left": shown[lower, left], "lower right": shown[lower, side // 2 :],
        "upper right": shown[: side // 2, side // 2 :], "upper left": shown[: side // 2, left],
    }.items()}  # fmt: skip
    assert dark["upper left"] == 255
    assert all(dark[name] < 60 for name in dark if name != "upper left")
    assert (shown < 250).sum(dtype=int) <= 3 * 12 * 12
    row, column = (int(n) for n in np.argwhere(shown < 255)[-1])
    assert row > 0.95 * side  # what is low on the map is low on the sheet
    assert column > 0.95 * side


def test_of_many_images_at_one_place_one_is_shown():
    places = np.concatenate([np.zeros((50, 2)), [[1, 1]]]).astype(np.float32)
    pictures = [feature_tables.picture(250)] * 51
    with Image.open(io.BytesIO(thumbnail_map(places, pictures))) as sheet:
        assert (np.asarray(sheet) < 250).sum() <= 2 * 12 * 12


def test_the_rarest_of_many_values_are_grey():
    values = [f"v{n % 9}" for n in range(90)] + ["v0"] * 9
    figure = coloured_figure(np.random.default_rng(0).normal(size=(99, 2)).astype(np.float32), values, "site")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "others, or not told"
    assert len(labels) == 1 + len(COLOURS)
    assert "v0" in labels


def test_too_few_images_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = feature_tables.folder(tmp_path / "f", np.eye(9))
    assert main(["feature-map", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "9 images are too few for a map" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_clumps_stay_together_and_the_same_seed_gives_the_same_map(tmp_path: Path):
    rng = np.random.default_rng(0)
    kinds = np.arange(60) % 3
    vectors = 8 * np.eye(3, 10)[kinds] + rng.normal(size=(60, 10))
    path = feature_tables.folder(tmp_path / "f", vectors, class_=[f"k{n}" for n in kinds])
    for name in ("one", "two"):
        assert main(["feature-map", str(path), "--out", str(tmp_path / name), "--neighbours", "8"]) == 0
    assert (tmp_path / "one" / "map.csv").read_bytes() == (tmp_path / "two" / "map.csv").read_bytes()
    with (tmp_path / "one" / "map.csv").open(newline="") as stream:
        places = np.array([[float(row["x"]), float(row["y"])] for row in csv.DictReader(stream)])
    distances = np.linalg.norm(places[:, None] - places, axis=-1) + 1e9 * np.eye(60)
    assert (kinds[distances.argmin(1)] == kinds).all()
    page = (tmp_path / "one" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert b64encode((tmp_path / "one" / "map.png").read_bytes()).decode() in page


def test_long_names_lie_within_the_picture_and_each_has_its_entry():
    names = ["GE MEDICAL SYSTEMS LightSpeed VCT", "SIEMENS SOMATOM Definition AS+", "Philips Brilliance 64", "_own", ""]
    figure = coloured_figure(np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32), names * 4, "scanner")
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert {text.get_text().strip() for text in legend.get_texts()} == {*names[:4], "others, or not told"}
