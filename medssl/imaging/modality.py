"""DICOM's modalities of images, and what else people call them."""

_CODES = frozenset({
    "BI", "BMD", "CR", "CT", "DG", "DMS", "DX", "ES", "GM", "IO", "IVOCT", "IVUS", "LS", "MG", "MR", "NM", "OCT", "OP",
    "OPT", "OT", "PT", "PX", "RF", "RG", "SM", "TG", "US", "XA", "XC",
})  # fmt: skip
_ALSO = {"MRI": "MR", "PET": "PT"}


def known_modality(text: str) -> str:
    """DICOM's code for a modality, empty where the text is none."""
    code = text.strip().upper()
    return code if code in _CODES else _ALSO.get(code, "")
