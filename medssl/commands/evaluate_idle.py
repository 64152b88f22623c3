"""Options of `medssl evaluate` that would do nothing for what is evaluated."""

from collections.abc import Mapping
from dataclasses import replace

from medssl.evaluation.options import FrozenOptions, LesionOptions, MeasureOptions, PredictOptions
from medssl.imaging.errors import ConfigError

_PREDICT, _MEASURE, _LESIONS, _FROZEN = PredictOptions(), MeasureOptions(), LesionOptions(), FrozenOptions()


def idle(
    kind: str, predict: PredictOptions, measure: MeasureOptions, lesions: LesionOptions, frozen: FrozenOptions
) -> dict[str, bool]:
    """Options that would do nothing for an `encoder`, a `classification` or a `segmentation`, and whether one is given.

    Those that are as they are by default are taken for not given.
    """
    encoder, segmentation = kind == "encoder", kind == "segmentation"
    batch_size, tolerance_mm = predict.batch_size != _PREDICT.batch_size, measure.tolerance_mm != _MEASURE.tolerance_mm
    return {
        "frozen is for an encoder: leave it out": not encoder and frozen != _FROZEN,
        "predict.mirror and predict.batch_size are for a fine-tuned run: leave them out": encoder
        and predict != replace(_PREDICT, device=predict.device),
        "predict.batch_size is for a segmentation: leave it out": kind == "classification" and batch_size,
        "measure.tolerance_mm is for a segmentation: leave it out": not segmentation and tolerance_mm,
        "measure.class_order is for a classification: leave it out": (
            segmentation or (encoder and frozen.target != "class")
        )
        and measure.class_order != _MEASURE.class_order,
        "lesions.labels are for a segmentation: leave lesions out": not segmentation and lesions != _LESIONS,
        "lesions does nothing without lesions.labels: name them, or leave it out": segmentation
        and not lesions.labels
        and lesions != _LESIONS,
    }


def refuse(what: str, wrong: Mapping[str, bool]) -> None:
    """Refuse options that would do nothing.

    Raises:
        ConfigError: A sentence for each that is given.
    """
    if problems := [f"{what}: {words}" for words, given in wrong.items() if given]:
        raise ConfigError(problems)
