"""Property: whatever is done to the bytes of a valid file, reading it gives a volume or an error with a reason code.

Mutations know the structure: an element's value, length or representation, a header field, a line of a text header, an
option of a bundle; beside them bytes are changed, cut out and repeated. The seed is fixed, so that a failure repeats.
"""

import gzip
import json
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_dicom
import hostile_itk
import hostile_nifti
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medssl.imaging.errors import MedsslError
from medssl.imaging.readers.open import read_volume
from medssl.runtime.bundle import BundleSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
from tiny_bundle import write_bundle

_SETTINGS = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
_NUMBERS = st.sampled_from([0, 1, 2, 3, 7, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1])


def _read(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / name
        path.write_bytes(content)
        refused = None
        try:
            volume = read_volume(path)
        except MedsslError as error:
            refused = error
    if refused is None:
        assert volume.array.shape[1:] == volume.geometry.shape
    else:
        assert refused.reason not in ("", "error")
        assert refused.message


@st.composite
def _changed(draw: Callable[[Any], Any], base: bytes, head: int) -> bytes:
    """Bytes with a few changes, most of them in the header."""
    content = bytearray(base)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(head, len(content)) - 1))
        kind = draw(st.sampled_from(["byte", "number", "cut", "repeat", "end"]))
        if kind == "byte":
            content[at] = draw(st.integers(0, 255))
        elif kind == "number":
            value = struct.pack("<I", draw(_NUMBERS))[: draw(st.sampled_from([2, 4]))]
            content[at : at + len(value)] = value
        elif kind == "cut":
            del content[at : at + draw(st.integers(1, 64))]
        elif kind == "repeat":
            content[at:at] = content[at : at + draw(st.integers(1, 64))]
        else:
            del content[draw(st.integers(at, len(content))) :]
        if not content:
            return b"\0"
    return bytes(content)


_DICOM = hostile_dicom.encoded(hostile_dicom.plain())


@_SETTINGS
@given(_changed(_DICOM, len(_DICOM) - 240))
def test_changed_bytes_of_dicom(content: bytes):
    _read("a.dcm", content)


@_SETTINGS
@given(
    st.sampled_from(hostile_dicom.elements(_DICOM)),
    st.sampled_from(
        ["IS", "DS", "US", "SS", "UL", "FD", "FL", "LO", "UI", "PN", "AT", "DA", "TM", "AS", "OB", "SQ", "UN"]
    ),
    st.binary(max_size=24),
    st.booleans(),
)
def test_an_element_of_another_kind_or_value(where: tuple[int, int, int], kind: str, value: bytes, keep: bool):
    at, head, size = where
    old = _DICOM[at + head : at + head + size]
    content = value + bytes(len(value) % 2) if not keep else old
    tag = struct.unpack("<HH", _DICOM[at : at + 4])
    made = hostile_dicom.element((tag[0], tag[1]), kind, content)
    _read("a.dcm", _DICOM[:at] + made + _DICOM[at + head + size :])


@_SETTINGS
@given(_changed(bytes(hostile_nifti.plain()), 352), st.booleans())
def test_changed_bytes_of_nifti(content: bytes, packed: bool):
    _read("a.nii.gz" if packed else "a.nii", gzip.compress(content, 1) if packed else content)


@_SETTINGS
@given(st.integers(0, 86), st.sampled_from([float("nan"), float("inf"), -1.0, 0.0, 1e30, -352.0, 1e9]), st.booleans())
def test_a_number_of_the_nifti_header(place: int, value: float, whole: bool):
    content = hostile_nifti.plain()
    raw = struct.pack("<f", value)
    content[4 * place : 4 * place + 4] = struct.pack("<i", int(value)) if whole and abs(value) < 2**31 else raw
    _read("a.nii", bytes(content))


@pytest.mark.parametrize(("name", "base"), [("a.nrrd", hostile_itk.nrrd()), ("a.mha", hostile_itk.mha())])
@_SETTINGS
@given(data=st.data())
def test_changed_lines_of_text_headers(name: str, base: bytes, data: st.DataObject):
    lines = base[:-240].split(b"\n")
    at = data.draw(st.integers(0, len(lines) - 2))
    words = ["-1", "0", "nan", "1e99", "99999999999", "(1,2)", "none", "LIST", "../x", "raw gzip", "", "True"]
    field = lines[at].split(b":" if name == "a.nrrd" else b"=")[0]
    value = " ".join(data.draw(st.lists(st.sampled_from(words), min_size=1, max_size=3)))
    lines[at] = field + (b": " if name == "a.nrrd" else b"= ") + value.encode()
    _read(name, data.draw(_changed(b"\n".join(lines) + base[-240:], 200)))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@_SETTINGS
@given(data=st.data())
def test_options_of_a_bundle(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.getbasetemp() / "mutated-bundle"
    if not folder.exists():
        write_bundle(folder)
    content = json.loads((folder / "bundle.json").read_text())
    name = data.draw(st.sampled_from([*content, "another"]))
    content[name] = data.draw(_JSON)
    refused, spec = None, None
    try:
        spec = BundleSpec.from_json(content)
    except MedsslError as error:
        refused = error
    assert (spec and len(spec.window) in (2, 3)) or (refused and refused.reason in ("schema", "schema-version"))
