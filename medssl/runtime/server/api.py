"""The REST interface; what it answers names jobs and pseudonyms, only results hold what the study held."""

import asyncio
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from medssl.imaging.dicom_transfer import is_uid
from medssl.imaging.errors import ImageError
from medssl.imaging.files import sha256
from medssl.runtime.bundle import BundleSpec
from medssl.runtime.predictor import NOT_A_DEVICE
from medssl.runtime.server.channels import come_one_by_one, mark, said_channels
from medssl.runtime.server.desk import Desk, RefusedError
from medssl.runtime.server.folders import flags_of
from medssl.runtime.server.ledger import STATES, Job
from medssl.runtime.server.refusals import RefusalView, answer_refusals
from medssl.runtime.server.upload import receive

STATIC = Path(__file__).parent / "static"
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "model": {"type": "string"},
                        "series": {"type": "string", "description": "SeriesInstanceUID of one of several series"},
                        "channels": {
                            "type": "string",
                            "description": "the model's channels in the order of the files, joined by commas",
                        },
                    },
                }
            }
        },
    }
}


class Accepted(BaseModel):
    """An accepted job."""

    id: str


class Pull(BaseModel):
    """A study to be pulled from the archive, or one series of it."""

    study_uid: str
    model: str = ""
    series: str = ""


class JobView(BaseModel):
    """A job as callers see it; times are seconds since 1970, `flags` are reasons not to use the results."""

    id: str
    study: str
    model: str
    state: str
    stage: str
    progress: float
    source: str
    accepted: float
    started: float | None
    finished: float | None
    reason: str
    message: str
    results: bool
    flags: list[str]


class ResultView(BaseModel):
    """A file of results."""

    name: str
    bytes: int


class LabelView(BaseModel):
    """A structure that a model segments."""

    value: int
    name: str
    colour: tuple[int, int, int] | None


class ModelView(BaseModel):
    """A model that is served."""

    name: str
    task: str
    bundle_sha256: str
    labels: list[LabelView]
    classes: list[str]
    channels: list[str]
    chooses_series: bool
    intended_use: str


def build_api(desk: Desk) -> FastAPI:
    """The application, to be put behind a `Guard`."""
    app = FastAPI(
        title="medssl",
        description=f"{NOT_A_DEVICE} A schema for clients is at /openapi.json.",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        responses={"4XX": {"model": RefusalView, "description": "Refused"}},
    )
    answer_refusals(app, desk.metrics)
    _add_state(app, desk)
    _add_models(app, desk)
    _add_intake(app, desk)
    _add_jobs(app, desk)
    _add_page(app)
    return app


