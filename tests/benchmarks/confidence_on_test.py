"""Whether intervals and gate hold on the test split: `python tests/benchmarks/confidence_on_test.py BUNDLE CACHE [N]`.

Predicts the test cases of a cache from their original files, as the clinic does, and compares each structure's volume
with that of its label. Prints one line of JSON: the share of cases and patients inside, and of images that are flagged.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from medssl.data.cache import Cache
from medssl.evaluation.segmentation_cases import native_reference
from medssl.imaging.readers.open import read_channels
from medssl.runtime.predictor import Predictor


def main(bundle: Path, data: Path, most: int) -> None:
    """Measure on `most` cases, evenly over the split."""
    cache, predictor = Cache.open(data), Predictor(bundle, threads=1, device="cpu")
    cases = [case for case in cache.cases if case.split == "test" and case.has_label]
    picked = np.unique(np.linspace(0, len(cases) - 1, min(most, len(cases))).round().astype(int))
    inside: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    width: dict[str, list[float]] = defaultdict(list)
    flagged = []
    for case in (cases[n] for n in picked):
        report = predictor.predict(read_channels(case.image_field, Path())).report
        flagged.append(bool(report["flags"]))
        truth = native_reference(cache, case)
        for label in report["labels"]:
            if "volume_ml_low" not in label:
                sys.exit(f"{bundle} carries no intervals of volume: its model card says why")
            volume = float((truth.array == label["value"]).sum()) * truth.geometry.voxel_ml
            inside[label["name"]][case.patient].append(label["volume_ml_low"] <= volume <= label["volume_ml_high"])
            width[label["name"]].append((label["volume_ml_high"] - label["volume_ml_low"]) / label["volume_ml"])
    found = {
        name: {
            "patients": len(patients),
            "patients_inside": float(np.mean([all(values) for values in patients.values()])),
            "cases_inside": float(np.mean([value for values in patients.values() for value in values])),
            "median_width": float(np.median(width[name])),
        }
        for name, patients in inside.items()
    }
    result = {"promised": predictor.bundle.spec.intervals["coverage"], "cases": len(picked), "intervals": found}
    sys.stdout.write(json.dumps({**result, "flagged": float(np.mean(flagged))}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1000)
