"""The audit log tells when it was touched, and a loss of power does not lock anybody out."""

import itertools
import json
import os
from pathlib import Path

import pytest

pytest.importorskip("peewee", reason="the server needs the extra serve")

from medssl.imaging.errors import MedsslError
from medssl.runtime.server.audit import AuditLog, verify
from medssl.runtime.server.last_lines import LastLines
from medssl.runtime.server.ledger import open_database
from medssl.runtime.server.secret import Secret


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    return Secret(tmp_path / "secret.key")


@pytest.fixture
def notes(tmp_path: Path) -> LastLines:
    return LastLines(open_database(tmp_path / "jobs.db"))


@pytest.fixture
def log(tmp_path: Path, secret: Secret, notes: LastLines) -> Path:
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path, secret, notes)
    for number in range(4):
        audit.write("me", "accept", job=f"job{number}", bundle_sha256="0" * 64)
    return path


def test_lines_say_who_when_and_what_and_go_on_after_a_restart(log: Path, secret: Secret, notes: LastLines):
    AuditLog(log, secret, notes).write("you", "fetch", job="job0")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["n"] for entry in entries] == [1, 2, 3, 4, 5]
    assert [entry["who"] for entry in entries] == ["me"] * 4 + ["you"]
    assert all(a["seal"] == b["previous"] for a, b in itertools.pairwise(entries))
    assert log.stat().st_mode & 0o077 == 0
    assert verify(log, secret)[0] == 5


@pytest.mark.parametrize("line", [0, 1, 3])
def test_a_changed_line_is_found(log: Path, secret: Secret, notes: LastLines, line: int):
    lines = log.read_bytes().split(b"\n")
    lines[line] = lines[line].replace(b'"me"', b'"he"')
    log.write_bytes(b"\n".join(lines))
    with pytest.raises(MedsslError, match=f"line {line + 1}"):
        AuditLog(log, secret, notes)


def test_a_removed_line_and_one_put_in_are_found(log: Path, secret: Secret, notes: LastLines, tmp_path: Path):
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([lines[0], *lines[2:]]))
    with pytest.raises(MedsslError, match="line 2"):
        verify(log, secret)
    forged = AuditLog(tmp_path / "forged.jsonl", Secret(tmp_path / "other.key"), notes)
    forged.write("me", "accept")
    log.write_bytes((tmp_path / "forged.jsonl").read_bytes() + b"".join(lines))
    with pytest.raises(MedsslError, match="line 1"):
        verify(log, secret)


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_line_torn_by_a_loss_of_power_is_told_and_the_chain_goes_on(
    log: Path, secret: Secret, notes: LastLines, cut: int
):
    before = notes.get(log.name)
    AuditLog(log, secret, notes).write("me", "accept", job="torn")
    notes.keep(log.name, *before)  # the power went before the line was noted
    log.write_bytes(log.read_bytes()[:-cut])
    AuditLog(log, secret, notes).write("me", "accept", job="job4")
    lines = log.read_bytes().splitlines()
    assert b"torn-line" in lines[5]
    assert b"job4" in lines[6]
    assert verify(log, secret)[0] == (7 if cut == 1 else 6)
    log.write_bytes(b"\n".join([lines[0], b"torn", *lines[5:], b""]))  # nobody else can write such an entry
    with pytest.raises(MedsslError, match="audit log is broken"):
        verify(log, secret)


def test_a_disk_that_is_full_when_a_torn_line_is_told_makes_no_damage(
    log: Path, secret: Secret, notes: LastLines, monkeypatch: pytest.MonkeyPatch
):
    log.write_bytes(log.read_bytes() + b'{"n": 6, "ti')
    with monkeypatch.context() as full:
        full.setattr("os.write", lambda handle, line: 0)
        with pytest.raises(OSError, match="No space"):
            AuditLog(log, secret, notes)
    AuditLog(log, secret, notes).write("me", "accept", job="job4")
    assert verify(log, secret)[0] == 6
    assert b"torn-line" in log.read_bytes().splitlines()[5]


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
    log: Path, secret: Secret, notes: LastLines, monkeypatch: pytest.MonkeyPatch
):
    audit, before = AuditLog(log, secret, notes), log.read_bytes()
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, line: write(handle, line[:20]))
        with pytest.raises(OSError, match="No space left"):
            audit.write("you", "fetch", job="job0")
    assert log.read_bytes() == before
    audit.write("you", "fetch", job="job1")
    assert verify(log, secret)[0] == 5


