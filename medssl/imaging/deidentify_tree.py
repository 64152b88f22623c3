"""A folder of DICOM files without their patients: what may leave is written, the rest is told, with its reason."""

import os
import re
import secrets
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import RE_VALID_UID, MediaStorageDirectoryStorage

from medssl.imaging.deidentify import Pseudonyms, deidentify
from medssl.imaging.deidentify_issuers import Numbers, find_numbers, several
from medssl.imaging.deidentify_pixels import bytes_behind, transfer_syntax, unused_bits
from medssl.imaging.errors import ConfigError, ImageError
from medssl.imaging.files import atomic_path
from medssl.imaging.problems import Problem
from medssl.imaging.progress import track
from medssl.imaging.readers.dicom_frames import SEGMENTATIONS, instance_of, read_header

_KEY_BYTES = 32
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_DRAWN = re.compile(r"SCREEN|CAPTURE|DOSE|REPORT|(?<![A-Z])PROT(?:OCOL)?(?![A-Z])")
"""Values of ImageType of dose pages, patient protocols and copies of screens that scanners store as CT or MR."""
_OVERLAYS, _OVERLAY_POSITION, _OVERLAY_DATA = 0x60, 0x0102, 0x3000
_MAY_BE_WRITTEN_ON = {"US", "IVUS", "OT", "SC", "ES", "XC", "GM", "DOC", "ECG", "HD"}
"""Modalities whose pictures often carry the patient's name in their pixels."""
_IMAGES = "1.2.840.10008.5.1.4.1.1"
_KINDS = {
    f"{_IMAGES}.3": "US",  # ultrasound, several frames
    f"{_IMAGES}.6": "US",
    f"{_IMAGES}.77.1.1": "ES",
    f"{_IMAGES}.77.1.2": "GM",
    f"{_IMAGES}.77.1.4": "XC",
}
"""Kinds of objects, and those below them, that tell such a modality where the attribute is missing."""


@dataclass
class Written:
    """What became of a folder.

    Args:
        files: Files written.
        patients: Pseudonyms.
        problems: One for each file not written, and for each thing that was assumed, replaced or cut off in one.
    """

    files: int
    patients: set[str]
    problems: list[Problem]


