"""Fixtures shared by all tests. The folder of real data is named here alone."""

import os
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from browser import browser  # noqa: F401  a fixture for every test

_DATA = Path(os.environ.get("MEDSSL_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real labelled data; the test skips where it is absent."""
    if not _DATA.is_dir():
        pytest.skip("real data absent: set MEDSSL_TEST_DATA")
    return _DATA.resolve()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip for want of real data is a failure where the data is there: a test must not hide."""
    report = yield
    if report.skipped and "real data" in str(report.longrepr) and _DATA.is_dir():
        report.outcome = "failed"
    return report
