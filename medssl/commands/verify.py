"""Check a bundle on this machine before it is used: hashes, signature, golden case, licence, model card, own cases."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.commands.console import say
from medssl.commands.verify_cases import Compared, beside, compare
from medssl.imaging.errors import BundleError, ConfigError
from medssl.imaging.files import write_json, write_text
from medssl.runtime.performance.criteria import Criteria

if TYPE_CHECKING:
    from medssl.runtime.bundle import Bundle
    from medssl.runtime.checks import Check, Verification

POSITIONAL = ("bundle",)
_ACCEPT = Criteria()


def verify(
    bundle: Path,
    public_key: Path | None = None,
    json: Path | None = None,
    checklist: Path | None = None,
    threads: int = 0,
    overwrite: bool = False,
    cases: Path | None = None,
    accept: Criteria = _ACCEPT,
) -> None:
    """Print a table of checks; ends with an error where one fails.

    Args:
        bundle: Bundle folder or .zip.
        public_key: Public key (PEM) that the bundle must be signed with; without it a signature is not checked.
        json: File to write the checks to.
        checklist: Markdown file to write: a validation protocol (installation, operation, performance) in which
            everything that a machine can check is filled in, refusals of bad images among it.
        threads: Threads to compute with; 0 takes every processor this process may use.
        overwrite: Replace the files of `json` and `checklist`, and those beside it, where they are there.
        cases: Your own cases with references, for the checklist's part on performance: a manifest whose column `label`
            (label map) or `class` is filled in, or a folder of images and label maps, which is indexed into
            NAME_manifest.csv beside the checklist. All numbers go into NAME_results.csv there.
        accept: What these cases must show; decide it before you see the numbers.

    Raises:
        ConfigError: A file to be written is there already, or options that make no sense together or of this bundle.
        ManifestError: Mistakes in the manifest of the cases.
        BundleError: A check failed, the cases do not show what they must, or there is no such bundle.
    """
    _refuse(checklist, cases, accept, _written(json, checklist, cases), overwrite)
    from medssl.runtime.checks import verify_bundle

    found = verify_bundle(bundle, public_key, threads)
    width = max(len(check.name) for check in found.checks)
    for check in found.checks:
        say(f"{check.name:<{width}}  {check.status:<8}  {check.detail}")
    failures = [check.name for check in found.checks if check.status in ("failed", "not done")]
    usable = found.bundle if found.passed else None
    compared = Compared()
    if cases is not None and checklist is not None:
        compared = compare(usable, cases, accept, checklist, threads)
        failures += compared.failures
    if checklist is not None:
        failures += _protocol(found, usable, checklist, compared, threads)
    if json is not None:
        write_json(json, _content(found, compared, not failures))
    if failures:
        raise BundleError(f"do not use this bundle: {', '.join(failures)}", reason="not-verified")
    unchecked = "" if public_key is not None else ", signature not checked (give --public-key)"
    say(f"verified{unchecked}. Not a medical device: for research only.")


def _written(json: Path | None, checklist: Path | None, cases: Path | None) -> list[Path]:
    """Files that will be written."""
    files = [path for path in (json, checklist) if path is not None]
    if checklist is not None and cases is not None:
        files += [beside(checklist, "results"), *([beside(checklist, "manifest")] if cases.is_dir() else [])]
    return files


def _refuse(
    checklist: Path | None, cases: Path | None, accept: Criteria, written: Sequence[Path], overwrite: bool
) -> None:
    there = [path for path in written if path.exists() and not overwrite]
    problems = [f"{path} exists already: choose another file, or --overwrite" for path in there]
    problems += _unwritable({path.parent for path in written})
    if cases is not None and checklist is None:
        problems.append("cases are for the validation protocol: give --checklist FILE.md too")
    if cases is None and accept.demanded:
        problems.append("accept says what your own cases must show: give --cases too")
    if problems:
        raise ConfigError(problems)


def _unwritable(folders: Iterable[Path]) -> Iterator[str]:
    """What keeps results out of these folders: better told now than after the computing."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            yield f"{folder}: nothing can be written there ({error.strerror})"


def _protocol(
    found: "Verification", usable: "Bundle | None", checklist: Path, compared: Compared, threads: int
) -> list[str]:
    """Write it; the names of what was not refused."""
    from medssl.runtime.protocol import refusals, write_protocol

    tried: list[Check] = refusals(usable, threads) if usable is not None else []
    write_text(checklist, write_protocol(found, tried, compared.lines))
    say(f"validation protocol: {checklist}")
    return [refusal.name for refusal in tried if refusal.status == "failed"]


def _content(found: "Verification", compared: Compared, passed: bool) -> dict[str, object]:
    bundle = found.bundle
    return {
        "passed": passed,
        "model": bundle.spec.name if bundle else None,
        "bundle_sha256": bundle.sha256 if bundle else None,
        "golden": found.golden,
        "checks": [check.to_json() for check in found.checks],
        **({"performance": compared.content} if compared.content else {}),
    }
