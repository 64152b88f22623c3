"""Arms of a study: paired by seed and patient, closed forms, what must not be compared."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medssl.evaluation.report.study import study_sections
from medssl.evaluation.study_table import NetworkScores, compare_arms, measure_of
from medssl.imaging.errors import ConfigError

_CASES = tuple(f"c{n}" for n in range(12))
_PATIENTS = tuple(f"p{n // 2}" for n in range(12))


def _dice(arm: str, labels: int, seed: int, gain: float, noise: float = 0.0) -> NetworkScores:
    base = np.random.default_rng([labels, seed]).uniform(0.5, 0.8, 12)
    own = np.random.default_rng([labels, seed, len(arm)]).normal(0, noise, 12)
    return NetworkScores(arm, labels, seed, _CASES, _PATIENTS, base + gain + own)


def _rows(gain: float, noise: float = 0.0) -> list[NetworkScores]:
    return [
        _dice(arm, labels, seed, gain * (arm == "ours"), noise)
        for labels in (2, 8)
        for seed in range(3)
        for arm in ("scratch", "ours", "again")
    ]


def test_a_constant_gain_is_found_exactly():
    found = compare_arms(_rows(0.05), "scratch", "dice")
    for point in found["points"]:
        ours, again = (point["differences"][arm] for arm in ("ours", "again"))
        assert ours["over_seeds"]["estimate"] == pytest.approx(0.05)
        assert ours["over_seeds_and_patients"]["estimate"] == pytest.approx(0.05)
        assert (ours["over_seeds"]["low"], ours["over_seeds"]["high"]) == (pytest.approx(0.05), pytest.approx(0.05))
        assert ours["verdict"] == "better"
        assert ours["p_value"] == pytest.approx(2 / 2**6)  # six patients, all in favour
        assert ours["p_value_corrected"] == pytest.approx(2 * 2 / 2**6)
        assert ours["seeds"] == [0, 1, 2]
        assert again["over_seeds"]["estimate"] == pytest.approx(0)
    assert found["ranking"]["ranks"]["ours"] == 1
    assert found["ranking"]["blocks"] == 6


def test_noise_shows_no_difference():
    found = compare_arms(_rows(0.0, noise=0.05), "scratch", "dice")
    for point in found["points"]:
        assert point["differences"]["ours"]["verdict"] == "no difference shown"
        assert point["differences"]["ours"]["over_seeds_and_patients"]["low"] < 0
        assert point["differences"]["ours"]["p_value_corrected"] > 0.05


def test_seeds_that_one_arm_lacks_are_left_out():
    rows = [row for row in _rows(0.05) if (row.arm, row.labels, row.seed) != ("ours", 8, 1)]
    point = compare_arms(rows, "scratch", "dice")["points"][1]
    assert point["differences"]["ours"]["seeds"] == [0, 2]
    assert list(point["arms"]["scratch"]["seeds"]) == [0, 1, 2]


def test_a_number_of_all_cases_is_measured_on_all_of_them():
    rng = np.random.default_rng(0)
    truth = np.arange(12) // 2 % 2
    rows = []
    for seed in range(2):
        for arm in ("scratch", "ours"):
            share = rng.uniform(size=12)
            values = np.stack([1 - share, share], 1)
            rows.append(NetworkScores(arm, 4, seed, _CASES, _PATIENTS, values, truth))
    point = compare_arms(rows, "scratch", "auroc")["points"][0]
    for row in rows:
        assert point["arms"][row.arm]["seeds"][row.seed] == pytest.approx(roc_auc_score(truth, row.values[:, 1]))
    difference = point["differences"]["ours"]
    wide, narrow = difference["over_seeds_and_patients"], difference["seed_differences"]
    assert wide["low"] <= np.mean(narrow) <= wide["high"]
    with pytest.raises(ConfigError, match="needs classes"):
        measure_of("auroc")(_dice("a", 1, 0, 0), np.arange(3))


def test_other_test_cases_are_refused():
    rows = _rows(0.0)
    other = NetworkScores("ours", 2, 0, (*_CASES[:-1], "other"), _PATIENTS, rows[0].values)
    with pytest.raises(ConfigError, match="different test sets"):
        compare_arms([*rows, other], "scratch", "dice")


def test_the_report_says_what_was_found_and_what_failed():
    results = compare_arms(_rows(0.05), "scratch", "dice")
    run = {"arm": "ours", "labels": 2, "seed": 9, "steps": 3, "lr": 0.1, "seconds_a_step": None, "folder": "f"}
    results |= {
        "data_sha256": "0" * 64, "split": "test", "cases": 12, "patients": 6, "pretraining": {}, "trials": [],
        "runs": [{**run, "failed": "the disk was full"}],
    }  # fmt: skip
    sections = study_sections(results)
    assert "With 2 labelled patients ours reaches a mean Dice of" in sections[0].text[0]
    assert sections[0].text[0].endswith("over 3 seeds, better.")
    assert sections[0].warnings == ("1 of 1 runs failed and are in no number; see Failures.",)
    assert any(section.title == "Failures" and "the disk was full" in str(section) for section in sections)
    assert sections[1].pictures
