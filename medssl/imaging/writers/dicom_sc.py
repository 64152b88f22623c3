"""Secondary capture out: the overlay picture as a DICOM image for viewers that show no segmentation objects."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from highdicom.sc import SCImage
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from medssl.imaging.labels import Label
from medssl.imaging.volume import Volume
from medssl.imaging.writers.dicom_source import (
    RESEARCH_ONLY,
    WHERE_KNOWN,
    Maker,
    copy_present,
    identity,
    quiet,
    read_source,
    reference,
    save,
)
from medssl.imaging.writers.overlay import overlay_picture


def write_secondary_capture(
    image: Volume, mask: Volume | None, labels: Sequence[Label], path: Path, maker: Maker, text: Sequence[str] = ()
) -> tuple[str, ...]:
    """Write the overlay picture with the cautions and "for research only" drawn into its pixels.

    Args:
        image: The DICOM image; the object belongs to its study and refers to its files.
        mask: (1, *S) uint8 on its grid, None for a classification.
        labels: Classes.
        path: File to write.
        maker: The algorithm, whose cautions are drawn below the picture.
        text: Lines above them: what was found.

    Returns:
        Notes for the user: what was left out of the image's headers.

    Raises:
        ImageError: The image is not DICOM.
    """
    datasets, further, notes = read_source(image)
    own = identity(datasets, further, maker, "dicom-sc", *text, *([] if mask is None else [mask.array[0]]))
    picture = overlay_picture(image, mask, labels, (f"{maker.model}.", *text, *maker.cautions))
    with quiet():
        capture = SCImage.from_ref_dataset(
            ref_dataset=datasets[0],
            pixel_array=np.asarray(picture),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "P"),
            series_instance_uid=own.uid("series"),
            series_number=920,
            sop_instance_uid=own.uid("instance"),
            instance_number=1,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            series_description=maker.description(),
            **maker.equipment(),
        )
        copy_present(datasets[0], capture, WHERE_KNOWN)
        capture.PatientOrientation = []  # a sheet of planes and text has none of its own
        capture.Laterality = datasets[0].get("Laterality", "")  # due, empty where the source does not say
        capture.ConversionType = "WSD"  # drawn by a program
        capture.ImageType = ["DERIVED", "SECONDARY"]
        capture.DerivationDescription = f"Overlay of a result. {RESEARCH_ONLY}."
        if told := _burned_in((*datasets, *further)):  # the text of the result itself names nobody
            capture.BurnedInAnnotation = told
        capture.SourceImageSequence = [reference(d) for d in (*datasets, *further)]
        save(capture, datasets[0], path)
    return notes


def _burned_in(datasets: Sequence[Dataset]) -> str:
    """What the sources say of text in their pixels, which the picture repeats: YES of one, NO of all, else nothing."""
    said = {str(d.get("BurnedInAnnotation", "") or "").strip().upper() for d in datasets}
    return "YES" if "YES" in said else "NO" if said == {"NO"} else ""
