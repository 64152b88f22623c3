"""Sign a bundle with a private key, so that a site can tell whose it is."""

import getpass
from pathlib import Path

from medssl.commands.console import say
from medssl.imaging.errors import ConfigError

POSITIONAL = ("bundle",)


def sign(bundle: Path, key: Path, overwrite: bool = False) -> None:
    """Write BUNDLE/SHA256SUMS.sig, an Ed25519 signature over the hashes of every file of the bundle.

    Make a key pair once: `openssl genpkey -algorithm ed25519 -aes256 -out key.pem`, then
    `openssl pkey -in key.pem -pubout -out public.pem`. Give public.pem to the sites by another way than the bundle.

    Args:
        bundle: Bundle folder made by `medssl export`.
        key: Private key, PEM; you are asked for its password where it has one.
        overwrite: Replace a signature that is there.

    Raises:
        ConfigError: A zipped bundle, or one that is signed already.
        BundleError: The bundle is not as it was made, or the key cannot be used.
    """
    from medssl.runtime.bundle import Bundle
    from medssl.runtime.signature import SIGNATURE, sign_folder

    if bundle.is_file():
        raise ConfigError([f"{bundle} is a file: unpack it, sign the folder, and zip it again"])
    opened = Bundle.open(bundle)
    if (opened.folder / SIGNATURE).exists() and not overwrite:
        raise ConfigError([f"{opened.folder / SIGNATURE} exists already: --overwrite replaces it"])
    sign_folder(opened.folder, key, lambda: _password(key))
    say(f"signed {opened.spec.name} ({opened.sha256[:16]}): {opened.folder / SIGNATURE}")


def _password(key: Path) -> str:
    try:
        return getpass.getpass(f"password of {key}: ")
    except EOFError as error:
        raise ConfigError([f"key {key} has a password, and nobody is there to type it: sign at a terminal"]) from error
