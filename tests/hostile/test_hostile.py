"""Hostile inputs are refused with a reason code, or read where they are harmless: no crash, hang, trace or flood."""

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hostile_archives
import hostile_bundles
import hostile_dicom
import hostile_itk
import hostile_nifti
import hostile_pixels
import hostile_raster
import pytest
from hostile_clock import Clock
from hostile_families import FAMILIES, Family

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
from tiny_bundle import write_bundle

from medssl.imaging.errors import BundleError
from medssl.runtime.bundle_guard import check_graph

_MODULES = (
    hostile_archives,
    hostile_bundles,
    hostile_dicom,
    hostile_itk,
    hostile_nifti,
    hostile_pixels,
    hostile_raster,
)
_CPU_SECONDS = 10.0
_BLOCKED_SECONDS = 10.0
"""Wall time in which the child neither computed nor waited for a processor that other programs had."""
_PEAK_MIB = 1024.0
_KILL_SECONDS = 120.0
"""Wall time on a machine with other work, after which the child is ended; what is judged are the two above."""
_SAMPLE = 2
_PREDICTED = ("dicom-truncated", "jpeg-ls", "nifti-gzip-bomb", "nrrd-detached", "png-bomb", "zip-bomb")
"""Families whose sample goes through `medssl predict`, too, which loads a network each time; the long test does all."""
_SERVER = ["server"] if find_spec("peewee") else []
"""The entry that needs the extra serve."""
_HARMLESS_TO_THE_SERVER = ("zip-files-as-folders",)
"""It unpacks to numbered files, so that no name within a zip file can be a file and a folder at once."""
_LIMIT_GIB = "0.125"


class Sandbox:
    """A child process that judges inputs one after the other."""

    def __init__(self, bundle: Path) -> None:
        tests = Path(__file__).parents[1]
        path = os.pathsep.join([str(tests.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._bundle = bundle
        self._child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("hostile_child.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "MEDSSL_MAX_IMAGE_GIB": _LIMIT_GIB, "OMP_NUM_THREADS": "1"},
        )
        assert self._ask("") == "ready"

    def _ask(self, line: str) -> str:
        assert self._child.stdin
        assert self._child.stdout
        if line:
            self._child.stdin.write(line + "\n")
            self._child.stdin.flush()
        return self._child.stdout.readline().strip()

    def judge(self, entry: str, path: Path, out: Path) -> dict[str, Any]:
        out.mkdir(parents=True, exist_ok=True)
        job = {"entry": entry, "path": str(path), "bundle": str(self._bundle), "out": str(out)}
        return dict(json.loads(self._ask(json.dumps({**job, "seconds": _KILL_SECONDS}))))

    def close(self) -> None:
        assert self._child.stdin
        assert self._child.stdout
        self._child.stdin.close()
        self._child.wait(timeout=60)
        self._child.stdout.close()


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    box = Sandbox(write_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))
    yield box
    box.close()


def _faults(family: Family, entry: str, result: dict[str, Any]) -> list[str]:
    faults = []
    if result["outcome"] not in ("read", "refused"):
        faults.append(f"{result['outcome']}: {result['detail']}")
    harmless = family.harmless or (entry == "server" and family.name in _HARMLESS_TO_THE_SERVER)
    if result["outcome"] == "read" and not harmless:
        faults.append(f"was read: {result['detail']}")
    judged = entry == family.entry and result["outcome"] == "refused" and bool(family.reasons)
    if judged and result["reason"] not in family.reasons:
        faults.append(f"reason {result['reason']}, not of {family.reasons}: {result['detail']}")
    if result["seconds"] > _CPU_SECONDS:
        faults.append(f"took {result['seconds']:.1f} s of processor time")
    if result["blocked_s"] > _BLOCKED_SECONDS:
        faults.append(f"was blocked for {result['blocked_s']:.1f} of {result['wall_s']:.1f} s")
    if result["peak_mib"] > _PEAK_MIB:
        faults.append(f"took {result['peak_mib']:.0f} MiB")
    return faults


def _judged(family: Family, numbers: range, sandbox: Sandbox, folder: Path, *, predict: bool) -> None:
    faults = []
    for number in numbers:
        place = folder / str(number)
        place.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks of the libraries that are made to write such files
            path = family.make(place, number)
        entries = [family.entry]
        if family.entry == "read" and number == 0:
            entries += ["below" if path.is_dir() else "label", *_SERVER, *(["predict"] if predict else [])]
        for entry in entries:
            result = sandbox.judge(entry, path, folder / f"out-{number}-{entry}")
            _record(family, number, entry, result)
            faults += [f"{family.name} {number} ({entry}) {fault}" for fault in _faults(family, entry, result)]
    assert not faults, "\n".join(faults)


def _record(family: Family, number: int, entry: str, result: dict[str, Any]) -> None:
    """Append what happened to the file that MEDSSL_HOSTILE_REPORT names; the numbers in docs/clinic.md come from it."""
    report = os.environ.get("MEDSSL_HOSTILE_REPORT")
    if report:
        with Path(report).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"family": family.name, "number": number, "entry": entry, **result}) + "\n")


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_sample_of_each_family_is_refused_or_harmless(name: str, sandbox: Sandbox, tmp_path: Path):
    family = FAMILIES[name]
    _judged(family, range(min(_SAMPLE, family.count)), sandbox, tmp_path, predict=name in _PREDICTED)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_all_of_each_family_are_refused_or_harmless(name: str, sandbox: Sandbox, tmp_path: Path):
    family = FAMILIES[name]
    _judged(family, range(family.count), sandbox, tmp_path, predict=True)


