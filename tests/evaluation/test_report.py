"""Report pages: whole, safe, and with every section that a stage can fill."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medssl.evaluation.report.application import write_application_report
from medssl.evaluation.report.figures import blank, curve_figure, interval_figure
from medssl.evaluation.report.page import Section, Table, figure_picture, file_picture, write_report
from medssl.evaluation.report.results import interval_text
from medssl.evaluation.report.sections import (
    bundle_section,
    loss_curve_section,
    overlay_section,
    reconstruction_section,
)
from medssl.imaging.errors import CheckpointError, ImageError, MedsslError


def _png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(path)
    return path


def _log(run: Path, steps: int = 60) -> Path:
    run.mkdir(parents=True)
    rows = [{"step": n + 1, "loss": 2.0 / (n + 1), "steps_per_s": 4.0} for n in range(steps)]
    rows += [{"step": 1, "val/dice": 0.5, "val/once": 0.1}, {"step": steps, "val/dice": 0.7, "val/broken": None}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


class _Balanced(HTMLParser):
    """Collects tags that are opened and not closed, and addresses that lead outside the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "link", "wbr"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and not (value or "").startswith(("data:", "#")):
                self.outside.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_needs_nothing_beside_it_and_escapes_what_it_shows(tmp_path: Path) -> None:
    figure, axes = blank()
    axes.plot([1, 2], [1, 2])
    picture = figure_picture(figure, 'a "curve" <b>')
    table = Table(("name", "value"), (("a", "1"), ("a", "2"), ("b_c", "<script>alert(1)</script>")), "caption & more")
    section = Section("One", ("text < text",), (table,), (picture,), ("careful",), ("note",))
    path = write_report(tmp_path, [section, Section("Two"), Section("Three")], "Title", "sub")
    page = path.read_text()
    parser = _Balanced()
    parser.feed(page)
    assert parser.open == []
    assert parser.outside == []
    assert "<script>" not in page
    assert '<th scope="row">b_<wbr>c</th>' in page
    assert 'name="viewport"' in page
    assert 'alt="a &#34;curve&#34; &lt;b&gt;"' in page
    assert page.count('class="rule"') == 1
    found = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert [base64.b64decode(content) for content in found] == [picture.png]
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_loss_curves_of_two_runs(tmp_path: Path) -> None:
    runs = {"ours": _log(tmp_path / "a"), "scratch": _log(tmp_path / "b", 5), "none": tmp_path / "c"}
    section = loss_curve_section(runs)
    assert [p.caption for p in section.pictures] == [
        "loss over the training steps: ours, scratch.",
        "val/dice over the training steps: ours, scratch.",
    ]
    assert section.tables[0].rows[0] == ("ours", "60", "0.03333", "4")
    assert section.tables[1].header == ("last value", "ours", "scratch", "none")
    assert section.tables[1].rows == (
        ("val/broken", "–", "–", "–"),
        ("val/dice", "0.7", "0.7", "–"),
        ("val/once", "0.1", "0.1", "–"),
    )
    assert section.tables[0].rows[2] == ("none", "–", "–", "–")
    assert len(section.warnings) == 1
    (tmp_path / "a" / "metrics.jsonl").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        loss_curve_section(tmp_path / "a")


def test_smoothing_keeps_a_constant_and_the_axis_is_named() -> None:
    figure = curve_figure({"flat": (list(range(100)), [3.0] * 100)}, "loss", logarithmic=True)
    lines = figure.axes[0].get_lines()
    assert len(lines) == 2
    np.testing.assert_allclose(lines[1].get_ydata(), 3.0)
    assert figure.axes[0].get_yscale() == "linear"
    assert curve_figure({"wide": ([1, 2], [1.0, 0.01])}, "loss", logarithmic=True).axes[0].get_yscale() == "log"


def test_interval_figure_draws_what_it_is_given() -> None:
    rows = [("a", "x", {"estimate": 0.5, "low": 0.4, "high": 0.7}), ("a", "y", {"estimate": None, "low": None})]
    lines = interval_figure(rows, "Dice").axes[0].get_lines()
    assert list(lines[0].get_xdata()) == [0.4, 0.7]
    assert list(lines[1].get_xdata()) == [0.5]
    assert len(lines) == 2


def test_interval_text() -> None:
    assert interval_text({"estimate": 0.87123, "low": 0.85, "high": 0.889}) == "0.871 (0.850\u00a0to\u00a00.889)"
    assert interval_text({"estimate": 0.02, "low": None, "high": None}, signed=True) == "+0.020"
    assert interval_text({"estimate": None, "low": None, "high": None}) == "–"


def test_first_and_last_reconstruction_by_number(tmp_path: Path) -> None:
    for step in (50, 900, 1000):
        _png(tmp_path / "health" / f"step-{step:07d}.png")
    section = reconstruction_section(tmp_path)
    assert [p.caption for p in section.pictures] == ["After 50 steps.", "After 1000 steps."]
    assert reconstruction_section(tmp_path / "none").warnings


def test_only_png_files_are_shown(tmp_path: Path) -> None:
    section = overlay_section([(_png(tmp_path / "a.png"), "A.")])
    assert section.pictures[0].png == (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(ImageError, match="no PNG"):
        file_picture(tmp_path / "b.png", "")


def _bundle(folder: Path) -> Path:
    folder.mkdir()
    parity = {"max_logit_difference": {"batch_1": 1.25e-6}, "min_dice": 1.0, "differing_voxels": [0, 100]}
    (folder / "bundle.json").write_text(json.dumps({"window": [8, 8], "parity": parity}))
    return folder


def test_bundle_section_shows_parity_and_timing(tmp_path: Path) -> None:
    report = tmp_path / "predictions" / "case1" / "report.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"timing": {"prepare_s": 0.5, "network_s": 1.25}}))
    section = bundle_section(_bundle(tmp_path / "bundle"), tmp_path / "predictions")
    rows = dict(section.tables[0].rows)
    assert rows["largest difference of a logit, batch 1"] == "1.25e-06"
    assert rows["voxels that differ, of how many"] == "0, 100"
    assert rows["window"] == "8 × 8"
    assert section.tables[1].header == ("predicted case", "prepare s", "network s")
    assert section.tables[1].rows == (("case1", "0.50", "1.25"),)


def test_application_report_shows_the_stages_that_ran(tmp_path: Path) -> None:
    with pytest.raises(MedsslError, match="nothing to report"):
        write_application_report(tmp_path, "demo", "Demo")
    _log(tmp_path / "pretrain")
    _png(tmp_path / "pretrain" / "health" / "step-0000010.png")
    _log(tmp_path / "finetune")
    _log(tmp_path / "baseline")
    _bundle(tmp_path / "bundle")
    _png(tmp_path / "predictions" / "case1" / "overlay.png")
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort" / "README.json").write_text(json.dumps({"what": "SYNTHETIC virtual patients"}))
    page = write_application_report(tmp_path, "demo", "Demo of the line").read_text()
    for due in (
        "Demo of the line", "SYNTHETIC virtual patients", "Pretraining without labels", "Reconstructions",
        "Fine-tuning with labels", "finetune, baseline", "Bundle", "Predictions of the bundle",
    ):  # fmt: skip
        assert due in page