def load_key(path: Path) -> bytes:
    """Key of the pseudonyms; made, readable for its owner alone, where there is none.

    Raises:
        ConfigError: The file is no key, or others may read it.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(_KEY_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError([f"key {path} may be read by others: chmod 600 {path}; who has it can link the pseudonyms"])
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError:
        key = b""
    if len(key) < _KEY_BYTES:
        raise ConfigError([f"{path} holds no key of {_KEY_BYTES} bytes: give another file, or let one be made"])
    return key


def find_files(folder: Path) -> tuple[list[Path], list[Problem]]:
    """Every file and link at or below a folder, links not followed, and the folders that cannot be entered."""
    problems: list[Problem] = []

    def refused(error: OSError) -> None:
        message = "the folder may not be read: ask its owner"
        problems.append(Problem(str(error.filename), "no-permission", "left out", message))

    if folder.is_file():
        return [folder], problems
    found: list[Path] = []
    for root, folders, names in os.walk(folder, onerror=refused):
        found += [Path(root) / name for name in names]
        found += [Path(root) / name for name in folders if (Path(root) / name).is_symlink()]
    return sorted(found), problems


def deidentify_tree(
    folder: Path, out: Path, pseudonyms: Pseudonyms, *, accept_burned_in: bool, tell: Callable[[int], None]
) -> Written:
    """Write every DICOM image below a folder without its patient.

    Args:
        folder: Folder, or a file.
        out: New folder; files are named by their new UIDs: OUT/STUDY/SERIES/INSTANCE.dcm.
        pseudonyms: New names, UIDs and dates.
        accept_burned_in: Write images too that may have text in their pixels.
        tell: Called with the number of files looked at.
    """
    files, problems = find_files(folder)
    numbers = find_numbers(track(files, "deidentify: patient numbers", len(files), "file"))
    result = Written(0, set(), [*problems, *_joined_patients(folder, numbers)])
    for number, file in enumerate(files, start=1):
        try:
            patient, mended = _one(file, out, pseudonyms, accept_burned_in, numbers)
            result.patients.add(patient)
            result.files += 1
            result.problems += [Problem(str(file), reason, "mended", message) for reason, message in mended.items()]
        except ImageError as error:
            result.problems.append(Problem(str(file), error.reason, "left out", error.message))
        except PermissionError:
            result.problems.append(
                Problem(str(file), "no-permission", "left out", "the file may not be read: ask its owner")
            )
        tell(number)
    return result


def _joined_patients(folder: Path, numbers: Numbers) -> list[Problem]:
    """Numbers that one study ascribes to several issuers."""
    joined = [(number, groups) for number, groups in numbers.issuers.items() if len(groups) == 1 and len(groups[0]) > 1]
    return [
        Problem(
            str(folder),
            "several-issuers",
            "mended",
            f"PatientID {number!r} has the issuers {several(groups)} in one study: taken for one patient",
        )
        for number, groups in joined
    ]


def _name_patient(dataset: Dataset, file: Path, numbers: Numbers) -> dict[str, str]:
    """Give a data set without a PatientID that of its study; what was assumed, by reason.

    Raises:
        ImageError: Two people would become one, or one two: its study names several numbers, or its number comes from
            issuers that no study names together.
    """
    mended = {}
    if not str(dataset.get("PatientID", "") or "").strip():
        others = numbers.studies.get(str(dataset.get("StudyInstanceUID", "")).strip(), set())
        if len(others) > 1:
            raise ImageError(
                f"{file} has no PatientID, and its study names several: set the one that it belongs to",
                reason="patients",
            )
        if others:
            dataset.PatientID = next(iter(others))
            mended["patient-of-study"] = "it has no PatientID: taken for the patient of its study, whom others name"
    groups = numbers.issuers.get(str(dataset.get("PatientID", "") or "").strip(), [])
    if len(groups) > 1:
        raise ImageError(
            f"{file}: its PatientID comes from the issuers {several(groups)} in different studies, which may be of "
            "different people: give the files of each issuer by themselves, with a key of their own (--private), or, "
            "where it is one person, set IssuerOfPatientID to the same in all",
            reason="several-issuers",
        )
    return mended


def _one(
    file: Path, out: Path, pseudonyms: Pseudonyms, accept_burned_in: bool, numbers: Numbers
) -> tuple[str, dict[str, str]]:
    """Write one file; the pseudonym of its patient, and what was mended, by reason.

    Raises:
        ImageError: The file must not or cannot be written.
    """
    if file.is_symlink():
        raise ImageError(f"{file} is a link: links are not followed", reason="link")
    if not file.is_file():
        raise ImageError(f"{file} is no regular file", reason="no-file")
    header = read_header(file)
    _refuse(header, file, accept_burned_in)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's remarks on odd files; what matters is told in problems.csv
            dataset = pydicom.dcmread(file, force=True)
        return _written(dataset, file, out, pseudonyms, accept_burned_in, numbers)
    except (ImageError, PermissionError):
        raise
    except OSError as error:
        if error.errno is not None and not isinstance(error, EOFError):
            raise  # a full disk ends the run
        raise ImageError(f"{file} is cut or unreadable: copy it again", reason="truncated") from error
    except Exception as error:  # pydicom raises many kinds on damaged files; each means the same to the user
        raise ImageError(f"{file} is damaged DICOM ({type(error).__name__})", reason="bad-dicom") from error


def _written(
    dataset: FileDataset, file: Path, out: Path, pseudonyms: Pseudonyms, accept_burned_in: bool, numbers: Numbers
) -> tuple[str, dict[str, str]]:
    if "SOPInstanceUID" not in dataset:  # the header has it: pydicom gives nothing of a file that ends within pixels
        raise ImageError(f"{file} is cut within its pixels: copy it again", reason="truncated")
    syntax = transfer_syntax(dataset)
    if not syntax.is_private and not syntax.is_transfer_syntax:
        raise ImageError(f"{file}: files of transfer syntax {syntax} cannot be written", reason="cannot-decode")
    if not accept_burned_in and unused_bits(dataset):
        raise ImageError(
            f"{file}: bits of the pixels that their values do not use ({dataset.BitsStored} of {dataset.BitsAllocated} "
            "are used) hold something, which may be text of an old overlay: clear them, or, where more are used than "
            "BitsStored says, give --accept-burned-in",
            reason="burned-in-text",
        )
    mended = _name_patient(dataset, file, numbers)
    if any(behind := bytes_behind(dataset)):
        mended["bytes-behind-pixels"] = (
            f"{len(behind)} bytes behind the last pixel were cut off; where they are images, NumberOfFrames is wrong"
        )
    if named := deidentify(dataset, pseudonyms):
        mended["identity-in-text"] = f"a name or number stood in {', '.join(named)}, which the profile keeps: replaced"
    names = [str(dataset[k].value) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
    if not all(re.fullmatch(RE_VALID_UID, name) for name in names):
        what = "StudyInstanceUID, SeriesInstanceUID and SOPInstanceUID"
        raise ImageError(f"{file}: {what}, which its new name is made of, must be one UID each", reason="bad-uid")
    target = out.joinpath(*names[:2], f"{names[2]}.dcm")
    if target.exists():
        raise ImageError(f"{file}: another file is the same instance (SOPInstanceUID)", reason="duplicate")
    with atomic_path(target) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
    return str(dataset.PatientID), mended


def _refuse(header: Dataset, file: Path, accept_burned_in: bool) -> None:
    """Leave out what is no image, incomplete, or may show its patient in the pixels.

    Raises:
        ImageError: With the reason.
    """
    kind = str(
        header.get("SOPClassUID", "") or getattr(header, "file_meta", Dataset()).get("MediaStorageSOPClassUID", "")
    )
    if kind == MediaStorageDirectoryStorage:
        raise ImageError(f"{file} is a DICOMDIR, an index of the old names: it is not copied", reason="dicomdir")
    if kind not in SEGMENTATIONS:
        cut = instance_of(header, file).cut
        if cut:
            raise ImageError(cut, reason="truncated")
    missing = [k for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID") if not header.get(k, None)]
    if missing:
        raise ImageError(f"{file} lacks {', '.join(missing)}, which its new name is made of", reason="no-uid")
    if not accept_burned_in and (why := _burned_in(header, kind)):
        raise ImageError(
            f"{file}: {why}; look at it, and give --accept-burned-in for a folder of images without text",
            reason="burned-in-text",
        )


def _burned_in(header: Dataset, kind: str) -> str:
    """Why the pixels may show who the patient is; empty where nothing speaks for it."""
    said = str(header.get("BurnedInAnnotation", "") or "").strip().upper()
    if said == "YES":
        return "BurnedInAnnotation says that text is drawn into the pixels"
    if kind in SEGMENTATIONS:
        return ""
    modality = str(header.get("Modality", "") or "").strip().upper() or _modality_of(kind)
    if said != "NO" and modality in _MAY_BE_WRITTEN_ON:
        return f"an image of modality {modality} often has text in its pixels, and BurnedInAnnotation does not deny it"
    return _drawn(header, kind)


def _modality_of(kind: str) -> str:
    """Modality that a kind of object is for, where that is one of those that are often written on."""
    return next((name for root, name in _KINDS.items() if kind == root or kind.startswith(f"{root}.")), "")


def _drawn(header: Dataset, kind: str) -> str:
    """What a program drew is not believed to be free of text: NO is written by habit, our own pictures say it too."""
    if kind == _SECONDARY_CAPTURE or kind.startswith(f"{_SECONDARY_CAPTURE}."):
        return "a secondary capture often has text in its pixels, whatever BurnedInAnnotation says"
    values = header.get("ImageType", None) or ()
    for value in [values] if isinstance(values, str) else values:
        if _DRAWN.search(str(value).upper()):
            return f"ImageType calls it {value}, a page of text or a copy of a screen"
    groups = {tag.group for tag in list(header.keys()) if tag.group >> 8 == _OVERLAYS}
    if any((group, _OVERLAY_POSITION) in header and (group, _OVERLAY_DATA) not in header for group in groups):
        return "an overlay, which may be text, is drawn into unused bits of the pixels"
    return ""
