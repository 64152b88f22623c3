"""Who is let in, by the answers of the middleware itself."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("limits", reason="the server needs the extra serve")

from medssl.__main__ import main
from medssl.imaging.errors import ConfigError
from medssl.runtime.server.guard import Guard, read_tokens
from medssl.runtime.server.options import HttpOptions

_HASH = hashlib.sha256(b"secret").hexdigest()


async def _answer(scope: Any, _: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"server", b"x")]})
    await send({"type": "http.response.body", "body": scope["state"]["who"].encode()})


def _ask(guard: Guard, path: str = "/api/jobs", host: str = "127.0.0.1:8042", **headers: str) -> tuple[int, str, Any]:
    """Status, body and headers of an answer."""
    given = [(b"host", host.encode()), *((name.encode(), value.encode()) for name, value in headers.items())]
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": given, "client": ("127.0.0.1", 1)}
    asyncio.run(guard(scope, None, send))  # type: ignore[arg-type]
    return sent[0]["status"], sent[1]["body"].decode(), dict(sent[0]["headers"])


def _guard(tokens: dict[str, str] | None = None, refused: list[Any] | None = None, **http: Any) -> Guard:
    told: list[Any] = [] if refused is None else refused
    return Guard(_answer, HttpOptions(**http), tokens or {}, lambda who, reason: told.append((who, reason)))


def test_with_tokens_only_their_owners_get_in_and_are_named():
    refused: list[Any] = []
    guard = _guard({"alice": _HASH, "bob": "0" * 64}, refused)
    assert _ask(guard, authorization="Bearer secret")[:2] == (200, "alice")
    for header in ("Bearer wrong", "Basic secret", "secret", "Bearer", f"Bearer {_HASH}", "Bearer \xff"):
        status, body, headers = _ask(guard, authorization=header)
        assert status == 401
        assert "Authorization: Bearer" in body
        assert headers[b"www-authenticate"] == b"Bearer"
    assert _ask(guard)[0] == 401
    assert refused == [("127.0.0.1", "token")] * 7


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/static/app.js"])
def test_the_page_and_the_probes_need_no_token(path: str):
    assert _ask(_guard({"alice": _HASH}), path)[0] == 200


@pytest.mark.parametrize("path", ["/api/jobs", "/metrics", "/openapi.json", "/healthx", "//api/jobs", "/health/../api"])
def test_everything_else_needs_one(path: str):
    assert _ask(_guard({"alice": _HASH}), path)[0] == 401


def test_every_known_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch):
    compared: list[str] = []

    def compare(known: str, _: str) -> bool:
        compared.append(known)
        return known == _HASH

    monkeypatch.setattr("hmac.compare_digest", compare)
    assert _ask(_guard({"alice": _HASH, "bob": "0" * 64}), authorization="Bearer secret")[1] == "alice"
    assert compared == [_HASH, "0" * 64]


def test_guessing_is_slowed_down_and_owners_at_the_same_address_are_let_in():
    guard = _guard({"alice": _HASH})
    answers = [_ask(guard, authorization="Bearer guess")[0] for _ in range(22)]
    assert answers == [401] * 20 + [429] * 2
    assert _ask(guard, authorization="Bearer secret")[:2] == (200, "alice")  # one address may be many callers


def test_each_token_has_its_own_rate():
    guard = _guard({"alice": _HASH, "bob": hashlib.sha256(b"other").hexdigest()}, requests_per_minute=3)
    assert [_ask(guard, authorization="Bearer secret")[0] for _ in range(4)] == [200, 200, 200, 429]
    assert _ask(guard, authorization="Bearer other")[0] == 200


@pytest.mark.parametrize("host", ["evil.example.org", "127.0.0.1.example.org:8042", "", "[::1", "10.0.0.7"])
def test_a_name_of_somebody_else_is_refused_so_that_dns_cannot_be_turned_against_the_server(host: str):
    assert _ask(_guard(), host=host)[0] == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8042", "[::1]:8042", "127.0.0.1", "pacs.example.org"])
def test_its_own_names_are_answered(host: str):
    assert _ask(_guard(names=("PACS.example.org",)), host=host)[:2] == (200, "local")


def test_web_pages_of_other_servers_cannot_use_it():
    assert _ask(_guard(), origin="http://127.0.0.1:8042")[0] == 200
    assert _ask(_guard(), origin="http://evil.example.org")[0] == 403
    assert _ask(_guard(), origin="null")[0] == 403
    assert _ask(_guard(), origin="http://127.0.0.1:9999")[0] == 403


def test_results_are_never_cached_and_the_page_may_be():
    assert _ask(_guard())[2][b"cache-control"] == b"no-store"
    assert b"cache-control" not in _ask(_guard(), "/static/app.js")[2]
    assert b"server" not in _ask(_guard())[2]


def test_the_verb_token_makes_what_the_server_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "tokens"
    assert main(["token", "alice", "--file", str(file)]) == 0
    made = capsys.readouterr().out.split()[-1]
    assert main(["token", "bob", "--file", str(file)]) == 0
    assert file.stat().st_mode & 0o077 == 0
    assert made not in file.read_text()
    guard = _guard(read_tokens(file))
    assert _ask(guard, authorization=f"Bearer {made}")[:2] == (200, "alice")
    assert main(["token", "alice", "--file", str(file)]) == 2
    assert "already" in capsys.readouterr().err
    assert main(["token", "a b", "--file", str(file)]) == 2
    file.write_text("# of the hospital")
    assert main(["token", "carol", "--file", str(file)]) == 0
    file.write_text(file.read_text().rstrip("\n"))  # as an editor may leave it
    assert main(["token", "dave", "--file", str(file)]) == 0
    assert list(read_tokens(file)) == ["carol", "dave"]
    file.write_text("carol secret\n")
    assert main(["token", "erin", "--file", str(file)]) == 2
    assert file.read_text() == "carol secret\n"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "holds no token"),
        ("alice secret\n", "line 1"),
        (f"a {_HASH}\na {_HASH}\n", "line 2"),
        ("alice\n", "line 1"),
    ],
)
def test_a_file_of_tokens_that_is_none_is_refused(tmp_path: Path, text: str, part: str):
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(ConfigError, match=part):
        read_tokens(tmp_path / "tokens")
