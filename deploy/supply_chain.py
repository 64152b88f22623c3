"""What medssl is shipped with: pins against known weaknesses, licences, and the size of an installation.

python deploy/supply_chain.py pins                 constraints.txt against the table below (part of `make lint`)
python deploy/supply_chain.py licences PREFIX      licences of everything installed in an environment
python deploy/supply_chain.py size PREFIX          megabytes of an environment, and of the image made from it

The table is kept by hand from public advisories, for machines without the internet; `make audit` asks the advisory
data base.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
ADVISORIES = (
    ("aiohttp", "3.13.3", "CVE-2025-69223: memory for small compressed requests"),
    ("certifi", "2024.7.4", "CVE-2024-39689: a withdrawn authority"),
    ("filelock", "3.20.1", "CVE-2025-68146: links followed between check and use"),
    ("fonttools", "4.60.2", "CVE-2025-66034: files written elsewhere"),
    ("h11", "0.16.0", "CVE-2025-43859: request smuggling"),
    ("idna", "3.7", "CVE-2024-3651: time quadratic in the input"),
    ("jinja2", "3.1.6", "CVE-2025-27516: sandbox left"),
    ("monai", "1.6.0", "GHSA-wg9g-w2j2-8pgr and three more, GHSA-9rg3-9pvr-6p27: code run from files, zip-slip"),
    ("pillow", "11.3.0", "CVE-2025-48379: memory overwritten while DDS is written"),
    ("protobuf", "6.31.1", "CVE-2025-4565: recursion without end"),
    ("pydicom", "3.0.2", "CVE-2026-32711: DICOMDIR leads out of its folder"),
    ("python-multipart", "0.0.18", "CVE-2024-53981: time for every byte after the last boundary"),
    ("requests", "2.32.4", "CVE-2024-47081: passwords of .netrc sent elsewhere"),
    ("scikit-learn", "1.5.0", "CVE-2024-5206: training text kept in a vectoriser"),
    ("setuptools", "78.1.1", "CVE-2025-47273: files written elsewhere"),
    ("starlette", "0.49.1", "CVE-2025-62727: time quadratic in the Range header"),
    ("torch", "2.6.0", "CVE-2025-32434: code run by torch.load with weights_only"),
    ("tqdm", "4.66.3", "CVE-2024-34062: code run from arguments"),
    ("urllib3", "2.6.0", "CVE-2025-66418, CVE-2025-66471: decompression without bound"),
    ("werkzeug", "3.0.6", "CVE-2024-49767: memory for form data"),
)
"""Package, first version without the weakness, and what it is."""
REQUIRED = ("pydicom", "monai")
"""Packages whose lower bound in pyproject.toml must leave the weak versions out, too: users install without pins."""

_REFUSED = re.compile(
    r"\bA?GPL|Affero|GNU General Public|NonCommercial|Non-Commercial|-NC\b|Proprietary|Commons Clause", re.I
)
_LESSER = re.compile(r"Lesser|LGPL", re.I)
_KNOWN = re.compile(
    r"MIT|BSD|Apache|ISC|MPL|Mozilla|Python Software|PSF|HPND|Unlicense|Zlib|ZPL|Zope|CC0|Public Domain|LGPL|Lesser",
    re.I,
)
_READ_BY_HAND = {"huey": "MIT", "peewee": "MIT"}
"""Packages whose metadata names no licence, with the licence of their repository."""
BASE_IMAGE_MB = 130
"""python:3.11-slim-bookworm unpacked: 75 MB of Debian, 55 MB of Python; from its published layers."""
TARGET_MB = 500


def version_key(text: str) -> tuple[int, ...]:
    """Release numbers of a version, for comparing."""
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+", 1)[0]))


def weak_pins(constraints: str, project: str) -> list[str]:
    """Sentences for every pin and lower bound that allows a version with a known weakness."""
    pins = {
        name.lower().replace("_", "-"): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", constraints, re.M)
    }
    problems = []
    for name, fixed, what in ADVISORIES:
        pinned = pins.get(name)
        if pinned and version_key(pinned) < version_key(fixed):
            problems.append(f"constraints.txt pins {name} {pinned}; {fixed} mends {what}")
        bounds = re.findall(rf'"{re.escape(name)}>=([\d.]+)', project)
        if name in REQUIRED and (not bounds or any(version_key(b) < version_key(fixed) for b in bounds)):
            problems.append(f"pyproject.toml must ask for {name}>={fixed}, which mends {what}")
        if name in REQUIRED and not pinned:
            problems.append(f"constraints.txt does not pin {name}")
    return problems


def licence(found: Distribution) -> str:
    """What the metadata of a package says of its licence, in one line."""
    meta = found.metadata
    classifiers = [
        c.split("::")[-1].strip()
        for c in meta.get_all("Classifier") or ()
        if c.startswith("License ::") and c.count("::") > 1
    ]
    text = (
        meta.get("License-Expression") or "; ".join(classifiers) or (meta.get("License") or "").strip().split("\n")[0]
    )
    return text[:120] or _READ_BY_HAND.get(meta["Name"].lower(), "")


def refused_licences(packages: Iterator[Distribution]) -> list[str]:
    """Sentences for every package that an Apache-2.0 project must not ship with, or whose licence nobody knows."""
    problems = []
    for found in packages:
        text = licence(found)
        alternatives = re.split(r"\bOR\b", text)  # one of several that may be chosen is enough
        bad = all(_REFUSED.search(part) and not _LESSER.search(part) for part in alternatives)
        if bad or not _KNOWN.search(text):
            problems.append(f"{found.metadata['Name']} {found.version}: licence {text or 'not stated'!r}")
    return problems


def installed(prefix: Path) -> list[Distribution]:
    """Packages of an environment."""
    folders = [str(path) for path in prefix.glob("lib/python*/site-packages")]
    return sorted(distributions(path=folders), key=lambda found: found.metadata["Name"].lower())


def sizes(prefix: Path) -> dict[str, float]:
    """Megabytes of each folder of an environment's packages, and of the rest, largest first."""
    packages = next(iter(prefix.glob("lib/python*/site-packages")))
    found = {path.name: _megabytes(path) for path in packages.iterdir()}
    left_out = ("pip", "setuptools", "pkg_resources", "_distutils_hack")  # as deploy/docker/Dockerfile
    kept = {name: size for name, size in found.items() if name.split("-")[0] not in left_out and name != "__pycache__"}
    return dict(sorted(kept.items(), key=lambda item: -item[1]))


