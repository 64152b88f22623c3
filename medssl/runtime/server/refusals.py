"""Every refusal in one form, `reason` and `message`, which repeats nothing of what was sent."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from medssl.runtime.server.desk import RefusedError
from medssl.runtime.server.metrics import Metrics

_RULES = {
    "missing": "is missing",
    "json_invalid": "is no JSON",
    "int_parsing": "must be a whole number",
    "string_type": "must be text",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
}
"""What is wrong, by the codes of pydantic, whose own words may quote the value."""


class RefusalView(BaseModel):
    """Why a request was refused."""

    reason: str
    message: str


def answer_refusals(app: FastAPI, metrics: Metrics) -> None:
    """Have an application answer what it refuses, by itself or through its framework, and count it."""

    def refuse(reason: str, message: str, status: int, headers: dict[str, str] | None = None) -> JSONResponse:
        metrics.refused.labels(reason).inc()
        return JSONResponse(RefusalView(reason=reason, message=message).model_dump(), status, headers)

    @app.exception_handler(RefusedError)
    async def _refused(_: Request, error: RefusedError) -> JSONResponse:
        headers = {"retry-after": "10"} if error.status == 429 else None
        return refuse(error.reason, error.message, error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return refuse("bad-request", "; ".join(dict.fromkeys(map(_told, error.errors()))), 422)

    @app.exception_handler(HTTPException)
    async def _failed(_: Request, error: HTTPException) -> JSONResponse:
        reason = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        return refuse(reason, error.detail, error.status_code, dict(error.headers or {}))


def _told(problem: dict[str, object]) -> str:
    """One mistake: the parameter, by its name in the interface, and the rule that it breaks."""
    place, context = problem["loc"], problem.get("ctx")
    names = [part for part in place[1:] if isinstance(part, str)] if isinstance(place, tuple) else []
    rule = _RULES.get(str(problem["type"]), "is not of the form that /openapi.json describes")
    return f"{'.'.join(names) or 'the body'} {rule.format_map(context if isinstance(context, dict) else {})}"
