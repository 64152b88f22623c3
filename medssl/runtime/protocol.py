"""Validation protocol of an installation (IQ, OQ, PQ), with everything filled in that a machine can check."""

import datetime
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from medssl.imaging.errors import MedsslError
from medssl.imaging.files import sha256
from medssl.imaging.geometry import Geometry
from medssl.imaging.volume import Volume
from medssl.runtime.bundle import Bundle, BundleSpec
from medssl.runtime.checks import Check, Verification
from medssl.runtime.performance.tables import table

_PACKAGES = ("medssl", "numpy", "onnxruntime", "nibabel", "pydicom", "highdicom", "pillow")
_CASES = 10
_Trial = tuple[str, str, Callable[[Path], object]]
"""What is tried, the reason code it must be refused with, and the attempt in a scratch folder."""


def refusals(bundle: Bundle, threads: int = 0) -> list[Check]:
    """Try what must be refused, on generated images: a check is `ok` where it was, with the reason that is due."""
    return [*(_tried(*trial) for trial in _trials(bundle, threads)), _foreign(bundle, threads)]


def _foreign(bundle: Bundle, threads: int) -> Check:
    """Whether another modality is refused; a bundle that does not say which are its own refuses none, which is told."""
    from medssl.imaging.readers.open import read_volume  # noqa: PLC0415 (slow to import, as is the next)
    from medssl.runtime.predictor import Predictor  # noqa: PLC0415

    name, own = "a DICOM image of another modality", bundle.spec.modalities
    if not own:
        return Check(
            name, "told", "not tried: the bundle does not say of which modality its images are: none is refused"
        )

    def attempt(folder: Path) -> None:
        image = read_volume(_series(folder))
        array = image.array.repeat(len(bundle.spec.channels), axis=0)
        other = next(code for code in ("CT", "MR", "PT", "US", "DX", "OP") if code not in own)
        Predictor(bundle.folder, threads).predict(replace(image, array=array, modality=other))

    return _tried(name, "modality", attempt)


def _tried(name: str, reason: str, attempt: Callable[[Path], object]) -> Check:
    with tempfile.TemporaryDirectory(prefix="medssl-verify-") as folder:
        try:
            attempt(Path(folder))
        except MedsslError as error:
            return Check(name, "ok" if error.reason == reason else "failed", f"refused with reason `{error.reason}`")
    return Check(name, "failed", f"was not refused; `{reason}` is due")