def _megabytes(path: Path) -> float:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
    return sum(p.stat().st_size for p in files if p.suffix != ".pyc") / 1e6


def main(arguments: list[str]) -> int:
    """Run a check; returns the exit code."""
    what, *rest = arguments or ["pins"]
    if what == "size":
        parts = sizes(Path(rest[0]))
        lines = [f"{size:8.1f} MB  {name}" for name, size in list(parts.items())[:12]]
        total = sum(parts.values())
        lines += [f"{total:8.1f} MB  the environment without pip and compiled files"]
        lines += [
            f"{total + BASE_IMAGE_MB:8.1f} MB  the image, with {BASE_IMAGE_MB} MB below it; target {TARGET_MB} MB"
        ]
        sys.stdout.write("\n".join(lines) + "\n")
        return int(total + BASE_IMAGE_MB > TARGET_MB)
    if what == "licences":
        packages = installed(Path(rest[0]))
        problems = refused_licences(iter(packages))
        done = f"{len(packages)} packages, all of licences that Apache-2.0 may be shipped with\n"
    else:
        problems = weak_pins(
            (ROOT / "constraints.txt").read_text("utf-8"), (ROOT / "pyproject.toml").read_text("utf-8")
        )
        done = f"{len(ADVISORIES)} advisories, none holds for constraints.txt\n"
    sys.stdout.write("\n".join(problems) + "\n" if problems else done)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
