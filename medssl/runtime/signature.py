"""Signatures of bundles: Ed25519 (RFC 8032) over SHA256SUMS, which stands for every file of the bundle.

SHA256SUMS.sig holds the 64 bytes of the signature, so openssl can check it too:
`openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in SHA256SUMS -sigfile SHA256SUMS.sig`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medssl.imaging.errors import BundleError, how_to_install
from medssl.imaging.files import atomic_path

SIGNATURE = "SHA256SUMS.sig"


def sign_folder(folder: Path, key: Path, password: Callable[[], str]) -> None:
    """Write the signature of a bundle folder.

    Args:
        folder: The bundle; its hashes were checked.
        key: Private key, PEM (PKCS 8), made by `openssl genpkey -algorithm ed25519`.
        password: Asked for where the key is encrypted.

    Raises:
        BundleError: No Ed25519 private key, or the cryptography package is missing.
    """
    serialization, ed25519, _ = _library()
    content = _pem(key)
    try:
        secret = password().encode() if b"ENCRYPTED" in content else None
        private = serialization.load_pem_private_key(content, password=secret)
    except (ValueError, TypeError) as error:
        raise BundleError(
            f"{key} holds no private key, or the password is wrong; make one by openssl genpkey -algorithm ed25519",
            reason="bad-key",
        ) from error
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise BundleError(f"{key} is no Ed25519 key; make one by openssl genpkey -algorithm ed25519", reason="bad-key")
    signature: bytes = private.sign((folder / "SHA256SUMS").read_bytes())
    with atomic_path(folder / SIGNATURE) as temporary:
        temporary.write_bytes(signature)


def check_signature(folder: Path, public_key: Path) -> None:
    """Check the signature of a bundle folder.

    Args:
        folder: The bundle; its hashes were checked, so the signature covers them all.
        public_key: Public key, PEM, made by `openssl pkey -pubout`; it must come from a place you trust, not from the
            bundle's.

    Raises:
        BundleError: Not signed, signed by another key, altered, or no usable public key.
    """
    serialization, ed25519, invalid = _library()
    try:
        public = serialization.load_pem_public_key(_pem(public_key))
    except (ValueError, TypeError) as error:
        raise BundleError(
            f"{public_key} holds no public key; openssl pkey -in key.pem -pubout makes it", reason="bad-key"
        ) from error
    if not isinstance(public, ed25519.Ed25519PublicKey):
        raise BundleError(f"{public_key} is no Ed25519 public key", reason="bad-key")
    if not (folder / SIGNATURE).is_file():
        raise BundleError(
            f"the bundle is not signed ({SIGNATURE} is missing): ask its maker for a signed one", reason="not-signed"
        )
    try:
        public.verify((folder / SIGNATURE).read_bytes(), (folder / "SHA256SUMS").read_bytes())
    except invalid as error:
        raise BundleError(
            "the signature is not of this key, or the bundle was changed after it was signed: do not use it",
            reason="bad-signature",
        ) from error


def _pem(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"key {path} cannot be read ({error.strerror})", reason="bad-key") from error


def _library() -> tuple[Any, Any, type[Exception]]:
    """The cryptography package, imported when needed: the base install leaves it out."""
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ImportError as error:
        raise BundleError(
            f"signatures need the cryptography package: {how_to_install('sign')}", reason="no-cryptography"
        ) from error
    return serialization, ed25519, InvalidSignature
