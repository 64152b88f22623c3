from pathlib import Path

import pytest

from medssl.imaging.errors import ManifestError
from medssl.imaging.manifest import Manifest, Row

_HEAD = "case,patient,image,label,class,modality,split,site,sex,age,licence\n"


def _read(tmp_path: Path, text: str) -> Manifest:
    for name in ("a.nii", "b.nii"):
        (tmp_path / name).touch()
    path = tmp_path / "m.csv"
    path.write_text(text, encoding="utf-8")
    return Manifest.read(path)


def test_round_trip(tmp_path: Path):
    (tmp_path / "a.nii").touch()
    row = Row("A", "p1", "a.nii", class_name="benign, small", split="train", age="40")
    Manifest.from_rows([row], tmp_path).write(tmp_path / "m.csv")
    read = Manifest.read(tmp_path / "m.csv")
    assert read.rows == (row,)
    assert len(read.sha256) == 64


@pytest.mark.parametrize("change", ["\ufeff{}", "{}\n\n", "{}"])
def test_what_spreadsheets_do_to_files(tmp_path: Path, change: str):
    text = change.format(_HEAD + "A,p1,a.nii,,,,,,,,\n")
    assert _read(tmp_path, text.replace("\n", "\r\n")).rows[0].image == "a.nii"
    assert _read(tmp_path, text.replace(",", ";")).rows[0].image == "a.nii"


def test_all_mistakes_are_told_with_their_lines(tmp_path: Path):
    lines = [
        "A,p1,a.nii,,,,train,,,,",
        "A,p2,b.nii,,,,train,,,,",  # twice
        "B,p1,b.nii,,,,test,,,,",  # one patient in two splits
        "C,p3,absent.nii,,,,,,,,",
        "D,p4,a.nii,lost.nii,,,holdout,,,,",
        "e/f,,a.nii,,,,,,,,",
    ]
    with pytest.raises(ManifestError) as error:
        _read(tmp_path, _HEAD + "\n".join(lines))
    message = error.value.message
    for part in (
        "line 3: case 'A' is already on line 2",
        "patient 'p1' is in several splits: train (line 2), test (line 4)",
        "line 5: image 'absent.nii' does not exist",
        "line 6: label 'lost.nii' does not exist",
        "line 6: split 'holdout'",
        "line 7: patient is empty",
        "line 7: case 'e/f' cannot be a folder name",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("case,image\nA,a.nii\n", "lacks the column"),
        (_HEAD, "has no cases"),
        ("", "is empty"),
        (_HEAD.replace("split", "splits") + "A,p,a.nii,,,,,,,,\n", "'splits' is unknown; rename it to 'split'"),
        (_HEAD.replace("site", "case") + "A,p,a.nii,,,,,,,,\n", "'case' is there twice"),
        (_HEAD + "A,p,a.nii,,,,,,,,,more\n", "line 2: 12 fields for 11 columns"),
        (_HEAD + 'A,p,a.nii,,,,,,,,\n"' + "x" * 200_000, "line 3: no CSV"),
        (_HEAD.replace(",", ";") + "A;p;a.nii;b.nii;;;;;;;;x\n", "channels joined by ; between quotes"),
    ],
)
def test_unusable_files(tmp_path: Path, text: str, part: str):
    with pytest.raises(ManifestError, match=part):
        _read(tmp_path, text)


def test_own_columns_any_case_and_channels_in_a_semicolon_file(tmp_path: Path):
    text = 'Case;Patient;Image;Scanner\nA;p;"a.nii;b.nii";Vendor\nB;p;a.nii\n'
    rows = _read(tmp_path, text).rows
    assert [(row.case, row.image, row.label) for row in rows] == [("A", "a.nii;b.nii", ""), ("B", "a.nii", "")]


def test_ages_that_cannot_be_read_are_told_with_their_lines_and_stop_nothing(tmp_path: Path):
    ages = ["063Y", "63 y", "018M", '"63,5"', "", "63F", "n/a"]
    text = _HEAD + "".join(f"C{n},p{n},a.nii,,,,,,,{age},\n" for n, age in enumerate(ages))
    read = _read(tmp_path, text)
    assert [row.age for row in read.rows][3:6] == ["63,5", "", "63F"]
    (note,) = read.notes
    first, *lines = note.split("\n")
    assert first.startswith(f"2 age(s) in {tmp_path / 'm.csv'} cannot be read and count as not told: write years (63)")
    assert lines == ["  - line 7: age '63F' of case 'C5'", "  - line 8: age 'n/a' of case 'C6'"]
    assert _read(tmp_path, _HEAD + "A,p,a.nii,,,,,,,40,\n").notes == ()
    many = _read(tmp_path, _HEAD + "".join(f"C{n},p{n},a.nii,,,,,,,old,\n" for n in range(52))).notes[0]
    assert many.endswith("line 51: age 'old' of case 'C49'\n  ... and 2 more")


def test_missing_and_binary_manifest(tmp_path: Path):
    with pytest.raises(ManifestError, match="does not exist"):
        Manifest.read(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ManifestError, match="UTF-8"):
        Manifest.read(tmp_path / "b.csv")