def _trials(bundle: Bundle, threads: int) -> list[_Trial]:
    from medssl.imaging.readers.open import read_volume  # noqa: PLC0415 (slow to import, as are those below)
    from medssl.imaging.writers.nifti import write_nifti  # noqa: PLC0415
    from medssl.runtime.predictor import Predictor  # noqa: PLC0415

    def altered(folder: Path) -> None:
        copy = folder / "bundle"
        shutil.copytree(bundle.folder, copy)
        content = bytearray((copy / "model.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (copy / "model.onnx").write_bytes(content)
        Bundle.open(copy)

    def newer(_: Path) -> None:
        content = bundle.spec.to_json()
        BundleSpec.from_json({**content, "schema_version": content["schema_version"] + 1})

    def missing_slice(folder: Path) -> None:
        read_volume(_series(folder, left_out=4))

    def cut(folder: Path) -> None:
        file = sorted(_series(folder).iterdir())[3]
        file.write_bytes(file.read_bytes()[:-40])
        read_volume(file.parent)

    def not_numbers(folder: Path) -> None:
        broken = _image().array.astype(np.float32)
        broken[0, 3, 3, 3] = np.nan
        write_nifti(replace(_image(), array=broken), folder / "nan.nii.gz")
        read_volume(folder / "nan.nii.gz")

    def channels(_: Path) -> None:
        image = _image()
        count = len(bundle.spec.channels) + 1
        Predictor(bundle.folder, threads).predict(replace(image, array=image.array.repeat(count, axis=0)))

    return [
        ("a bundle of which one bit was changed", "hash-mismatch", altered),
        ("a bundle of a newer schema", "schema-version", newer),
        ("a DICOM series with a missing slice", "missing-slice", missing_slice),
        ("a DICOM series with a file that was cut short", "truncated", cut),
        ("an image with values that are no numbers", "non-finite", not_numbers),
        ("an image with one channel too many", "channels", channels),
    ]


def _image() -> Volume:
    values = np.random.default_rng(0).integers(0, 1000, (1, 12, 12, 10)).astype(np.uint16)
    return Volume(values, Geometry(np.diag([1.0, 1.0, 2.0, 1.0]), (12, 12, 10)), "MR")


def _series(folder: Path, left_out: int | None = None) -> Path:
    from medssl.imaging.writers.dicom_image import write_mr_series  # noqa: PLC0415

    write_mr_series(_image(), folder / "series", patient="TEST", description="generated for a refusal test")
    if left_out is not None:
        sorted((folder / "series").iterdir())[left_out].unlink()
    return folder / "series"


def write_protocol(found: Verification, tried: Sequence[Check], performance: Sequence[str] = ()) -> str:
    """Markdown text of the protocol.

    Args:
        found: What `verify_bundle` found.
        tried: What `refusals` found; empty where the bundle could not be used.
        performance: Lines on the site's own cases; empty leaves a table for people to fill in.
    """
    bundle = found.bundle
    title = bundle.spec.name if bundle else "a bundle that cannot be opened"
    lines = [
        f"# Validation protocol: {title}",
        "",
        "**Not a medical device. For research only.** This protocol shows that the software was installed and works as "
        "its maker says; it is no proof that its results are right for your patients: part 3 is yours.",
        "",
        f"Filled in by medssl {version('medssl')} on {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC.",
        "",
        "## 1. Installation (IQ)",
        "",
        *table(("item", "found"), _installation(bundle)),
        "",
        "## 2. Operation (OQ)",
        "",
        *table(("check", "result", "detail"), [(c.name, c.status, c.detail) for c in found.checks]),
        "",
        "What must be refused, tried on generated images:",
        "",
        *(
            table(("tried", "result", "detail"), [(c.name, c.status, c.detail) for c in tried])
            if tried
            else ["Not tried, because the bundle did not pass the checks above."]
        ),
        "",
        "## 3. Performance at this site (PQ)",
        "",
        *(performance or _performance(bundle)),
        "",
        "## Signatures",
        "",
        *table(("role", "name", "date", "signature"), [(r, "", "", "") for r in ("carried out by", "reviewed by")]),
        "",
    ]
    return "\n".join(lines)


def _installation(bundle: Bundle | None) -> list[tuple[str, str]]:
    rows = [("machine", platform.platform()), ("Python", sys.version.split()[0])]
    for name in _PACKAGES:
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            rows.append((name, "not installed under this name"))
    if bundle is not None:
        files = sorted(p for p in bundle.folder.iterdir() if p.is_file())
        rows += [("bundle", f"`{bundle.sha256}`"), *((p.name, f"`{sha256(p)}`") for p in files)]
        rows += [("intended use", bundle.spec.intended_use), ("licence", bundle.spec.licence)]
    return rows


def _performance(bundle: Bundle | None) -> list[str]:
    segments = bundle is None or bundle.spec.task == "segmentation"
    measure, formats, numbers = (
        ("Dice of each structure", "nifti,dicom-seg,dicom-sr,json", "sizes")
        if segments
        else ("class", "dicom-sr,json", "probabilities")
    )
    header = ("case", "expected", f"found ({measure})", "flags and warnings", "accepted (yes or no)", "initials")
    return [
        "Take cases of your own with a reference drawn or confirmed by an expert: consecutive ones, every scanner and "
        "protocol in use, at least one with no finding, and at least one that must be refused (another region, another "
        "modality). Decide beforehand what agreement is enough, and write it here: ________",
        "",
        "`medssl verify BUNDLE --checklist FILE.md --cases MANIFEST.csv` compares the results with the references and "
        "fills in this part; the table below is for what is compared by eye.",
        "",
        f"`medssl predict BUNDLE CASES --out RESULTS --format {formats}` makes the results; "
        f"RESULTS/summary.csv lists {numbers}, flags and warnings of every case.",
        "",
        *table(header, [(str(k), "", "", "", "", "") for k in range(1, _CASES + 1)]),
    ]