def _add_state(app: FastAPI, desk: Desk) -> None:
    @app.get("/health")
    def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok", "notice": NOT_A_DEVICE}

    @app.get("/ready")
    def ready() -> Response:
        """Studies are accepted."""
        try:
            desk.check_room()
        except RefusedError as error:
            return JSONResponse({"status": error.reason}, 503)
        return JSONResponse({"status": "ready"})

    @app.get("/metrics")
    def metrics() -> PlainTextResponse:
        """Numbers for Prometheus."""
        return PlainTextResponse(desk.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_models(app: FastAPI, desk: Desk) -> None:
    @app.get("/api/models")
    def models() -> list[ModelView]:
        """Models that are served."""
        return [
            ModelView(
                name=name,
                task=bundle.spec.task,
                bundle_sha256=bundle.sha256,
                labels=[LabelView(value=lb.value, name=lb.name, colour=lb.colour) for lb in bundle.spec.labels],
                classes=list(bundle.spec.classes),
                channels=list(bundle.spec.channels),
                chooses_series=bool(bundle.spec.series),
                intended_use=bundle.spec.intended_use,
            )
            for name, bundle in desk.bundles.items()
        ]

    @app.get("/api/models/{name:path}/card")
    def card(name: str) -> PlainTextResponse:
        """Model card, in Markdown."""
        path = desk.bundles[desk.model(name)].folder / "MODEL_CARD.md"
        return PlainTextResponse(path.read_text(encoding="utf-8"), media_type="text/markdown; charset=utf-8")


def _add_intake(app: FastAPI, desk: Desk) -> None:
    @app.post("/api/jobs", status_code=202, openapi_extra=_UPLOAD)
    async def upload(request: Request) -> Accepted:
        """Hand in a study: DICOM files, a zip file of them, or image files, one a channel."""
        await run_in_threadpool(desk.check_room)
        job_id, folder = desk.folders.incoming()
        desk.underway += 1
        try:
            fields, names = await receive(request, folder / "input", desk.options.limits, desk.check_disk)
            content = {"model": desk.model(fields.get("model", "")), "source": "rest", "caller": request.state.who}
            content |= _series(desk, content["model"], fields.get("series", ""))
            _mark_channels(folder / "input", fields.get("channels", ""), names, desk.bundles[content["model"]].spec)
            await run_in_threadpool(desk.accept, folder, job_id, **content)
        except BaseException:  # also when the caller hangs up
            await asyncio.shield(run_in_threadpool(desk.folders.discard, folder))
            raise
        finally:
            desk.underway -= 1
        return Accepted(id=job_id)

    @app.post("/api/dicomweb/pull", status_code=202)
    def pull(request: Request, wanted: Pull) -> Accepted:
        """Have a study pulled from the archive; with `series` that SeriesInstanceUID alone."""
        if not desk.options.pacs.dicomweb:
            raise RefusedError("no archive is configured (pacs.dicomweb)", reason="no-archive", status=409)
        if not is_uid(wanted.study_uid):
            raise RefusedError("study_uid is no DICOM unique identifier", reason="bad-uid", status=400)
        desk.check_room()
        model = desk.model(wanted.model)
        series = _series(desk, model, wanted.series)
        job_id, folder = desk.folders.incoming()
        study = desk.secret.name(wanted.study_uid)
        desk.accept(
            folder, job_id, model=model, source="dicomweb", caller=request.state.who, study=study,
            study_uid=wanted.study_uid, **series,
        )  # fmt: skip
        return Accepted(id=job_id)


def _series(desk: Desk, model: str, series: str) -> dict[str, str]:
    """The series that a caller names, where it may name one; empty where it names none."""
    if not series:
        return {}
    if not is_uid(series):
        raise RefusedError("series is no DICOM unique identifier", reason="bad-uid", status=400)
    if desk.bundles[model].spec.series:
        text = "this model chooses series by rules of its own: leave `series` out"
        raise RefusedError(text, reason="bad-upload", status=400)
    return {"series_uid": series}


def _mark_channels(folder: Path, said: str, names: list[str], spec: BundleSpec) -> None:
    """Keep with the files of an upload which channel each is, where that must be said."""
    if not come_one_by_one(names):
        if said:
            text = "the channels of DICOM files and of what is in a zip file are not named in `channels`: leave it out"
            raise RefusedError(text, reason="bad-upload", status=400)
        return
    if not said and (len(names) == 1 or len(spec.channels) == 1):
        return
    try:
        numbers = said_channels(said, names, spec.channels)
    except ImageError as error:
        raise RefusedError(error.message, reason=error.reason, status=422) from error
    for path, number in zip(sorted(folder.iterdir()), numbers, strict=True):
        path.rename(path.with_name(f"{path.name[:6]}{mark(number)}{path.name[6:]}"))


def _add_jobs(app: FastAPI, desk: Desk) -> None:
    @app.get("/api/jobs")
    def jobs(limit: Annotated[int, Query(ge=1, le=1000)] = 100, state: str = "") -> list[JobView]:
        """Jobs, newest first; `state` takes several, joined by commas."""
        states = [part.strip() for part in state.split(",") if part.strip()]
        if not set(states) <= set(STATES):
            text = f"state takes {', '.join(STATES)}, several joined by commas"
            raise RefusedError(text, reason="bad-request", status=422)
        return [_view(desk, job) for job in desk.ledger.jobs(limit, states or STATES)]

    @app.get("/api/jobs/{job_id}")
    def job(job_id: str) -> JobView:
        """A job."""
        return _view(desk, _known(desk, job_id))

    @app.get("/api/jobs/{job_id}/results")
    def results(job_id: str) -> list[ResultView]:
        """Files that a job made."""
        found = desk.results(_known(desk, job_id).id)
        return [ResultView(name=name, bytes=path.stat().st_size) for name, path in found.items()]

    @app.get("/api/jobs/{job_id}/results/{name}")
    def result(request: Request, job_id: str, name: str) -> FileResponse:
        """A file that a job made."""
        path = desk.results(_known(desk, job_id).id).get(name)
        if path is None:
            raise RefusedError("the job has no such file", reason="no-result", status=404)
        desk.audit.write(request.state.who, "fetch", job=job_id, result=name, sha256=sha256(path))
        return FileResponse(path, filename=name)

    @app.delete("/api/jobs/{job_id}", status_code=204)
    def remove(request: Request, job_id: str) -> Response:
        """Remove a job with its data."""
        if not desk.remove(_known(desk, job_id).id, request.state.who):
            raise RefusedError("the job is running: wait until it has ended", reason="running", status=409)
        return Response(status_code=204)


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def page() -> Response:
        """Viewer."""
        index = STATIC / "index.html"
        if not index.is_file():
            text = "The viewer page is not part of this installation: `make viewer` in the project's folder builds it."
            return PlainTextResponse(f"{text} Everything under /api works without it.", 404)
        return FileResponse(index, media_type="text/html")

    app.mount("/static", StaticFiles(directory=STATIC, check_dir=False), name="static")


def _known(desk: Desk, job_id: str) -> Job:
    job = desk.ledger.get(job_id)
    if job is None:
        raise RefusedError("no such job: it was removed, or never accepted", reason="no-job", status=404)
    return job


def _view(desk: Desk, job: Job) -> JobView:
    kept = {name: value for name, value in vars(job).items() if name in JobView.model_fields}
    flags = flags_of(desk.folders.job(job.id))
    return JobView(**kept, results=flags is not None, flags=list(flags or ()))
