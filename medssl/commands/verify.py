"""Check a bundle on this machine before it is used: hashes, signature, golden case, licence, model card."""

from pathlib import Path
from typing import TYPE_CHECKING

from medssl.commands.console import say
from medssl.imaging.errors import BundleError, ConfigError
from medssl.imaging.files import write_json, write_text

if TYPE_CHECKING:
    from medssl.runtime.checks import Verification

POSITIONAL = ("bundle",)


def verify(
    bundle: Path,
    public_key: Path | None = None,
    json: Path | None = None,
    checklist: Path | None = None,
    threads: int = 0,
    overwrite: bool = False,
) -> None:
    """Print a table of checks; ends with an error where one fails.

    Args:
        bundle: Bundle folder or .zip.
        public_key: Public key (PEM) that the bundle must be signed with; without it a signature is not checked.
        json: File to write the checks to.
        checklist: Markdown file to write: a validation protocol (installation, operation, performance) in which
            everything that a machine can check is filled in, refusals of bad images among it.
        threads: Threads to compute with; 0 takes every processor this process may use.
        overwrite: Replace the files of `json` and `checklist` where they are there.

    Raises:
        ConfigError: A file to be written is there already.
        BundleError: A check failed, or there is no such bundle.
    """
    there = [path for path in (json, checklist) if path is not None and path.exists()]
    if there and not overwrite:
        raise ConfigError([f"{path} exists already: choose another file, or --overwrite" for path in there])
    from medssl.runtime.checks import verify_bundle

    found = verify_bundle(bundle, public_key, threads)
    width = max(len(check.name) for check in found.checks)
    for check in found.checks:
        say(f"{check.name:<{width}}  {check.status:<8}  {check.detail}")
    failures = [check.name for check in found.checks if check.status in ("failed", "not done")]
    if json is not None:
        write_json(json, _content(found))
    if checklist is not None:
        from medssl.runtime.protocol import refusals, write_protocol

        tried = refusals(found.bundle, threads) if found.passed and found.bundle is not None else []
        failures += [refusal.name for refusal in tried if refusal.status == "failed"]
        write_text(checklist, write_protocol(found, tried))
        say(f"validation protocol: {checklist}")
    if failures:
        raise BundleError(f"do not use this bundle: {', '.join(failures)}", reason="not-verified")
    unchecked = "" if public_key is not None else ", signature not checked (give --public-key)"
    say(f"verified{unchecked}. Not a medical device: for research only.")


def _content(found: "Verification") -> dict[str, object]:
    bundle = found.bundle
    return {
        "passed": found.passed,
        "model": bundle.spec.name if bundle else None,
        "bundle_sha256": bundle.sha256 if bundle else None,
        "golden": found.golden,
        "checks": [check.to_json() for check in found.checks],
    }
