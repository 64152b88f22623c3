"""Pins, licences and sizes of what is shipped."""

import importlib.util
from email.message import Message
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def chain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("supply_chain", _ROOT / "deploy" / "supply_chain.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _shipped(name: str, extra: str, found: dict[str, Distribution]) -> dict[str, Distribution]:
    """A package and everything it brings in, as far as it is installed."""
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return found
    if package.metadata["Name"] not in found or extra:
        found[package.metadata["Name"]] = package
        for text in package.requires or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                for part in needed.extras or {""}:
                    _shipped(needed.name, part, found)
    return found


def test_no_pin_has_a_known_weakness(chain: ModuleType):
    assert chain.main(["pins"]) == 0


def test_weak_pins_and_bounds_are_told(chain: ModuleType):
    problems = chain.weak_pins("pydicom==3.0.1\nmonai==1.6.1\npillow==13.0.0\n", '"pydicom>=3.0", "monai>=1.6.0",')
    assert len(problems) == 2
    assert all("pydicom" in problem for problem in problems)
    assert chain.version_key("1.10.0") > chain.version_key("1.9.3")


def test_everything_that_comes_with_the_clinics_install_may_be_shipped(chain: ModuleType):
    shipped = {**_shipped("medssl", "", {}), **_shipped("medssl", "serve", {})}
    assert {"numpy", "pydicom", "onnxruntime"} <= set(shipped)
    assert chain.refused_licences(iter(shipped.values())) == []


class _Package(Distribution):
    """A package of which only the licence matters."""

    def __init__(self, expression: str) -> None:
        self._message = Message()
        self._message["Name"], self._message["Version"] = "x", "1"
        if expression:
            self._message["License-Expression"] = expression

    @property
    def metadata(self) -> Message:  # type: ignore[override]
        return self._message

    def read_text(self, filename: str) -> None:
        return None

    def locate_file(self, path: object) -> Path:
        return Path(str(path))


@pytest.mark.parametrize(
    ("expression", "fine"),
    [
        ("MIT", True),
        ("Apache-2.0", True),
        ("LGPL-3.0-only", True),
        ("MIT OR GPL-2.0-only", True),
        ("AGPL-3.0-only", False),
        ("GPL-3.0-or-later", False),
        ("CC-BY-NC-4.0", False),
        ("", False),
        ("Proprietary", False),
    ],
)
def test_licences_are_told_apart(chain: ModuleType, expression: str, fine: bool):
    assert (chain.refused_licences(iter([_Package(expression)])) == []) is fine


def test_sizes_leave_out_what_the_image_leaves_out(chain: ModuleType, tmp_path: Path):
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name, size in (
        ("numpy/a.so", 3_000_000),
        ("numpy/a.pyc", 9_000_000),
        ("pip/b.py", 5_000_000),
        ("x.py", 1_000_000),
    ):
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_bytes(bytes(size))
    assert chain.sizes(tmp_path) == {"numpy": 3.0, "x.py": 1.0}
    assert chain.main(["size", str(tmp_path)]) == 0
    (packages / "x.py").write_bytes(bytes(400_000_000))
    assert chain.main(["size", str(tmp_path)]) == 1
