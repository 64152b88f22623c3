"""One server for the tests that only talk to it."""

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import write_bundle


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(scope="session")
def service(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from serving import options_for, served

    with served(options_for(tiny, tmp_path_factory.mktemp("data"))) as running:
        yield running


@pytest.fixture
def sockets_of_pynetdicom() -> Iterator[None]:
    """It leaves sockets of rejected and aborted associations to the garbage collector, which warns."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
