"""Further pairs of a study: compared as arms are with the reference, corrected together, and told in words."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from medssl.evaluation.report.study import study_sections
from medssl.evaluation.report.study_markdown import study_markdown
from medssl.evaluation.report.study_pairs import all_in_all
from medssl.evaluation.study_plan import ArmPlan, StudyPlan
from medssl.evaluation.study_scores import NetworkScores
from medssl.evaluation.study_table import compare_arms
from medssl.imaging.errors import ConfigError
from medssl.models.component import Overrides

_NAMES = tuple(f"p{n}" for n in range(10))
_PAIRS = [("spark", "longer"), ("spark", "simclr")]


def _rows(gains: dict[str, float], slopes: dict[str, tuple[float, ...]] | None = None) -> list[NetworkScores]:
    """Arms that differ by a gain from the reference, the same for all patients, and by slopes of their seeds."""
    return [
        NetworkScores(
            arm, labels, seed, _NAMES, _NAMES,
            np.linspace(0.4, 0.6, 10) + gain + (slopes or {}).get(arm, (0.0,) * 3)[seed] * np.log2(labels),
        )
        for labels in (1, 4, 16)
        for seed in range(3)
        for arm, gain in gains.items()
    ]  # fmt: skip


def test_pairs_are_compared_as_arms_with_the_reference_and_corrected_together():
    gains = {"scratch": 0.0, "longer": 0.05, "spark": 0.05, "simclr": 0.02}
    alone, found = (compare_arms(_rows(gains), "scratch", "dice", pairs) for pairs in ([], _PAIRS))
    longer, simclr = found["pairs"]
    assert [(pair["arm"], pair["against"]) for pair in found["pairs"]] == _PAIRS
    for pair, gain, verdict in ((longer, 0.0, "no difference shown"), (simclr, 0.03, "better")):
        for labels, one in zip((1, 4, 16), pair["points"], strict=True):
            assert (one["labels"], one["seeds"], one["verdict"]) == (labels, [0, 1, 2], verdict)
            assert one["seed_differences"] == pytest.approx([gain] * 3)
            assert one["over_seeds_and_patients"]["estimate"] == pytest.approx(gain)
    assert (alone["comparisons"], found["comparisons"]) == (9, 17), "two pairs at three numbers, and their slopes"
    least = 2 / 2**10
    assert alone["points"][0]["differences"]["spark"]["p_value_corrected"] == pytest.approx(9 * least)
    assert found["points"][0]["differences"]["spark"]["p_value_corrected"] == pytest.approx(17 * least)


def test_the_slopes_of_a_pair_are_compared_over_seeds_and_patients():
    """Seeds of spark gain 0.018, 0.02 and 0.022 with every doubling, of simclr 0.06 each."""
    slopes = {"spark": (0.018, 0.02, 0.022), "simclr": (0.06,) * 3}
    rows = _rows(dict.fromkeys(("scratch", "spark", "simclr"), 0.0), slopes)
    slope = compare_arms(rows, "scratch", "dice", [("spark", "simclr")])["pairs"][0]["slope"]
    assert (slope["labels"], slope["seeds"]) == ([1, 4, 16], [0, 1, 2])
    assert slope["seed_differences"] == pytest.approx([-0.042, -0.04, -0.038])
    half = stats.t.ppf(0.975, 2) * 0.002 / np.sqrt(3)
    assert slope["over_seeds"]["high"] == pytest.approx(-0.04 + half)
    assert slope["over_seeds_and_patients"]["high"] == pytest.approx(-0.04 + half), "all patients gain alike"
    assert slope["p_value"] == pytest.approx(2 / 2**10)
    assert slope["p_value_seeds_and_patients"] == pytest.approx(2 * stats.t.sf(0.04 / 0.002 * np.sqrt(3), 2))
    assert slope["verdict"] == "holds better"
    turned = compare_arms(rows, "scratch", "dice", [("simclr", "spark")])["pairs"][0]["slope"]
    assert (turned["verdict"], turned["p_value"]) == ("holds worse", slope["p_value"])
    one = compare_arms([row for row in rows if row.labels == 4], "scratch", "dice", [("spark", "simclr")])
    assert one["pairs"][0]["slope"] is None


def test_arms_without_a_common_seed_are_not_compared():
    rows = [r for r in _rows({"scratch": 0.0, "spark": 0.1, "simclr": 0.1}) if (r.seed == 0) != (r.arm == "spark")]
    found = compare_arms(rows, "scratch", "dice", [("spark", "simclr"), ("spark", "nobody")])
    assert [(pair["points"], pair["slope"]) for pair in found["pairs"]] == [([], None)]
    assert all(list(point["differences"]) == ["simclr"] for point in found["points"])


def _summary(gains: dict[str, float], pairs: list[tuple[str, str]], **given: Any) -> Any:
    compared = compare_arms(_rows(gains), "scratch", "dice", pairs)
    budget = {"steps": 9, "batch_size": 2}
    pretraining = {
        "method": "SparK", "cases": 9, "steps": 3, "crop": [8, 8], "source": None, "views": 1, "local_views": 0,
        "batch_size": 2, "device_hours": 0.1, "pretrainings": 3,
    }  # fmt: skip
    about = {"data_sha256": "0" * 64, "split": "test", "cases": 10, "patients": 10, "warnings": [], "trials": []}
    about |= {
        "validation": {"cases": 4, "patients": 2, "chosen": []},
        "runs": [],
        "pretraining": {"spark": pretraining},
    }
    about["pretraining_failed"] = {}
    about["budgets"] = {arm: {**budget, "longer_as": "spark" if arm == "longer" else ""} for arm in gains}
    return study_sections({**about, **compared, **given})


@pytest.mark.parametrize(
    ("longer", "pairs", "told"),
    [
        (
            0.05,
            _PAIRS,
            "better; but not shown to be better than longer, which spends the time of spark's pretraining on the",
        ),
        (0.05, [("longer", "spark")], "better; but not shown to be better than longer, which spends"),
        (0.08, _PAIRS, "better; but worse than longer, which spends"),
        (0.08, [("longer", "spark")], "better; but worse than longer, which spends"),
        (0.02, _PAIRS, "better; also better than longer, which spends"),
        (0.05, [], "better; whether that is more than its pretraining's time spent on the labels was not compared."),
    ],
)
def test_better_than_from_scratch_is_not_said_without_its_time_on_the_labels(
    longer: float, pairs: list[tuple[str, str]], told: str
):
    gains = {"scratch": 0.0, "longer": longer, "spark": 0.05, "simclr": 0.0}
    text = _summary(gains, pairs)[0].text
    of_spark = [sentence for sentence in text if sentence.startswith("With") and "spark reaches" in sentence]
    assert len(of_spark) == 3
    assert all(told in sentence for sentence in of_spark)
    assert not any("pretraining's time" in s for s in text if s.startswith("With") and "longer reaches" in s)


def test_pairs_stand_in_the_summary_and_in_tables():
    gains = {"scratch": 0.0, "longer": 0.0, "spark": 0.05, "simclr": 0.05}
    sections = _summary(gains, _PAIRS)
    (said,) = [sentence for sentence in sections[0].text if sentence.startswith("spark against longer: ")]
    assert "with 1 labelled patient +0.050" in said
    assert said.count("labelled patients +0.050") == 2
    assert "as labels shrink (gain per doubling) " in said
    assert said.endswith(": no difference shown.")
    differences, of_slopes = sections[1].tables[-3:-1]
    assert [row[:2] for row in differences.rows[:3]] == [(n, "spark − longer") for n in ("1", "4", "16")]
    assert [row[-1] for row in differences.rows] == ["better"] * 3 + ["no difference shown"] * 3
    assert [row[:2] for row in of_slopes.rows] == [("1 to 16", f"spark − {other}") for other in ("longer", "simclr")]


def test_a_study_that_shows_nothing_says_so_first():
    told = _summary({"scratch": 0.0, "longer": 0.0, "spark": 0.0, "simclr": 0.0}, _PAIRS)[0].text
    assert told[0].startswith("All in all: none of the 17 comparisons shows a difference")
    (one,) = compare_arms(_rows({"scratch": 0.0, "spark": 0.0}), "scratch", "dice")["points"][:1]
    assert all_in_all({"points": [one], "pairs": []}) == []


def test_pairs_that_make_no_comparison_are_refused():
    arms = [ArmPlan(name) for name in ("scratch", "a", "b")]
    pairs = [("a", "b"), ("b", "a"), ("a", "a"), ("a", "scratch"), ("a", "nobody")]
    with pytest.raises(ConfigError) as caught:
        StudyPlan("app", arms, "scratch", [1], "dice", Overrides({}), pairs=pairs)
    assert [problem.replace("pairs: ", "") for problem in caught.value.problems] == [
        "['b', 'a'] is there twice",
        "['a', 'a']: an arm is not compared with itself",
        "['a', 'scratch']: every arm is compared with the reference 'scratch': leave it out",
        "['a', 'nobody']: 'nobody' is none of the arms ['scratch', 'a', 'b']",
    ]


def test_the_tables_for_a_page_say_what_the_results_say():
    found = compare_arms(
        _rows({"scratch": 0.0, "longer": 0.0, "spark": 0.05, "simclr": 0.05}), "scratch", "dice", _PAIRS
    )
    of_arms, about, of_pairs, _ = study_markdown({**found, "cases": 10, "patients": 9, "split": "test"}).split("\n\n")
    gain, none = "+0.050 (+0.050 to +0.050) **better**", "+0.000 (+0.000 to +0.000) –"
    assert of_arms.splitlines() == [
        "| arm | 1 labelled patient | 4 labelled patients | 16 labelled patients |",
        "|---|---|---|---|",
        "| scratch | 0.500 | 0.500 | 0.500 |",
        f"| longer | {' | '.join([f'0.500; {none}'] * 3)} |",
        f"| spark | {' | '.join([f'0.550; {gain}'] * 3)} |",
        f"| simclr | {' | '.join([f'0.550; {gain}'] * 3)} |",
    ]
    assert about.startswith("Mean Dice on 10 cases of 9 patients (split test), mean of up to 3 seeds;")
    assert of_pairs.splitlines()[2:] == [
        f"| spark − longer | {' | '.join([gain] * 3)} | {none} |",
        f"| spark − simclr | {' | '.join([none] * 4)} |",
    ]
