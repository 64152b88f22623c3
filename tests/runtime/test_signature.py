"""Signatures: keys of openssl and of other kinds, changed bundles, passwords."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from complete_bundle import complete_bundle, rewrite

from medssl.__main__ import main
from medssl.imaging.errors import BundleError
from medssl.runtime.checks import verify_bundle

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization", reason="needs the extra sign")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")

_PEM = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return complete_bundle(tmp_path / "bundle")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return _keys(tmp_path / "key")


def _keys(
    stem: Path, private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | None = None
) -> tuple[Path, Path]:
    private = private or ed25519.Ed25519PrivateKey.generate()
    key, public = stem.with_suffix(".pem"), stem.with_suffix(".pub.pem")
    key.write_bytes(private.private_bytes(*_PEM, serialization.NoEncryption()))
    public.write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return key, public


def _statuses(folder: Path, public: Path | None = None) -> dict[str, str]:
    return {check.name: check.status for check in verify_bundle(folder, public).checks}


def test_signed_and_verified_also_from_a_zip_file(bundle: Path, keys: tuple[Path, Path], tmp_path: Path):
    key, public = keys
    assert main(["sign", str(bundle), "--key", str(key)]) == 0
    assert _statuses(bundle, public)["signature"] == "ok"
    assert _statuses(bundle)["signature"] == "told"
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for file in bundle.iterdir():
            archive.write(file, file.name)
    assert main(["verify", str(tmp_path / "b.zip"), "--public-key", str(public)]) == 0


def test_a_signature_fails_with_another_key_after_a_change_and_where_there_is_none(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path
):
    key, public = keys
    assert _statuses(bundle, public)["signature"] == "failed"
    main(["sign", str(bundle), "--key", str(key)])
    assert _statuses(bundle, _keys(tmp_path / "other")[1])["signature"] == "failed"
    rewrite(bundle, licence="another licence")  # the hashes are right again, so only the signature tells
    found = _statuses(bundle, public)
    assert (found["files and hashes"], found["signature"]) == ("ok", "failed")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_makes_the_keys_and_checks_the_signature(bundle: Path, tmp_path: Path):
    key, public = tmp_path / "k.pem", tmp_path / "p.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", str(key), "-pubout", "-out", str(public)], check=True)
    assert main(["sign", str(bundle), "--key", str(key)]) == 0
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin"]
    files = ["-in", str(bundle / "SHA256SUMS"), "-sigfile", str(bundle / "SHA256SUMS.sig")]
    assert subprocess.run([*command, *files], check=False, capture_output=True).returncode == 0


def test_an_encrypted_key_is_used_with_its_password(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    private = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "k.pem").write_bytes(private.private_bytes(*_PEM, serialization.BestAvailableEncryption(b"open")))
    monkeypatch.setattr("getpass.getpass", lambda _: "wrong")
    assert main(["sign", str(bundle), "--key", str(tmp_path / "k.pem")]) == 2
    assert "the password is wrong" in capsys.readouterr().err
    monkeypatch.setattr("getpass.getpass", lambda _: "open")
    assert main(["sign", str(bundle), "--key", str(tmp_path / "k.pem")]) == 0
    assert main(["sign", str(bundle), "--key", str(tmp_path / "k.pem")]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_a_password_that_nobody_can_type_is_one_sentence(bundle: Path, tmp_path: Path):
    private = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "k.pem").write_bytes(private.private_bytes(*_PEM, serialization.BestAvailableEncryption(b"open")))
    command = [sys.executable, "-m", "medssl", "sign", str(bundle), "--key", str(tmp_path / "k.pem")]
    ended = subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True
    )
    assert ended.returncode == 2
    assert "nobody is there to type it" in ended.stderr


def test_keys_of_another_kind_or_no_keys_are_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: tuple[Path, Path]
):
    elliptic, public = _keys(tmp_path / "ec", ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "text").write_text("no key")
    for arguments in (
        ["sign", str(bundle), "--key", str(elliptic)],
        ["sign", str(bundle), "--key", str(tmp_path / "text")],
        ["sign", str(bundle), "--key", str(tmp_path / "none")],
        ["verify", str(bundle), "--public-key", str(public)],
        ["verify", str(bundle), "--public-key", str(keys[0])],
    ):
        assert main(arguments) == 2
        assert "error (bad-key)" in capsys.readouterr().err
    assert not (bundle / "SHA256SUMS.sig").exists()


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_server_with_a_key_serves_only_what_was_signed_with_it(bundle: Path, keys: tuple[Path, Path], tmp_path: Path):
    desk = pytest.importorskip("medssl.runtime.server.desk", reason="the server needs the extra serve")
    key, public = keys
    with pytest.raises(BundleError, match="not signed") as error:
        desk.open_bundles((bundle,), public, _folder(tmp_path / "one"))
    assert str(bundle) in error.value.message
    assert main(["sign", str(bundle), "--key", str(key)]) == 0
    served = desk.open_bundles((bundle,), public, _folder(tmp_path / "two"))
    assert [opened.folder.parent for opened in served.values()] == [tmp_path / "two"], "copies, whatever comes after"
    other = _keys(tmp_path / "other")[1]
    with pytest.raises(BundleError, match="not of this key"):
        desk.open_bundles((bundle,), other, _folder(tmp_path / "three"))
    assert main(["serve", str(bundle), "--data", str(tmp_path / "data"), "--public-key", str(other)]) == 2


def test_verify_without_a_key_says_that_the_signature_was_not_checked(
    bundle: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    assert main(["sign", str(bundle), "--key", str(keys[0])]) == 0
    assert main(["verify", str(bundle)]) == 0
    assert "verified, signature not checked" in capsys.readouterr().out
    assert main(["verify", str(bundle), "--public-key", str(keys[1])]) == 0
    assert "not checked" not in capsys.readouterr().out
