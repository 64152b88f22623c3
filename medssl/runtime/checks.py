"""Whether a bundle may be used on this machine: hashes, schema, signature, golden case, licence, model card."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from medssl.imaging.errors import BundleError
from medssl.runtime.bundle import NO_INTENDED_USE, Bundle
from medssl.runtime.signature import SIGNATURE, check_signature

Status = Literal["ok", "failed", "told", "not done"]
"""`told`: nothing is wrong, but the user should know."""
CARD_SECTIONS = (
    "Intended use",
    "What it does",
    "Data",
    "Preprocessing",
    "Measured",
    "How sure it is",
    "Proof of export",
    "Licence",
    "Limits",
)
"""Sections that a model card has."""
_UNMEASURED = "Nothing was measured on held-out patients"


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Args:
        name: What was looked at.
        status: What came of it.
        detail: A sentence.
    """

    name: str
    status: Status
    detail: str

    def to_json(self) -> dict[str, str]:
        """Plain dictionary."""
        return asdict(self)


@dataclass
class Verification:
    """All checks of a bundle.

    Args:
        bundle: The bundle, None where it could not be opened.
        checks: In the order of the table.
        golden: What the replay of the golden case found: largest difference of a logit, threads, providers.
    """

    bundle: Bundle | None = None
    checks: list[Check] = field(default_factory=list)
    golden: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no check failed and none had to be left out."""
        return all(check.status in ("ok", "told") for check in self.checks)


def verify_bundle(path: Path, public_key: Path | None = None, threads: int = 0) -> Verification:
    """Run every check; a failed one does not keep the others from being run where they can be.

    Args:
        path: Bundle folder or .zip.
        public_key: Key the signature must be of; None leaves it unchecked, and says so.
        threads: Threads for the golden case; 0 takes every processor this process may use.

    Raises:
        BundleError: There is no such bundle, or the public key cannot be used.
    """
    found = Verification()
    try:
        found.bundle = Bundle.open(path)
    except BundleError as error:
        if error.reason == "no-bundle":
            raise
        found.checks = _unopened(error)
        return found
    bundle = found.bundle
    found.checks += [
        Check("files and hashes", "ok", f"all files are those that were hashed; the bundle is {bundle.sha256[:16]}"),
        Check("schema", "ok", f"bundle.json describes {bundle.spec.name!r}, a {bundle.spec.task} bundle"),
        _signature(bundle, public_key),
        _golden(bundle, found, threads),
        _licence(bundle),
        *_card(bundle),
    ]
    return found


def _unopened(error: BundleError) -> list[Check]:
    """What is known of a bundle that cannot be opened: schema problems are found after the hashes were right."""
    hashed = error.reason in ("schema", "schema-version")
    files = Check("files and hashes", "ok", "all files are those that were hashed")
    return [
        files if hashed else Check("files and hashes", "failed", error.message),
        Check("schema", "failed", error.message) if hashed else Check("schema", "not done", "the files are not right"),
        *(Check(name, "not done", "the bundle cannot be opened") for name in ("signature", "golden case", "licence")),
        Check("model card", "not done", "the bundle cannot be opened"),
    ]


def _signature(bundle: Bundle, public_key: Path | None) -> Check:
    signed = (bundle.folder / SIGNATURE).is_file()
    if public_key is None:
        what = "signed, signature not checked: give --public-key" if signed else "not signed"
        return Check("signature", "told", what)
    try:
        check_signature(bundle.folder, public_key)
    except BundleError as error:
        if error.reason not in ("not-signed", "bad-signature"):
            raise
        return Check("signature", "failed", error.message)
    return Check("signature", "ok", f"signed by the key in {public_key.name}")


def _golden(bundle: Bundle, found: Verification, threads: int) -> Check:
    from medssl.runtime.predictor import Predictor  # noqa: PLC0415 (onnxruntime is slow to import)

    try:
        predictor = Predictor(bundle.folder, threads)
    except BundleError as error:
        return Check("golden case", "failed", error.message)
    found.golden = {"largest_difference": predictor.golden_difference}
    return Check(
        "golden case", "ok", f"this machine differs by at most {predictor.golden_difference:.2g} from what was recorded"
    )


def _licence(bundle: Bundle) -> Check:
    text = bundle.spec.licence.strip()
    if not text:
        return Check("licence", "failed", "none is stated: ask the bundle's maker before any use")
    return Check("licence", "ok", text)


def _card(bundle: Bundle) -> list[Check]:
    sections = card_sections(bundle)
    missing = [name for name in CARD_SECTIONS if not sections.get(name)]
    if missing:
        return [Check("model card", "failed", f"missing or empty: {', '.join(missing)}")]
    checks = [Check("model card", "ok", f"all {len(CARD_SECTIONS)} sections are there")]
    if bundle.spec.intended_use in ("", NO_INTENDED_USE):
        checks.append(Check("intended use", "told", "its maker did not say what it is for"))
    if _UNMEASURED in sections["Measured"]:
        checks.append(Check("measured", "told", "nobody measured it on held-out patients before it was made"))
    return checks


def card_sections(bundle: Bundle) -> dict[str, str]:
    """Text below each `## ` heading of the model card."""
    text = (bundle.folder / "MODEL_CARD.md").read_text(encoding="utf-8", errors="replace")
    found: dict[str, str] = {}
    for part in ("\n" + text).split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        found[title.strip()] = body.strip()
    return found
