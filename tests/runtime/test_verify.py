"""`verify` as a hospital runs it: the table, the exit code, the protocol; each check fails alone."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from complete_bundle import complete_bundle, rewrite
from tiny_bundle import write_bundle

from medssl.__main__ import main
from medssl.imaging.files import write_json
from medssl.runtime.bundle import NO_INTENDED_USE, Bundle, write_sums
from medssl.runtime.checks import CARD_SECTIONS, Verification, verify_bundle
from medssl.runtime.protocol import refusals, write_protocol
from medssl.runtime.results import FORMATS, MASK_FORMATS


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return complete_bundle(tmp_path / "bundle")


def _statuses(folder: Path, public: Path | None = None) -> dict[str, str]:
    return {check.name: check.status for check in verify_bundle(folder, public).checks}


def _no_licence(folder: Path) -> None:
    rewrite(folder, licence=" ")


def _newer(folder: Path) -> None:
    content = json.loads((folder / "bundle.json").read_text())
    write_json(folder / "bundle.json", {**content, "schema_version": content["schema_version"] + 1})
    write_sums(folder)


def _card_without_limits(folder: Path) -> None:
    text = (folder / "MODEL_CARD.md").read_text()
    (folder / "MODEL_CARD.md").write_text(text[: text.index("## Limits")] + "## Limits\n")
    write_sums(folder)


def _other_golden(folder: Path) -> None:
    other = write_bundle(folder.parent / "shifted", golden_shift=1.0)
    shutil.copy(other / "golden.npz", folder / "golden.npz")
    write_sums(folder)


def _altered(folder: Path) -> None:
    (folder / "MODEL_CARD.md").write_text("# other\n")


def test_a_good_bundle_passes_and_says_what_was_not_checked(bundle: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["verify", str(bundle)]) == 0
    lines = capsys.readouterr().out
    assert "not signed" in lines
    assert "nobody measured it" in lines
    assert lines.rstrip().endswith("for research only.")


@pytest.mark.parametrize(
    ("spoil", "failed", "left"),
    [
        (_no_licence, "licence", ()),
        (_card_without_limits, "model card", ()),
        (_other_golden, "golden case", ()),
        (_newer, "schema", ("signature", "golden case", "licence", "model card")),
        (_altered, "files and hashes", ("schema", "signature", "golden case", "licence", "model card")),
    ],
)
def test_each_fault_fails_its_own_check_and_no_other(
    bundle: Path, spoil: Callable[[Path], None], failed: str, left: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    spoil(bundle)
    found = _statuses(bundle)
    assert [name for name, status in found.items() if status == "failed"] == [failed]
    assert tuple(name for name, status in found.items() if status == "not done") == left
    assert main(["verify", str(bundle)]) == 2
    assert f"do not use this bundle: {failed}" in capsys.readouterr().err


def test_the_sections_looked_for_are_those_that_export_writes(bundle: Path):
    titles = re.findall(r"^## (.+)$", (bundle / "MODEL_CARD.md").read_text(), flags=re.MULTILINE)
    assert set(CARD_SECTIONS) == set(titles)


def test_a_use_that_nobody_named_is_told(bundle: Path):
    assert "intended use" not in _statuses(bundle)
    rewrite(bundle, intended_use=NO_INTENDED_USE)
    found = _statuses(bundle)
    assert found["intended use"] == "told"
    assert "failed" not in found.values()


def test_the_protocol_holds_versions_hashes_checks_and_tried_refusals(bundle: Path, tmp_path: Path):
    protocol, table = tmp_path / "protocol.md", tmp_path / "checks.json"
    assert main(["verify", str(bundle), "--checklist", str(protocol), "--json", str(table)]) == 0
    text = protocol.read_text()
    assert Bundle.open(bundle).sha256 in text
    for part in ("| onnxruntime |", "| golden case | ok |", "| licence | CC-BY 4.0 |", "## 3. Performance"):
        assert part in text
    assert text.count("refused with reason `") == 7
    assert "failed" not in text
    content = json.loads(table.read_text())
    assert content["passed"] is True
    assert content["golden"]["largest_difference"] < 1e-3
    assert main(["verify", str(bundle), "--json", str(table)]) == 2, "nothing is overwritten unasked"


@pytest.mark.parametrize(("task", "named"), [("segmentation", True), ("classification", False)])
def test_the_command_of_the_protocol_asks_for_what_the_bundle_can_give(bundle: Path, task: str, named: bool):
    whole = Bundle.open(bundle)
    text = write_protocol(Verification(replace(whole, spec=replace(whole.spec, task=task))), [])
    (formats,) = re.findall(r"predict BUNDLE CASES --out RESULTS --format (\S+)`", text)
    assert ("dicom-seg" in formats.split(",")) is named
    assert set(formats.split(",")) <= set(FORMATS) - (set() if named else MASK_FORMATS | {"nifti"})


def test_what_is_not_refused_is_a_failure(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    assert {check.status for check in refusals(Bundle.open(bundle))} == {"ok"}
    monkeypatch.setattr("medssl.runtime.bundle.check_hashes", lambda _: None)
    assert [check.status for check in refusals(Bundle.open(bundle))] == ["failed", *["ok"] * 6]


def test_a_bundle_that_does_not_say_its_modality_is_told_by_the_protocol_to_refuse_none(bundle: Path):
    rewrite(bundle, modalities=())
    *others, last = refusals(Bundle.open(bundle))
    assert {check.status for check in others} == {"ok"}
    assert (last.name, last.status) == ("a DICOM image of another modality", "told")


def test_a_place_that_cannot_be_written_is_told_before_anything_is_computed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr("medssl.runtime.checks.verify_bundle", lambda *_: pytest.fail("this was computed"))
    for option in ("--json", "--checklist"):
        assert main(["verify", str(bundle), option, str(tmp_path / "file" / "x"), "--overwrite"]) == 2
        assert f"{tmp_path / 'file'}: nothing can be written there" in capsys.readouterr().err
    assert not list(tmp_path.glob("**/.partial*"))


def test_a_bundle_that_is_not_there_is_an_error_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["verify", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err