@pytest.mark.parametrize(("program", "hangs"), [("time.sleep(2)", True), ("while time.process_time() < 1: 0", False)])
def test_a_process_that_waits_for_nothing_is_told_from_a_slow_one(program: str, hangs: bool):
    """The slow one shares its processor with another; a child of the process is looked at, as a decoder would be."""
    one = {min(os.sched_getaffinity(0))}
    command = [sys.executable, "-c", f"import time\n{program}"]
    nested = f"import os, subprocess; os.sched_setaffinity(0, {one}); subprocess.run({command})"
    with subprocess.Popen([sys.executable, "-c", nested]) as process:
        clock = Clock(process.pid)
        with subprocess.Popen([sys.executable, "-c", "while True: 0"]) as other:
            os.sched_setaffinity(other.pid, one)
            while (ended := os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)) is None:
                clock.look()
                time.sleep(0.05)
            other.kill()
        clock.look()
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = ended.si_status
    assert ended.si_status == 0
    blocked_s = clock.wall_s() - used.ru_utime - used.ru_stime - clock.waited_s()
    assert blocked_s > 1.8 if hangs else clock.waited_s() > 0.3 and blocked_s < 0.7


@pytest.mark.parametrize("number", [0, 3, 11])
def test_a_file_that_is_also_something_else_is_read_as_what_it_is(number: int, sandbox: Sandbox, tmp_path: Path):
    hostile_dicom.write(tmp_path, hostile_dicom.encoded(hostile_dicom.plain()), "plain.dcm")
    plain = sandbox.judge("read", tmp_path / "plain.dcm", tmp_path / "out")
    (tmp_path / "other").mkdir()
    both = sandbox.judge("read", hostile_dicom.dicom_polyglot(tmp_path / "other", number), tmp_path / "out")
    assert plain["outcome"] == both["outcome"] == "read"
    assert plain["detail"] == both["detail"]


@pytest.mark.parametrize("number", range(FAMILIES["onnx-read-in-two-ways"].count))
def test_graphs_that_can_be_read_in_two_ways_are_refused_before_a_runtime_sees_them(number: int, tmp_path: Path):
    bundle = hostile_bundles.onnx_read_in_two_ways(tmp_path, number)
    with pytest.raises(BundleError) as error:
        check_graph((bundle / "model.onnx").read_bytes())
    assert error.value.reason == "bad-model"


def test_the_corpus_has_25_families_and_500_inputs():
    assert len(_MODULES) == 7
    assert len(FAMILIES) >= 25
    assert max(family.count for family in FAMILIES.values()) <= 20
    assert sum(family.count for family in FAMILIES.values()) >= 500
