"""Make a bundle for the clinic from a fine-tuned run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.commands.console import say
from medssl.evaluation.options import PredictOptions
from medssl.export.options import CardOptions, ConfidenceOptions, OperationOptions, ParityOptions, PrecisionOptions
from medssl.imaging.errors import CacheError, CheckpointError, ConfigError
from medssl.imaging.series import SeriesRule

if TYPE_CHECKING:
    from medssl.data.cache import Cache
    from medssl.evaluation.loaded_run import LoadedRun
    from medssl.export.bundle_writer import Request

POSITIONAL = ("run",)

_CARD, _PARITY, _OPERATION = CardOptions(), ParityOptions(), OperationOptions()
_CONFIDENCE, _PRECISION = ConfidenceOptions(), PrecisionOptions()


def export(
    run: Path,
    out: Path,
    data: Path | None = None,
    evaluation: Path | None = None,
    card: CardOptions = _CARD,
    parity: ParityOptions = _PARITY,
    operation: OperationOptions = _OPERATION,
    confidence: ConfidenceOptions = _CONFIDENCE,
    precision: PrecisionOptions = _PRECISION,
    series: list[SeriesRule] | None = None,
) -> None:
    """Write a bundle that predicts without torch: ONNX graph, golden case, model card, hashes.

    The graph is compared with the trained network on real cases, window by window and as whole images; where they
    differ by more than is allowed, no bundle is made. A run with folds becomes one graph that averages them.

    Args:
        run: Folder of a fine-tuning run.
        out: Folder of the bundle, or a file that ends in .zip; must not exist.
        data: Prepared cache to take real cases from; the one the run was trained on when left out.
        evaluation: Folder of `medssl evaluate` of this run, for the model card; when left out RUN/evaluation or
            RUN/evaluation_test, if there.
        card: What the bundle says of itself.
        parity: What is compared and allowed.
        operation: What is done with the network's answer.
        confidence: What the bundle says of its own certainty.
        precision: Variants in other numbers, written beside OUT.
        series: What a series of a study must be to serve as each channel, one rule a channel in their order; with
            them `medssl predict` takes whole studies.

    Raises:
        ConfigError: Every mistake in the options, or data that does not fit the model.
        CheckpointError: The run has no finished model, or the evaluation is damaged or of another network.
        CacheError: The cache cannot be used.
        BundleError: OUT exists, or the exported graph does not do what the network does.
    """
    from medssl.data.cache import Cache
    from medssl.evaluation.loaded_run import check_fits, load_run
    from medssl.evaluation.segmentation_cases import native_reference
    from medssl.export.bundle_writer import Request, write_bundle

    if out.exists():
        raise ConfigError([f"out: {out} exists already: choose another name; nothing is overwritten"])
    loaded = load_run(run, PredictOptions(mirror=operation.mirror, device="cpu"))
    cache = Cache.open(data or _cache_of(run))
    check_fits(loaded.spec, cache)
    _check(loaded, operation, series)
    _check_variants(out, precision)
    results = _results(evaluation, run, loaded)
    _announce(loaded, cache, out, parity)
    for sentence in loaded.unfinished:
        say(f"WARNING: {sentence} Bundle and card say so.")
    if not card.licence.strip():
        say("the bundle states no licence, so `medssl verify` will say not to use it: give --card.licence TEXT")
    request = Request(
        loaded.networks,
        loaded.spec,
        cache,
        results,
        card,
        parity,
        operation,
        confidence,
        loaded.patients,
        native_reference,
        tuple(series or ()),
        loaded.pretrained_on,
    )
    _check_modalities(request)
    _tell(out, write_bundle(out, request).to_json())
    if precision.variants:
        _tell_variants(out, request, precision)


def _check_variants(out: Path, precision: PrecisionOptions) -> None:
    problems = []
    if precision.variants and out.suffix.lower() == ".zip":
        problems.append("precision.variants are folders beside OUT: give a folder as --out")
    there = [place for v in precision.variants if (place := out.with_name(f"{out.name}-{v}")).exists()]
    problems += [
        f"precision.variants: {place} exists already: remove it first; nothing is overwritten" for place in there
    ]
    if problems:
        raise ConfigError(problems)


def _tell_variants(out: Path, request: "Request", precision: PrecisionOptions) -> None:
    from medssl.export.precision import described, write_variants

    judges = request.trained().judges(precision.cases)
    if not judges.cases:
        say("precision: no labelled case to measure on, so no variant was made")
        return
    for made in write_variants(out, request.cache, judges, precision):
        what = f"kept as {made.folder}" if made.folder else f"not kept: {'; '.join(made.problems)}"
        say(f"{made.variant}: {what}")
        if made.comparison is not None:
            say(f"  {described(made.variant, made.comparison)}")


def _cache_of(run: Path) -> Path:
    """Cache that run.json names.

    Raises:
        CacheError: It names none, or the cache has been moved.
    """
    for file in (run / "run.json", *sorted(run.glob("fold_*/run.json"))):
        if not file.is_file():
            continue
        path = json.loads(file.read_text(encoding="utf-8")).get("config", {}).get("data")
        if path and (Path(path) / "cache.json").is_file():
            return Path(path)
    raise CacheError(
        f"the cache that {run} was trained on is not where run.json says: give it with --data CACHE; parity is "
        "proven on its real cases",
        reason="no-cache",
    )


def _check(loaded: "LoadedRun", operation: OperationOptions, series: list[SeriesRule] | None) -> None:
    problems = []
    known = {label.value for label in loaded.spec.labels}
    foreign = sorted(set(operation.largest_component) - known)
    if foreign:
        problems.append(f"operation.largest_component {foreign} are no labels of this model: {sorted(known)}")
    if operation.threshold is not None and len(loaded.spec.classes) != 2:
        problems.append(f"operation.threshold needs a model of two classes, this one has {len(loaded.spec.classes)}")
    channels = loaded.spec.channels
    if series and len(series) != len(channels):
        problems.append(
            f"series: {len(series)} rule(s) for {len(channels)} channel(s) ({', '.join(channels)}); one each is due"
        )
    if problems:
        raise ConfigError(problems)


def _check_modalities(request: "Request") -> None:
    """Refuse a bundle for other images than it learned from, and say where it is for any.

    Raises:
        ConfigError: The card leaves out a modality of the training images.
    """
    from medssl.export.training_images import told_modalities

    told, stated = told_modalities(request.trained().learned()), request.card.modalities
    if stated and (left_out := [name for name in told if name not in stated]):
        raise ConfigError(
            [f"card.modalities {list(stated)} leaves out {', '.join(left_out)}: training images are of it"]
        )
    if not (told or stated):
        say(
            "the manifest does not tell the modality of all training images, so the bundle refuses none: give "
            "--card.modalities '[MR]' or the like"
        )


def _results(evaluation: Path | None, run: Path, loaded: "LoadedRun") -> dict[str, Any] | None:
    """Content of results.json: of the folder given, else of RUN/evaluation or, in studies, RUN/evaluation_test.

    Raises:
        CheckpointError: It was asked for and is not there, or is damaged, or is of another network.
    """
    folders = [evaluation] if evaluation else [run / "evaluation", run / "evaluation_test"]
    path = next((f for folder in folders if (f := folder / "results.json").is_file()), folders[0] / "results.json")
    if evaluation is None and not path.is_file():
        say(f"the model card has no numbers: {' and '.join(map(str, folders))} have no results.json (--evaluation)")
        return None
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} cannot be used for the model card ({error}): give the folder of medssl evaluate, or leave "
            "--evaluation out",
            reason="no-evaluation",
        ) from error
    if other := _other(content, loaded):
        raise CheckpointError(
            f"{path} cannot be used for the model card: {other}; evaluate {run} with medssl evaluate and give that "
            "folder as --evaluation",
            reason="other-evaluation",
        )
    return content


def _other(content: dict[str, Any], loaded: "LoadedRun") -> str:
    """Why results are not those of this network; empty where they are. Older ones tell their network by name alone."""
    task, arm = content.get("task"), content.get("arm")
    if task in ("frozen", "landmarks", "prompt"):
        return "it judges an encoder as it is, not a fine-tuned network"
    if task != loaded.spec.task:
        return f"it is of a {task}, {loaded.name} is one for {loaded.spec.task}"
    weights = content.get("weights", {}).get(arm)
    if weights is None and arm != loaded.name:
        return f"it is of {arm!r}, this is {loaded.name!r}"
    if weights is not None and sorted(weights) != sorted(loaded.weights):
        return f"it is of {arm!r} with other weights than {loaded.name!r} has now"
    return ""


def _announce(loaded: "LoadedRun", cache: "Cache", out: Path, parity: ParityOptions) -> None:
    folds = f"{len(loaded.networks)} folds as one graph" if len(loaded.networks) > 1 else "one network"
    window = " x ".join(str(n) for n in loaded.spec.window)
    say(
        f"export: {loaded.name}, {folds}, window {window}, to {out}; then parity on {parity.cases} whole case(s) of "
        f"{cache.path} in torch and in ONNX Runtime\nNot a medical device: for research only."
    )


def _tell(out: Path, parity: dict[str, Any]) -> None:
    for batch, value in parity["max_logit_difference"].items():
        say(f"largest difference of a logit, {batch.replace('_', ' ')}: {value:.3g}")
    if "min_dice" in parity:
        say(f"smallest Dice between masks of {parity['volumes']} whole case(s): {parity['min_dice']:.6f}")
    if "max_probability_difference" in parity:
        say(f"largest difference of a probability: {parity['max_probability_difference']:.3g}")
    say(
        f"one window: torch {1000 * parity['torch_window_s']:.1f} ms, ONNX Runtime "
        f"{1000 * parity['onnxruntime_window_s']:.1f} ms\nbundle: {out}"
    )
