"""Certificates made for tests by openssl."""

import subprocess
from pathlib import Path


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def certificates(folder: Path) -> None:
    """An authority (ca.pem), and a certificate of it for server and client alike (own.pem, own.key)."""
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    authority = ("-newkey", "rsa:2048", "-nodes", "-x509", "-days", "2", "-subj", "/CN=authority")
    openssl(
        folder, "req", *authority, "-keyout", "ca.key", "-out", "ca.pem", "-addext", "keyUsage=critical,keyCertSign"
    )
    own = ("-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", "own.key", "-out", "own.csr")
    openssl(folder, "req", *own)
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "ext")
    openssl(folder, "x509", "-req", "-in", "own.csr", *signed, "-out", "own.pem")