@pytest.mark.parametrize("left", [3, 1, 0, None])
def test_lines_cut_from_the_end_and_a_log_that_is_gone_are_found(
    log: Path, secret: Secret, notes: LastLines, left: int | None
):
    if left is None:
        log.unlink()
    else:
        log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:left]))
    with pytest.raises(MedsslError, match=r"4 were written: its end was cut off") as error:
        AuditLog(log, secret, notes)
    assert error.value.reason == "audit-cut"


def test_lines_that_were_not_noted_before_a_kill_are_no_damage(log: Path, secret: Secret, notes: LastLines):
    noted = notes.get(log.name)
    for _ in range(2):
        AuditLog(log, secret, notes).write("me", "accept", job="more")
    notes.keep(log.name, *noted)
    AuditLog(log, secret, notes).write("you", "fetch")
    assert verify(log, secret).lines == notes.get(log.name)[0] == 7


def test_a_data_base_that_cannot_be_written_holds_up_no_line(
    log: Path, secret: Secret, notes: LastLines, monkeypatch: pytest.MonkeyPatch
):
    audit = AuditLog(log, secret, notes)
    with monkeypatch.context() as patch:
        patch.setattr(notes, "_database", None)
        audit.write("me", "accept", job="job4")
    assert (verify(log, secret).lines, notes.get(log.name)[0]) == (5, 4)
    AuditLog(log, secret, notes).write("me", "accept", job="job5")
    assert notes.get(log.name)[0] == 6


def test_notes_are_sealed_and_a_new_data_base_does_not_pass_for_an_old_one(
    log: Path, secret: Secret, notes: LastLines, tmp_path: Path
):
    lines = log.read_bytes().splitlines(keepends=True)
    _, _, mark = notes.get(log.name)
    log.write_bytes(b"".join(lines[:2]))
    notes.keep(log.name, 2, json.loads(lines[1])["seal"], mark)  # what whoever cut it can read from the log
    with pytest.raises(MedsslError, match="note of its last line in the data base of jobs was changed"):
        AuditLog(log, secret, notes)
    fresh = LastLines(open_database(tmp_path / "new.db"))
    with pytest.raises(MedsslError, match="has 2 lines, of which the data base of jobs knows none"):
        AuditLog(log, secret, fresh)
    log.write_bytes(lines[0])  # killed between the first line and its note
    AuditLog(log, secret, fresh)


@pytest.mark.parametrize("gone", [False, True])
def test_a_damage_that_the_operator_has_seen_begins_a_new_log_that_says_so(
    log: Path, secret: Secret, notes: LastLines, gone: bool
):
    cut = b"".join(log.read_bytes().splitlines(keepends=True)[:2])
    log.unlink() if gone else log.write_bytes(cut)
    with pytest.raises(MedsslError, match="--new_audit_log") as error:
        AuditLog(log, secret, notes, "0" * 16)
    code = error.value.message.split("--new_audit_log ")[1].split(",")[0]
    AuditLog(log, secret, notes, code).write("me", "accept")
    first, _ = [json.loads(line) for line in log.read_text().splitlines()]
    assert (first["action"], first["reason"]) == ("new-log", "audit-cut")
    assert (first["aside"] == "") if gone else log.with_name(first["aside"]).read_bytes() == cut
    AuditLog(log, secret, notes, code)  # a code that stays in the options is that damage's alone
    log.unlink()
    with pytest.raises(MedsslError, match="2 were written"):
        AuditLog(log, secret, notes, code)


def test_the_damaged_log_of_another_server_is_told_and_stops_nobody(
    log: Path, secret: Secret, notes: LastLines, caplog: pytest.LogCaptureFixture
):
    other = AuditLog(log.with_name("audit-b.jsonl"), secret, notes)
    other.write("me", "accept")
    other.check_others()
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    other.check_others()
    assert "audit log audit.jsonl of another server is damaged: audit-cut" in caplog.text
    lines = [json.loads(line) for line in other.path.read_text().splitlines()]
    assert [line.get("file") for line in lines] == [None, log.name]
