"""The audit log tells when it was touched, and a loss of power does not lock anybody out."""

import itertools
import json
import os
from pathlib import Path

import pytest

from medssl.imaging.errors import MedsslError
from medssl.runtime.server.audit import AuditLog, verify
from medssl.runtime.server.secret import Secret


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    return Secret(tmp_path / "secret.key")


@pytest.fixture
def log(tmp_path: Path, secret: Secret) -> Path:
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path, secret)
    for number in range(4):
        audit.write("me", "accept", job=f"job{number}", bundle_sha256="0" * 64)
    return path


def test_lines_say_who_when_and_what_and_go_on_after_a_restart(log: Path, secret: Secret):
    AuditLog(log, secret).write("you", "fetch", job="job0")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["n"] for entry in entries] == [1, 2, 3, 4, 5]
    assert [entry["who"] for entry in entries] == ["me"] * 4 + ["you"]
    assert all(a["seal"] == b["previous"] for a, b in itertools.pairwise(entries))
    assert log.stat().st_mode & 0o077 == 0
    assert verify(log, secret)[0] == 5


@pytest.mark.parametrize("line", [0, 1, 3])
def test_a_changed_line_is_found(log: Path, secret: Secret, line: int):
    lines = log.read_bytes().split(b"\n")
    lines[line] = lines[line].replace(b'"me"', b'"he"')
    log.write_bytes(b"\n".join(lines))
    with pytest.raises(MedsslError, match=f"line {line + 1}"):
        AuditLog(log, secret)


def test_a_removed_line_and_one_put_in_are_found(log: Path, secret: Secret, tmp_path: Path):
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([lines[0], *lines[2:]]))
    with pytest.raises(MedsslError, match="line 2"):
        verify(log, secret)
    forged = AuditLog(tmp_path / "forged.jsonl", Secret(tmp_path / "other.key"))
    forged.write("me", "accept")
    log.write_bytes((tmp_path / "forged.jsonl").read_bytes() + b"".join(lines))
    with pytest.raises(MedsslError, match="line 1"):
        verify(log, secret)


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_line_torn_by_a_loss_of_power_is_told_and_the_chain_goes_on(log: Path, secret: Secret, cut: int):
    log.write_bytes(log.read_bytes()[:-cut])
    AuditLog(log, secret).write("me", "accept", job="job4")
    lines = log.read_bytes().splitlines()
    assert b"torn-line" in lines[4]
    assert b"job4" in lines[5]
    assert verify(log, secret)[0] == (6 if cut == 1 else 5)
    log.write_bytes(b"\n".join([lines[0], b"torn", *lines[4:], b""]))  # nobody else can write such an entry
    with pytest.raises(MedsslError, match="audit log is broken"):
        verify(log, secret)


def test_pseudonyms_are_stable_and_depend_on_the_key(tmp_path: Path, secret: Secret):
    again, other = Secret(tmp_path / "secret.key"), Secret(tmp_path / "other.key")
    assert secret.name("1.2.3") == again.name("1.2.3") != other.name("1.2.3")
    assert (tmp_path / "secret.key").stat().st_mode & 0o077 == 0
    message = f"{tmp_path}/input/000001.dcm of series 1.2.840.113619.2.55 is cut\n  MR 'Jane Doe', 3 files"
    public = secret.public(message, tmp_path)
    assert public == f"input/000001.dcm of series uid-{secret.name('1.2.840.113619.2.55')[:8]} is cut"


def test_the_key_is_its_owners_alone_from_the_moment_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    modes, replace = [], Path.replace

    def watched(source: Path, target: Path) -> Path:
        modes.append(source.stat().st_mode & 0o777)
        moved = replace(source, target)
        modes.append(moved.stat().st_mode & 0o777)
        return moved

    monkeypatch.setattr(Path, "replace", watched)
    first, again = (Secret(tmp_path / "new" / "secret.key") for _ in range(2))
    assert modes == [0o600, 0o600]
    assert first.name("1.2.3") == again.name("1.2.3")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["secret.key"]


def test_a_line_that_a_full_disk_took_in_part_leaves_no_half_of_it(
    log: Path, secret: Secret, monkeypatch: pytest.MonkeyPatch
):
    audit, before = AuditLog(log, secret), log.read_bytes()
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, line: write(handle, line[:20]))
        with pytest.raises(OSError, match="No space left"):
            audit.write("you", "fetch", job="job0")
    assert log.read_bytes() == before
    audit.write("you", "fetch", job="job1")
    assert verify(log, secret)[0] == 5
