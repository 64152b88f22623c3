"""Coverage-guided fuzzing of the readers and of bundles with atheris (libFuzzer); `make fuzz` runs it.

    python tests/fuzz/fuzz_readers.py FOLDER -max_total_time=600 -seed=1

FOLDER keeps the inputs that reached new code; valid files of every kind are put there first. The first byte of an input
chooses the kind of file, the rest is the file. Anything but a volume, a bundle or a MedsslError stops the run.
"""

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

_HERE = Path(__file__).resolve()
sys.path[:0] = [str(_HERE.parents[n] / part) for n, part in ((2, ""), (1, ""), (1, "hostile"), (1, "runtime"))]

with atheris.instrument_imports(include=["medssl", "pydicom"]):
    from medssl.imaging.errors import MedsslError
    from medssl.imaging.readers.open import read_volume
    from medssl.runtime.bundle import BundleSpec
    from medssl.runtime.bundle_guard import check_arrays, check_graph, read_options

_NAMES = ("a.dcm", "a.nii", "a.nrrd", "a.mha", "a.png", "a.tif", "a.zip", "bundle.json", "model.onnx", "golden.npz")
_FOLDER = tempfile.TemporaryDirectory(prefix="medssl-fuzz-")


def one_input(data: bytes) -> None:
    """Write the input as a file of its kind and read it."""
    if not data:
        return
    name = _NAMES[data[0] % len(_NAMES)]
    path = Path(_FOLDER.name) / name
    path.write_bytes(data[1:])
    try:
        if name == "bundle.json":
            BundleSpec.from_json(read_options(path))
        elif name == "model.onnx":
            check_graph(data[1:])
        elif name == "golden.npz":
            check_arrays(path, "golden")
        else:
            read_volume(path)
    except MedsslError:
        pass


def write_seeds(folder: Path) -> None:
    """Valid files of every kind."""
    import io
    import zipfile

    import hostile_dicom
    import hostile_itk
    import hostile_nifti
    import hostile_pixels
    import hostile_raster
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless, RLELossless
    from tiny_bundle import write_bundle

    with tempfile.TemporaryDirectory() as place:
        bundle = write_bundle(Path(place) / "b")
        files = {name: (bundle / name).read_bytes() for name in ("bundle.json", "model.onnx", "golden.npz")}
    packed = io.BytesIO()
    dicom = hostile_dicom.encoded(hostile_dicom.plain())
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.dcm", dicom)
    frames = [hostile_pixels.compressed(kind) for kind in (RLELossless, JPEG2000Lossless)]
    holders = [
        hostile_pixels.with_pixels(hostile_pixels.holder(), kind, encapsulate([frame + bytes(len(frame) % 2)]))
        for kind, frame in zip((RLELossless, JPEG2000Lossless), frames, strict=True)
    ]
    seeds = [
        ("a.dcm", dicom), *(("a.dcm", content) for content in holders), ("a.nii", bytes(hostile_nifti.plain())),
        ("a.nrrd", hostile_itk.nrrd()), ("a.mha", hostile_itk.mha()), ("a.png", hostile_raster.picture("PNG")),
        ("a.tif", hostile_raster.picture("TIFF")), ("a.zip", packed.getvalue()), *files.items(),
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, content) in enumerate(seeds):
        (folder / f"seed-{number:02d}").write_bytes(bytes([_NAMES.index(name)]) + content)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write_seeds(Path(sys.argv[1]))
    atheris.Setup([*sys.argv, "-max_len=12000", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"], one_input)
    atheris.Fuzz()
