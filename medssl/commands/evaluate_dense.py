"""The part of `medssl evaluate` that asks features of places: where landmarks lie, what belongs to a prompted patch."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.commands.console import say
from medssl.commands.evaluate_frozen import (
    check_encoders,
    described,
    encoder_names,
    encoder_warnings,
    seen_warnings,
)
from medssl.evaluation.options import FrozenOptions
from medssl.imaging.errors import CacheError
from medssl.imaging.files import atomic_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medssl.data.cache import Cache, CachedCase
    from medssl.evaluation.landmarks import Embed
    from medssl.models.anatomy import AnatomyMaps
    from medssl.models.encoder import Encoder

SAME_PLACE = "same relative place"
_SEEN = 64  # training images that batch norm meets

Arms = dict[str, list[Callable[[], "nn.Module"]]]


def evaluate_dense(
    files: Sequence[Path],
    cache: "Cache",
    head: dict[str, Any],
    out: Path,
    options: FrozenOptions,
    resamples: int,
    device: str,
) -> None:
    """Measure encoders beside the first one's architecture with random weights; writes OUT.

    Args:
        files: The encoder, and perhaps another to compare with.
        cache: Prepared cache with splits.
        head: First entries of results.json.
        out: Folder of the results.
        options: What is asked.
        resamples: Bootstrap resamples.
        device: Where the encoders compute.

    Raises:
        ConfigError: An encoder that does not fit the cache, or landmarks that are wrong.
        CacheError: No case to measure.
        MedsslError: Features that are no numbers.
    """
    from medssl.evaluation.report.dense import dense_sections, sentences
    from medssl.evaluation.report.page import write_report
    from medssl.evaluation.report.results import write_results
    from medssl.evaluation.subgroups import few_patients
    from medssl.models.weights import read_encoder

    metas = [read_encoder(path)[1] for path in files]
    names, size = encoder_names(files), options.size or tuple(metas[0].get("provenance", {}).get("crop", ()))
    check_encoders(files, metas, cache, size, cache.spatial_dims)
    measure = _landmarks if options.target == "landmarks" else _prompts
    sizes = [options.size or tuple(meta.get("provenance", {}).get("crop", size)) for meta in metas]
    arms = _arms(files, metas[0], names, cache, sizes, options, device)
    say(
        f"evaluate: {options.target} by frozen features of {', '.join(names)} beside {options.random_seeds} encoder(s) "
        f"with random weights on {device}; split test of {cache.path}\nNot a medical device: for research only."
    )
    found, patients = measure(arms, names[0], cache, options, resamples)
    results = {
        **head,
        "arm": names[0],
        "encoders": {name: described(path, meta) for name, path, meta in zip(names, files, metas, strict=True)},
        **found,
        "patients": len(patients),
        "warnings": [
            *found["warnings"],
            *seen_warnings(names, files, patients),
            *encoder_warnings(names, metas, cache),
            *few_patients("test", patients),
        ],
    }
    with atomic_folder(out) as temporary:
        write_results(temporary, results)
        about = f"Cache {cache.path.name}"
        write_report(temporary, dense_sections(results), f"Frozen features of {names[0]}", about, head["environment"])
    for sentence in sentences(results):
        say(sentence)
    say(f"report: {out / 'report.html'}")


def _arms(
    files: Sequence[Path],
    meta: dict[str, Any],
    names: Sequence[str],
    cache: "Cache",
    sizes: Sequence[tuple[int, ...]],
    options: FrozenOptions,
    device: str,
) -> Arms:
    """Name to what makes its networks: of the kind that was trained, so with heads where a run of SAM has them.

    Batch norm meets crops of each encoder's own size, random weights those of the first.
    """
    import torch

    from medssl.evaluation.features import calibrate
    from medssl.evaluation.frozen import pretrained_encoder, random_encoder
    from medssl.evaluation.frozen_arms import RANDOM
    from medssl.evaluation.probe_data import middle_crop
    from medssl.models.anatomy import AnatomyNetwork, EncoderMaps, is_anatomy_run, read_anatomy_network
    from medssl.models.component import Component
    from medssl.models.weights import read_encoder

    dims, channels = cache.spatial_dims, cache.channels
    seen = [case for case in cache.cases if case.split == "train"][:_SEEN]
    if not seen:
        raise CacheError(f"{cache.path} has no case of split train", reason="no-cases")
    tensors, _ = read_encoder(files[0])
    width = len(tensors["decoder.fine.weight"]) if is_anatomy_run(tensors, meta) else 0

    @lru_cache(maxsize=1)
    def images(size: tuple[int, ...]) -> "Tensor":
        return torch.stack([torch.from_numpy(middle_crop(cache, case, size)) for case in seen])

    def calibrated(network: "nn.Module", encoder: "Encoder", size: tuple[int, ...]) -> "nn.Module":
        network.to(device)
        calibrate(encoder, images(size))
        return network.eval()

    def trained(path: Path, size: tuple[int, ...]) -> "nn.Module":
        if is_anatomy_run(*read_encoder(path)):
            network, _ = read_anatomy_network(path)
            return calibrated(network, network.encoder, size)
        encoder = pretrained_encoder(path, dims, channels)
        return calibrated(EncoderMaps(encoder), encoder, size)

    def untrained(seed: int) -> "nn.Module":
        encoder = random_encoder(Component.from_json(meta["encoder"]), dims, channels, seed)
        return calibrated(AnatomyNetwork(encoder, width) if width else EncoderMaps(encoder), encoder, sizes[0])

    arms: Arms = {n: [partial(trained, path, size)] for n, path, size in zip(names, files, sizes, strict=True)}
    arms[RANDOM] = [partial(untrained, seed) for seed in range(options.random_seeds)]
    return arms


def _landmarks(
    arms: Arms, own: str, cache: "Cache", options: FrozenOptions, resamples: int
) -> tuple[dict[str, Any], set[str]]:
    import numpy as np

    from medssl.evaluation import landmarks as found
    from medssl.evaluation.encoder_tests import told_corrected
    from medssl.evaluation.segmentation_cases import left_out

    cases = [case for case in cache.cases if case.split in ("train", "test")]
    places = (
        found.read_landmarks(Path(options.landmarks), cache)
        if options.landmarks
        else found.structure_centres(cache, [case for case in cases if case.has_label])
    )
    templates = found.choose_templates(cases, places, options.templates)
    names = found.landmark_names(templates, places)
    queries = [c for c in cases if c.split == "test" and set(names) & set(places.get(c.case, ()))]
    if not queries:
        raise CacheError(f"no case of split test has a landmark of {list(names)}", reason="no-landmarks")
    warnings = [*left_out(cache, "test", queries, "landmark that is looked for"), *_without_size(queries)]
    each = {
        arm: [found.landmark_errors(_embedder(make()), cache, templates, queries, places) for make in networks]
        for arm, networks in arms.items()
    }
    each[SAME_PLACE] = [found.same_place_errors(templates, queries, places)]
    errors = {arm: np.concatenate(parts) for arm, parts in each.items()}
    patients = [case.patient for case in queries]
    within = options.within_mm
    compared = told_corrected(
        {
            "differences": {
                arm: found.median_difference(errors[own], theirs, patients, resamples)
                for arm, theirs in each.items()
                if arm != own
            }
        }
    )
    return {
        "landmarks": list(names),
        "templates": [case.case for case in templates],
        "cases": len(queries),
        "arms": {
            arm: {
                **found.summarise_errors(e, names, patients, within, resamples),
                "each": [found.known_median(part) for part in each[arm]],
            }
            for arm, e in errors.items()
        },
        **compared,
        "warnings": [*warnings, *compared["warnings"]],
    }, set(patients)


def _without_size(queries: "Sequence[CachedCase]") -> list[str]:
    """The warning that distances are in pixels, where no image says how large one is.

    Raises:
        CacheError: Some say it and some do not.
    """
    without = [case.case for case in queries if case.calibrated is False]
    if not without:
        return []
    if len(without) < len(queries):
        raise CacheError(
            f"{len(without)} of {len(queries)} images with landmarks do not say how large a pixel is (the first: "
            f"{without[0]}), so their distances are no mm: leave them out, or give files that say it",
            reason="uncalibrated",
        )
    return ["No image says how large a pixel is: every distance is in pixels, also where mm stands beside it."]


def _prompts(
    arms: Arms, own: str, cache: "Cache", options: FrozenOptions, resamples: int
) -> tuple[dict[str, Any], set[str]]:
    from medssl.evaluation import prompts
    from medssl.evaluation.encoder_tests import told_corrected
    from medssl.evaluation.segmentation_cases import labelled_cases, left_out

    named = {split: labelled_cases(cache, split) for split in ("val", "test")}
    splits = list(named.values())
    encoders: dict[str, list[Encoder]] = {arm: [make().encoder for make in own] for arm, own in arms.items()}  # type: ignore[misc]
    # one for all arms, so that they are asked for the same structures
    smallest = max(math.prod(encoder.strides[-1]) for found in encoders.values() for encoder in found)

    def scored(encoder: "Encoder") -> tuple[prompts.PromptScores, prompts.PromptScores]:
        val, test = (prompts.prompt_scores(prompts.whole_maps(encoder), smallest, cache, cases) for cases in splits)
        return val, test

    found = {arm: [scored(encoder) for encoder in own] for arm, own in encoders.items()}
    compared = told_corrected(
        {
            "differences": {
                arm: prompts.prompt_difference(found[own][0], runs) for arm, runs in found.items() if arm != own
            }
        }
    )
    lacking = [text for split, cases in named.items() for text in left_out(cache, split, cases, "label map")]
    return {
        "cases": len(splits[1]),
        "arms": {arm: prompts.summarise_prompts(runs) for arm, runs in found.items()},
        **compared,
        "warnings": [*lacking, *compared["warnings"]],
    }, {case.patient for case in splits[1]}


def _embedder(network: "nn.Module") -> "Embed":
    from medssl.evaluation.device import device_of, gpu_memory_told
    from medssl.evaluation.frozen import refuse_nan

    @gpu_memory_told()
    def embed(image: "Tensor") -> "AnatomyMaps":
        maps: AnatomyMaps = network.embed_whole(image.to(device_of(network)))  # type: ignore[operator]
        refuse_nan((maps.fine, maps.coarse))
        return maps.on_cpu()

    return embed
