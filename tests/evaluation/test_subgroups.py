"""Parts of the cases: ages in bands, attributes that differ, counts of patients."""

import numpy as np
import pytest

from medssl.data.cache import CachedCase
from medssl.evaluation.statistics import Interval, mean_interval
from medssl.evaluation.subgroups import by_group, few_of_a_class, unread_ages
from medssl.imaging.ages import UNKNOWN, age_band
from medssl.imaging.geometry import Geometry
from medssl.imaging.preprocess import Restoration


@pytest.mark.parametrize(
    ("age", "band"),
    [("0", "0-17"), ("17.9", "0-17"), ("18", "18-39"), ("64", "40-64"), ("65", "65-79"), ("93", "80 and over"),
     ("063Y", "40-64"), ("216M", "18-39"), ("63 y", "40-64"), ("79,9", "65-79"),
     ("", UNKNOWN), ("old", UNKNOWN), ("-3", UNKNOWN), ("nan", UNKNOWN)],
)  # fmt: skip
def test_age_bands(age: str, band: str):
    assert age_band(age) == band


def test_cases_with_ages_that_cannot_be_read_are_named():
    grid = Geometry(np.eye(4), (2, 2, 2))

    def case(name: str, age: str) -> CachedCase:
        return CachedCase(
            name, "p", "test", "MR", "", "", "", age, (2, 2, 2), (1, 1, 1), False, "", "", Restoration(grid, grid)
        )

    assert unread_ages([case("a", "063Y"), case("b", ""), case("c", "63,5")]) == []
    (said,) = unread_ages([case("a", "063Y"), case("b", "63F"), *(case(f"c{n}", "1961") for n in range(5))])
    assert said.startswith("The age of 6 case(s) cannot be read, so they count as 'not told': b ('63F'), c0 ('1961'), ")
    assert "c3 ('1961'), .... In the column age" in said
    assert "063Y, 018M, 003W, 010D" in said


def test_parts_are_measured_on_their_own_cases_and_count_their_patients():
    values = np.array([1.0, 0.0, 1.0, 1.0])
    patients = ["a", "a", "b", "c"]
    groups = [{"site": s, "sex": "F"} for s in ("north", "north", "south", "south")]

    def measure(part: np.ndarray) -> dict[str, Interval]:
        return {"right": mean_interval(values[part].tolist(), [patients[n] for n in part])}

    found = by_group(groups, patients, measure)
    assert list(found) == ["site"]  # sex is the same for all
    north, south = found["site"]
    assert (north["group"], north["cases"], north["patients"], north["few"]) == ("north", 2, 1, True)
    assert (north["metrics"]["right"]["estimate"], south["metrics"]["right"]["estimate"]) == (0.5, 1.0)
    assert north["metrics"]["right"]["low"] is None  # one patient has no interval
    assert by_group([], [], measure) == {}


def test_classes_with_fewer_than_six_patients_are_named():
    six = {f"p{n}" for n in range(6)}
    assert few_of_a_class("test", {"ill": six, "well": six}) == []
    (said,) = few_of_a_class("test", {"ill": {"p0"}, "well": six, "worse": set()})
    assert said.startswith("Classes with fewer than 6 patients in split test: ill 1, worse 0. AUROC")
