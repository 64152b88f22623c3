"""The encoder files that a pretraining run leaves."""

from typing import Any

from medssl.imaging.files import sha256
from medssl.models.encoder import MixedEncoder
from medssl.models.weights import save_encoder
from medssl.training.loop import FitResult
from medssl.training.pretrain_job import Pretraining
from medssl.training.pretrain_sources import Source
from medssl.training.run_folder import RunFolder


def encoder_names(job: Pretraining) -> dict[int, str]:
    """File that the encoder of each dimension is written to."""
    if len(job.sources) == 1:
        return {job.sources[0].spatial_dims: "encoder.safetensors"}
    return {source.spatial_dims: f"encoder_{source.spatial_dims}d.safetensors" for source in job.sources}


def write_encoders(job: Pretraining, run: RunFolder, result: FitResult) -> None:
    """Write the encoder, and the decoder where the method keeps one, as safetensors with a description beside it.

    Of a mixed run, the plain encoder of each dimension. Of a student and its teacher the other one gets a file as well,
    `encoder_teacher.safetensors` or `encoder_student.safetensors`.
    """
    decoder = getattr(job.method, "decoder_state_dict", None)
    weights, described = job.method.encoder_state_dict(), job.settings.encoder
    encoder = job.method.encoder
    for source in job.sources:
        if isinstance(encoder, MixedEncoder):
            weights = encoder.plain(source.spatial_dims).state_dict()
            described = encoder.description(source.spatial_dims)
        meta = {"encoder": described.to_json(), **_described(job, source, run, result)}
        path = run.path / encoder_names(job)[source.spatial_dims]
        save_encoder(path, weights, decoder() if decoder else None, meta)
        for name, other in job.method.other_encoder().items():
            save_encoder(path.with_stem(f"{path.stem}_{name}"), other, None, {**meta, "of": name})


def _described(job: Pretraining, source: Source, run: RunFolder, result: FitResult) -> dict[str, Any]:
    """What is told of an encoder file beside its architecture."""
    settings, record = job.settings, run.read()
    session = record["sessions"][-1]
    others = [{"data_sha256": o.cache.data_sha256, "cases": len(o.cases)} for o in job.sources if o is not source]
    return {
        "method": settings.method.to_json(),
        "preprocess": source.preprocess.to_json(),
        "channels": list(source.cache.channels),
        "provenance": {
            "manifest_sha256": source.cache.manifest_sha256,
            "data_sha256": source.cache.data_sha256,
            "init": None if settings.init is None else {"sha256": sha256(settings.init)},
            **({"helpers": record["helpers"]} if record["helpers"] else {}),
            "cases": len(source.cases),
            "commit": session["commit"],
            "versions": session["versions"],
            "seed": settings.train.seed,
            "steps": result.step,
            "finished": result.finished,
            "crop": list(source.views.size),
            **({} if source.views.slice_axis is None else {"slice_axis": source.views.slice_axis}),
            "device": job.fabric.device.type,
            "device_hours": job.fabric.world_size * result.seconds / 3600,
            **({"learned_with": others} if others else {}),
        },
    }
