"""Small cohorts on disk, prepared as users prepare them, for tests of whole stages."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from small_networks import network, network_spec

from medssl.commands.prepare import prepare
from medssl.data.cache import Cache
from medssl.imaging.geometry import Geometry
from medssl.imaging.manifest import Manifest, Row
from medssl.imaging.preprocess import Preprocess
from medssl.imaging.volume import Volume
from medssl.imaging.writers.nifti import write_nifti
from medssl.tasks.model_file import ModelSpec, save_model

ENCODER = {
    "class_path": "medssl.models.unet.ResidualUNetEncoder",
    "init_args": {"features": [4, 8], "blocks": [0, 1]},
}
PRETRAIN = {
    "method": {"class_path": "medssl.methods.spark.SparK", "init_args": {"block": 4}},
    "encoder": ENCODER,
    "views": {"size": [16, 16, 8]},
    "train": {"steps": 2, "batch_size": 2},
}
"""Options of `medssl pretrain` on these cohorts, done in no time."""

FINETUNE = {
    "network": {"encoder": ENCODER, "decoder": {"class_path": "medssl.models.decoders.UNetDecoder"}},
    "crops": {"size": [16, 16, 8]},
    "train": {"steps": 2, "batch_size": 2},
}
"""Options of `medssl finetune`, likewise."""

SPACING_MM = (1.0, 1.5, 3.0)
SHAPE = (20, 16, 12)


def write_scans(
    root: Path, dims: int = 3, patients: int = 6, classes: tuple[str, ...] = (), validation: int = 1
) -> Manifest:
    """Boxes of two classes with intensities of their own; patient `p` has the cases `pL` and `pR`.

    3D: NIfTI with the first axis to the left and voxels of SPACING_MM; 2D: PNG, which knows no voxel size. The last two
    patients are the test split, the one before, or more, the split val without label maps.
    """
    rng = np.random.default_rng(0)
    shape, suffix = SHAPE[:dims], ".nii.gz" if dims == 3 else ".png"
    rows = []
    for patient in range(patients):
        for side in "LR":
            case, label = f"{patient}{side}", np.zeros(shape, np.uint8)
            start = rng.integers(2, 5, size=dims)
            label[tuple(slice(s, s + 6) for s in start)] = 1
            label[tuple(slice(s + 2, s + 5) for s in start)] = 2
            image = np.array([20, 70, 120])[label] + rng.normal(0, 1, shape)
            _write(np.rint(image).astype(np.uint8), root / "images" / f"{case}{suffix}")
            _write(label, root / "labels" / f"{case}{suffix}")
            labelled = not patients - 2 - validation <= patient < patients - 2
            rows.append(
                Row(
                    case=case,
                    patient=f"patient{patient}",
                    image=f"images/{case}{suffix}",
                    label=f"labels/{case}{suffix}" if labelled else "",
                    class_name=classes[patient % len(classes)] if classes else "",
                    modality="MR",
                    split="test" if patient >= patients - 2 else "val" if not labelled else "train",
                )
            )
    manifest = Manifest.from_rows(rows, root=root)
    manifest.write(root / "manifest.csv")
    return manifest


def _write(array: npt.NDArray[np.uint8], path: Path) -> None:
    if array.ndim == 3:
        grid = Geometry(np.diag([-SPACING_MM[0], *SPACING_MM[1:], 1.0]), array.shape)
        write_nifti(Volume(array[None], grid, "MR"), path)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


def make_cache(root: Path, dims: int = 3, classes: tuple[str, ...] = (), patients: int = 6) -> Cache:
    """Scans below `root` and their cache `root/cache`, at native spacing."""
    write_scans(root, dims, patients, classes)
    prepare(root / "manifest.csv", root / "cache", Preprocess(spatial_dims=dims), workers=1)
    return Cache.open(root / "cache")


def make_run(folder: Path, cache: Cache, kind: str = "unet", seed: int = 0, folds: int = 0) -> Path:
    """Run folder with an untrained model for the cache, or one a fold."""
    dims = cache.spatial_dims
    classes = len(cache.classes) if kind == "classifier" else 3
    spec = ModelSpec(
        network=network_spec(kind, dims, len(cache.channels), classes),
        preprocess=cache.preprocess,
        window=(16, 16, 8)[:dims],
        overlap=0.5,
        mirror_axes=(),
        labels=() if kind == "classifier" else cache.labels,
        classes=cache.classes if kind == "classifier" else (),
        ignore_label=cache.ignore_label,
        channels=cache.channels,
        provenance={
            "data_sha256": cache.data_sha256,
            "init": "/home/somebody/encoder.safetensors",
            "seed": seed,
        },
    )
    for fold in range(max(folds, 1)):
        place = folder / f"fold_{fold}" if folds else folder
        place.mkdir(parents=True)
        weights = network(kind, dims, seed + fold, len(cache.channels), classes).state_dict()
        save_model(place, weights, spec)
    return folder
