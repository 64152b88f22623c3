"""DICOM's modalities of images, what else people call them, and the units of PET."""

_CODES = frozenset({
    "BI", "BMD", "CR", "CT", "DG", "DMS", "DX", "ES", "GM", "IO", "IVOCT", "IVUS", "LS", "MG", "MR", "NM", "OCT", "OP",
    "OPT", "PT", "PX", "RF", "RG", "SM", "TG", "US", "XA", "XC",
})  # fmt: skip
_ALSO = {"MRI": "MR", "PET": "PT"}
_UPTAKE = ("GML", "CM2ML")
"""Units of PET that are standardised uptake values, by body weight or surface."""
_UNITS = frozenset({
    *_UPTAKE, "CNTS", "NONE", "CM2", "PCNT", "CPS", "BQML", "MGMINML", "UMOLMINML", "MLMING", "MLG", "1CM", "UMOLML",
    "PROPCNTS", "PROPCPS", "MLMINML", "MLML", "STDDEV",
})  # fmt: skip


def known_modality(text: str) -> str:
    """DICOM's code for a modality, empty where the text is none, or `OT` (other), which tells nothing."""
    code = text.strip().upper()
    return code if code in _CODES else _ALSO.get(code, "")


def pet_units(text: str) -> str:
    """DICOM's code for the unit of a PET image, empty where the text is none."""
    return text.strip() if text.strip() in _UNITS else ""


def pet_note(units: str) -> str:
    """What to know of the intensities of a PET image, given its unit."""
    if units in _UPTAKE:
        return f"PET intensities are in {units}, which is a standardised uptake value (SUV)"
    told = units or "a unit that the image does not name"
    return f"PET intensities are in {told}, not SUV: do not use a network that was trained on SUV"
