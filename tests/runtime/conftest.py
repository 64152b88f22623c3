"""Fixtures of the tests of the runtime and its server."""

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from kserve_server import kserve
from tritonserver import tritonserver

Serve = Callable[..., AbstractContextManager[str]]


@pytest.fixture(params=[kserve, pytest.param(tritonserver, marks=pytest.mark.slow)])
def serve(request: Any) -> Iterator[Serve]:
    """A server of a model repository: the one that the tests bring along, and, among the slow tests, tritonserver."""
    yield request.param
    gc.collect()  # a client that an exception held must not be collected in another thread: gevent forbids it


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals are tried by test_verify.py; other tests of `verify` need not wait for them."""
    monkeypatch.setattr("medssl.runtime.protocol.refusals", lambda *_: [])
