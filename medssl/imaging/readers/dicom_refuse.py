"""DICOM that is refused as a whole: files that hold no scan, and series whose files do not belong together."""

from collections.abc import Sequence

from medssl.imaging.errors import ImageError
from medssl.imaging.patients import refuse_several
from medssl.imaging.readers.dicom_frames import Instance

_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"


def refuse_no_scan(instance: Instance) -> None:
    """Refuse files whose pixels are no image planes: doses, and Siemens mosaics, which show many slices in one.

    Raises:
        ImageError: It is one.
    """
    if instance.sop_class_uid == _DOSE:
        raise ImageError(f"{instance.path} holds radiation doses (RTDOSE), which are no image", reason="not-an-image")
    if "MOSAIC" in instance.image_type and instance.modality == "MR":
        raise ImageError(
            f"{instance.path} is a Siemens mosaic, all slices of a volume side by side in one picture: convert it with "
            "dcm2niix, or export it from the scanner with a file a slice",
            reason="mosaic",
        )


def refuse_mixed(planes: Sequence[Instance]) -> None:
    """Refuse files of several patients or studies under one SeriesInstanceUID, as careless de-identification makes.

    Raises:
        ImageError: It is so.
    """
    where = f"series {planes[0].series_uid or planes[0].path}"
    try:
        refuse_several((plane.person for plane in planes), f"{where}: its files")
    except ImageError as error:
        raise ImageError(f"{error.message}; give each patient's files alone", reason=error.reason) from error
    if (studies := len({plane.study_uid for plane in planes} - {""})) > 1:
        raise ImageError(
            f"{where}: its files are of {studies} studies (StudyInstanceUID): give the files of one",
            reason="mixed-series",
        )


def refuse_frames_of_reference(planes: Sequence[Instance]) -> None:
    """Refuse planes whose positions cannot be compared.

    Raises:
        ImageError: Two of them tell a FrameOfReferenceUID, and not the same.
    """
    if (frames := len({plane.frame_uid for plane in planes} - {""})) > 1:
        raise ImageError(
            f"series {planes[0].series_uid or planes[0].path}: its planes have {frames} frames of reference "
            "(FrameOfReferenceUID), so nobody knows how they lie to one another: give the files of one",
            reason="frame-of-reference",
        )
