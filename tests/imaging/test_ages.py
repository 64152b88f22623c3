"""Ages as they are written, in years."""

import pytest

from medssl.imaging.ages import dicom_years, years


@pytest.mark.parametrize(
    ("age", "found"),
    [("63", 63), ("063Y", 63), ("018M", 1.5), ("010D", 10 / 365.25), ("003W", 3 / 52.18), ("63 y", 63), ("63y", 63),
     ("63Y", 63), ("63 years", 63), ("1 year", 1), ("40 yrs", 40), ("63,5", 63.5), ("0.25", 0.25), (" 7 ", 7),
     ("63\u00a0y", 63), ("130", 130)],
)  # fmt: skip
def test_ages_in_years(age: str, found: float):
    assert years(age) == pytest.approx(found)


@pytest.mark.parametrize(
    "age",
    ["", "old", "-3", "nan", "inf", "1e1", "6_3", "63F", "63M", "18 m", "63 x", "60-69", "90+", "1961", "999Y", "131",
     "63,5,1", "\u00b2Y", "n/a"],
)  # fmt: skip
def test_what_is_no_age_or_may_be_something_else(age: str):
    assert years(age) is None


def test_an_age_of_dicom_may_have_fewer_digits():
    assert dicom_years("6M") == 0.5
    assert [dicom_years(age) for age in ("", "Y", "young", "\u00b2Y", "63")] == [None] * 5
