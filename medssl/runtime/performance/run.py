"""Predicts a site's own cases as the clinic does, and compares each result with its reference on the native grid."""

import errno
import time
from dataclasses import dataclass
from pathlib import Path

from medssl.imaging.errors import ImageError, MedsslError, in_words
from medssl.imaging.files import HOPELESS
from medssl.imaging.manifest import Row
from medssl.imaging.progress import Progress
from medssl.imaging.readers.open import read_label
from medssl.imaging.volume import Volume
from medssl.runtime.bundle import BundleSpec
from medssl.runtime.confidence import interval_ml
from medssl.runtime.performance.cases import SiteCases, read_image, reference_of
from medssl.runtime.performance.measured import CaseMeasure, Structure, Unusable
from medssl.runtime.performance.overlap import overlaps
from medssl.runtime.predictor import Predictor


@dataclass(frozen=True)
class Performance:
    """What a site's cases showed.

    Args:
        spec: The bundle's.
        site: The cases.
        measured: Those that were compared.
        unusable: The others, damaged files of an indexed folder among them.
    """

    spec: BundleSpec
    site: SiteCases
    measured: tuple[CaseMeasure, ...]
    unusable: tuple[Unusable, ...]

    @property
    def patients(self) -> int:
        """Patients with a case that was compared."""
        return len({case.row.patient for case in self.measured})


def measure_site(bundle: Path, site: SiteCases, threads: int = 0) -> Performance:
    """Predict and compare every case; one that fails is kept with its reason, and the others go on.

    Args:
        bundle: Folder of a bundle.
        site: Its cases.
        threads: Threads to compute with; 0 takes every processor this process may use.

    Raises:
        BundleError: The bundle must not be used.
    """
    predictor = Predictor(bundle, threads)
    measured: list[CaseMeasure] = []
    unusable = [Unusable(problem.path, problem.reason, problem.message) for problem in site.damaged]
    with Progress("compare", len(site.rows), "case") as progress:
        for row in site.rows:
            result = _one(predictor, row, site.root)
            if isinstance(result, CaseMeasure):
                measured.append(result)
            else:
                unusable.append(result)
            progress.advance(note=row.case)
    return Performance(predictor.bundle.spec, site, tuple(measured), tuple(unusable))


def _one(predictor: Predictor, row: Row, root: Path) -> CaseMeasure | Unusable:
    if not reference_of(row, predictor.bundle.spec):
        return Unusable(row.case, "no-reference", "the manifest names no reference for it: nothing was predicted")
    try:
        return _compared(predictor, row, root)
    except MedsslError as error:
        return Unusable(row.case, error.reason, error.message)
    except Exception as error:  # of a library or a file, on one image: the others go on
        if isinstance(error, OSError) and error.errno in {*HOPELESS, errno.EACCES}:
            raise
        return Unusable(row.case, "unexpected", f"nothing was compared ({in_words(error)})")


def _compared(predictor: Predictor, row: Row, root: Path) -> CaseMeasure:
    spec, began = predictor.bundle.spec, time.perf_counter()
    image = read_image(row, root, spec)
    prediction = predictor.predict(image)
    seconds, report = time.perf_counter() - began, prediction.report
    flags = tuple(flag["code"] for flag in report["flags"])
    if prediction.mask is None:
        warnings, shares = tuple(report["warnings"]), report["probabilities"]
        return CaseMeasure(row, seconds, flags, warnings, called=report["class"], probabilities=shares)
    reference = _reference(row, root, image, spec)
    notes = tuple(f"reference: {note}" for note in reference.source.notes if note not in image.source.notes)
    structures, ignored = _structures(prediction.mask, reference, image, spec)
    return CaseMeasure(row, seconds, flags, (*report["warnings"], *notes), structures, ignored)


def _reference(row: Row, root: Path, image: Volume, spec: BundleSpec) -> Volume:
    """Label map on the image's own grid; another grid, and values that the bundle does not know, are refused."""
    try:
        return read_label(root / row.label, image, spec.labels, ignore=spec.ignore_label)
    except ImageError as error:
        if error.reason != "label-values":
            raise
        known = ", ".join(f"{label.value} {label.name}" for label in spec.labels)
        message = f"{error.message.split('; add them')[0]}; the bundle knows {known}: write the reference in these"
        raise ImageError(message, reason=error.reason) from error


def _structures(mask: Volume, reference: Volume, image: Volume, spec: BundleSpec) -> tuple[dict[str, Structure], int]:
    """Structures by name, and the number of voxels that nobody judged.

    Those count on neither side, in the measured volume and its interval neither, as where the intervals were measured.
    """
    found, ignored = overlaps(mask, reference, [label.value for label in spec.labels], spec.ignore_label)
    solid = image.spatial_dims == 3
    size = mask.geometry.voxel_ml if solid else mask.geometry.spacing_mm[0] * mask.geometry.spacing_mm[1]
    known = spec.intervals.get("labels", {}) if solid and image.source.calibrated else {}
    structures = {}
    for label in spec.labels:
        overlap, entry = found[label.value], known.get(str(label.value))
        interval = interval_ml(overlap.found * size, entry) if entry else None
        calibrated = size if image.source.calibrated else None
        structures[label.name] = Structure(overlap, calibrated, "mL" if solid else "mm2", interval)
    return structures, ignored
