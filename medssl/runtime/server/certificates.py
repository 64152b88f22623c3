"""Certificates and keys, loaded when the options are checked: what is wrong is told by the option's name."""

import ssl
from collections.abc import Iterator
from pathlib import Path

_MISMATCH = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""What OpenSSL says of a key of another certificate; the last where it is a key of another kind."""


class _EncryptedError(Exception):
    """A private key asks for a pass phrase, which nobody is there to type."""


def server_context(certificate: Path, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    """What a server shows, and of whom it asks a certificate.

    Args:
        certificate: PEM file with the certificate and its chain.
        key: PEM file with the private key, not encrypted.
        client_ca: PEM file of the authority whose certificates callers must show; None asks for none.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key, password=_refuse)
    if client_ca is not None:
        context.load_verify_locations(cafile=client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def own_problems(certificate: Path, key: Path) -> Iterator[str]:
    """What is wrong with `tls.certificate` and `tls.key`, which exist."""
    found = list(authority_problems("tls.certificate", certificate))
    yield from found
    try:
        key.read_bytes()
        if not found:
            server_context(certificate, key)
    except _EncryptedError:
        yield f"tls.key = {key} is encrypted: write it without a pass phrase, openssl pkey -in {key} -out FILE"
    except ssl.SSLError as error:
        if error.reason in _MISMATCH:
            yield f"tls.key = {key} is not the key of tls.certificate = {certificate}: give a pair"
        elif error.reason:
            yield f"tls.certificate = {certificate} cannot be used with tls.key = {key} ({_why(error)})"
        else:
            yield f"tls.key = {key} holds no private key that can be read: a PEM file is due"
    except OSError as error:
        yield f"tls.key = {key} cannot be read ({error.strerror})"


def authority_problems(name: str, path: Path) -> Iterator[str]:
    """What is wrong with a file of certificates, which exists.

    Args:
        name: Of the option.
        path: Its value.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        yield f"{name} = {path} holds no certificate that can be read ({_why(error)}): a PEM file is due"
    except OSError as error:
        yield f"{name} = {path} cannot be read ({error.strerror})"


def _why(error: ssl.SSLError) -> str:
    return (error.reason or "no PEM").lower().replace("_", " ")


def _refuse() -> str:
    raise _EncryptedError
