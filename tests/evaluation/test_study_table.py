"""Arms of a study: paired by seed and patient, closed forms, what must not be compared."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from null_studies import wrong_verdicts
from scipy import stats
from sklearn.metrics import roc_auc_score

from medssl.evaluation.report.study import study_sections
from medssl.evaluation.report.study_markdown import study_markdown
from medssl.evaluation.study_plan import Metric
from medssl.evaluation.study_scores import NetworkScores, measure_of, of_patients
from medssl.evaluation.study_table import compare_arms
from medssl.imaging.errors import ConfigError

_CASES = tuple(f"c{n:02d}" for n in range(20))
_PATIENTS = tuple(f"p{n // 2}" for n in range(20))


def _dice(arm: str, labels: int, seed: int, gain: float, noise: float = 0.0) -> NetworkScores:
    base = np.random.default_rng([labels, seed]).uniform(0.5, 0.8, 20)
    own = np.random.default_rng([labels, seed, len(arm)]).normal(0, noise, 20)
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
        assert ours["p_value"] == pytest.approx(2 / 2**10)  # ten patients, all in favour
        assert ours["p_value_corrected"] <= 4 * 2 / 2**10, "two arms at two numbers of labels"
        assert ours["seeds"] == [0, 1, 2]
        assert again["over_seeds"]["estimate"] == pytest.approx(0)
    first = found["points"][0]["differences"]["ours"]
    assert first["p_value_corrected"] == pytest.approx(4 * 2 / 2**10)
    assert found["comparisons"] == 4
    assert found["smallest_p_value_corrected"] == pytest.approx(4 * 2 / 2**10)
    assert found["ranking"]["ranks"]["ours"] == 1
    assert (found["ranking"]["blocks"], found["ranking"]["blocks_are"]) == (10, "patients")


def test_what_test_patients_alone_explain_is_no_verdict():
    """Seeds that agree say nothing about other patients: an arm that some of them suit is not called better."""
    rng = np.random.default_rng(3)
    suits = rng.normal(0, 0.1, 26)
    suits += 0.02 - suits.mean()
    theirs = rng.uniform(0.5, 0.7, (3, 26))
    found = compare_arms(_arms_of(theirs + suits, theirs), "scratch", "dice")["points"][0]["differences"]["ours"]
    assert found["over_seeds"]["low"] == pytest.approx(0.02), "the interval over seeds would have said better"
    assert found["verdict"] == "no difference shown"


def test_few_studies_of_arms_that_are_alike_call_one_better_or_worse():
    wrong, by_swaps_alone, by_seeds_alone = wrong_verdicts(3, 26, 0.1, 20)
    assert wrong <= by_swaps_alone <= 0.15
    assert by_seeds_alone >= 0.5, "as it was decided before"


def test_an_interval_without_a_p_value_below_the_level_is_no_verdict():
    """A gain that the interval shows and that counts no longer among all comparisons of the study."""
    rng = np.random.default_rng(0)
    gains = rng.normal(0, 1, 20)
    gains = 0.05 + 0.095 * (gains - gains.mean()) / gains.std()
    theirs = rng.uniform(0.5, 0.7, (3, 20))
    alone = compare_arms(_arms_of(theirs + gains, theirs), "scratch", "dice")["points"][0]["differences"]["ours"]
    assert (alone["verdict"], alone["over_seeds_and_patients"]["low"] > 0) == ("better", True)
    rows = _arms_of(theirs + gains, theirs)
    for number in range(9):
        more = _arms_of(theirs + rng.normal(0, 0.1, 20), theirs)[3:]
        rows += [replace(one, arm=f"other {number}") for one in more]
    found = compare_arms(rows, "scratch", "dice")
    among = found["points"][0]["differences"]["ours"]
    assert (found["comparisons"], among["over_seeds_and_patients"]) == (10, alone["over_seeds_and_patients"])
    assert among["p_value_corrected"] > 0.05
    assert among["verdict"] == "no difference shown"


def test_a_study_that_cannot_show_a_difference_says_so():
    found = compare_arms(_arms_of(np.full((3, 5), 0.9), np.full((3, 5), 0.1)), "scratch", "dice")
    assert found["points"][0]["differences"]["ours"]["over_seeds_and_patients"]["low"] == pytest.approx(0.8)
    assert found["points"][0]["differences"]["ours"]["verdict"] == "no difference shown"
    assert found["smallest_p_value_corrected"] == pytest.approx(2 / 2**5)
    warnings = study_sections(_results(found))[0].warnings
    assert any("p cannot be below 0.062" in text and "cannot show a difference" in text for text in warnings)


def test_a_number_of_all_cases_is_tested_by_swaps_of_patients():
    """Clear gains are found; networks that are alike are not told apart."""
    rng = np.random.default_rng(5)
    truth = np.arange(30) % 2
    names = tuple(f"p{n:02d}" for n in range(30))
    rows = []
    for seed in range(3):
        for arm, gain in (("scratch", 0.0), ("ours", 3.0), ("alike", 0.0)):
            share = 1 / (1 + np.exp(-(gain * (2 * truth - 1) + rng.normal(size=30))))
            rows.append(NetworkScores(arm, 4, seed, names, names, np.stack([1 - share, share], 1), truth))
    for metric in ("auroc", "balanced_accuracy"):
        found = compare_arms(rows, "scratch", metric)["points"][0]["differences"]
        assert found["ours"]["p_value_corrected"] < 0.01
        assert found["ours"]["verdict"] == "better"
        assert found["alike"]["p_value"] > 0.05
        assert found["alike"]["verdict"] == "no difference shown"


def test_a_patient_with_many_images_counts_once():
    """Of three ill patients one, with eight of ten images, is mistaken for the well ones."""
    patients = ("u",) * 8 + ("v", "w", "x", "y")
    ill = np.array([0.1] * 7 + [0.3] + [0.9, 0.8, 0.2, 0.4])
    truth = np.array([1] * 10 + [0, 0])
    tested = NetworkScores("ours", 4, 0, tuple("abcdefghijkl"), patients, np.stack([1 - ill, ill], 1), truth)
    once = of_patients(tested)
    assert once.cases == once.patients == ("u", "v", "w", "x", "y")
    np.testing.assert_allclose(once.values[0], [1 - 0.125, 0.125])
    assert once.truth is not None
    assert once.truth.tolist() == [1, 1, 1, 0, 0]
    assert measure_of("auroc")(tested, np.arange(12)) == pytest.approx((4 + 1) / 20)
    assert measure_of("auroc")(once, np.arange(5)) == pytest.approx(4 / 6)


def test_seeds_that_share_a_pretraining_count_as_one():
    """Six seeds of three pretrainings, whose gains are 0.02, 0.05 and 0.08: over seeds clear, over pretrainings not."""
    rng = np.random.default_rng(0)
    theirs = rng.uniform(0.5, 0.7, (6, 20))
    ours = theirs + np.array([0.02, 0.05, 0.08] * 2)[:, None] + rng.normal(0, 0.001, (6, 20))
    alone = _arms_of(ours, theirs)
    shared = [replace(row, start=f"{row.seed % 3}" if row.arm == "ours" else "") for row in alone]
    fixed = [replace(row, start="given" if row.arm == "ours" else "") for row in alone]
    by_seed, by_pretraining, by_file = (
        compare_arms(rows, "scratch", "dice")["points"][0]["differences"]["ours"] for rows in (alone, shared, fixed)
    )
    assert (by_seed["verdict"], by_pretraining["verdict"]) == ("better", "no difference shown")
    assert (by_seed["over_seeds"]["clusters"], by_pretraining["over_seeds"]["clusters"]) == (6, 3)
    half = stats.t.ppf(0.975, 2) * 0.03 / np.sqrt(3)
    low = by_pretraining["over_seeds_and_patients"]["low"]
    assert low == pytest.approx(0.05 - half, abs=0.002)
    assert by_file == by_seed, "an encoder that is given is what it is"


@pytest.mark.parametrize("metric", ["auroc", "balanced_accuracy", "quadratic_kappa"])
def test_two_rare_patients_show_no_difference_whatever_they_are_told(metric: Metric):
    """All others are answered alike: p cannot be below 0.5, and the report names the comparison."""
    common = np.random.default_rng(0).uniform(0, 0.4, 18)
    names, truth = tuple(f"p{n:02d}" for n in range(20)), np.repeat([0, 1], [18, 2])
    rows = [
        NetworkScores(arm, 4, seed, names, names, np.stack([1 - share, share], 1), truth)
        for arm, share in (
            ("scratch", np.append(common, [0.1, 0.2])),
            ("ours", np.append(common, [0.9, 0.8])),
            ("other", np.append(1 - common, [0.9, 0.8])),
        )
        for seed in range(2)
    ]
    found = compare_arms(rows, "scratch", metric)
    ours = found["points"][0]["differences"]["ours"]
    assert (ours["p_value"], ours["smallest_p_value"], ours["verdict"]) == (0.5, 0.5, "no difference shown")
    (said,) = study_sections(_results(found))[0].warnings
    assert said.startswith("1 of 2 comparisons cannot show a difference")
    assert said.endswith("so few test patients differently: ours with 4 labels.")


def test_noise_shows_no_difference():
    found = compare_arms(_rows(0.0, noise=0.05), "scratch", "dice")
    for point in found["points"]:
        assert point["differences"]["ours"]["verdict"] == "no difference shown"
        assert point["differences"]["ours"]["over_seeds_and_patients"]["low"] < 0


def test_the_gain_per_doubling_is_the_slope_over_the_logarithm():
    """Seeds that gain 0.02 and 0.06 with every doubling, and one that lacks a number of labels."""
    rows = [
        NetworkScores("scratch", labels, seed, _CASES, _PATIENTS, np.full(20, 0.5 + gain * np.log2(labels)))
        for labels in (2, 4, 16)
        for seed, gain in enumerate((0.02, 0.06, 0.09))
        if (labels, seed) != (4, 2)
    ]
    rows.append(NetworkScores("once", 4, 0, _CASES, _PATIENTS, np.full(20, 0.5)))
    found = compare_arms(rows, "scratch", "dice")
    assert list(found["slopes"]) == ["scratch"], "with one number of labels there is no slope"
    slope = found["slopes"]["scratch"]
    assert slope["seeds"] == pytest.approx({0: 0.02, 1: 0.06})
    half = stats.t.ppf(0.975, 1) * np.std([0.02, 0.06], ddof=1) / np.sqrt(2)
    assert slope["per_doubling"]["estimate"] == pytest.approx(0.04)
    assert slope["per_doubling"]["high"] == pytest.approx(0.04 + half)
    (table,) = (t for t in study_sections(_results(found))[1].tables if "gain per doubling of the labels" in t.header)
    assert table.rows[0][::2] == ("scratch", "0.020 0.060")
    one = compare_arms([row for row in rows if row.labels == 4], "scratch", "dice")
    assert one["slopes"] == {}


def test_the_slope_of_other_than_straight_curves_is_that_of_least_squares():
    rows = [
        NetworkScores("scratch", labels, seed, _CASES, _PATIENTS, np.full(20, value + 0.1 * seed))
        for labels, value in ((1, 0.1), (3, 0.5), (10, 0.4))
        for seed in range(2)
    ]
    expected = stats.linregress(np.log2([1, 3, 10]), [0.1, 0.5, 0.4]).slope
    slope = compare_arms(rows, "scratch", "dice")["slopes"]["scratch"]["per_doubling"]
    assert (slope["estimate"], slope["low"]) == (pytest.approx(expected), pytest.approx(expected))


def _results(compared: dict[str, Any], **given: Any) -> dict[str, Any]:
    """What the report is made of."""
    about: dict[str, Any] = {"data_sha256": "0" * 64, "split": "test", "cases": 20, "patients": 10}
    about |= {"warnings": [], "budgets": {}, "validation": {"cases": 4, "patients": 2, "chosen": []}}
    return {**about, "pretraining": {}, "pretraining_failed": {}, "trials": [], "runs": [], **compared, **given}


def _arms_of(ours: npt.ArrayLike, theirs: npt.ArrayLike) -> list[NetworkScores]:
    """Networks of two arms from (seeds, patients) Dice."""
    rows = []
    for arm, values in (("scratch", theirs), ("ours", ours)):
        for seed, dice in enumerate(np.asarray(values, dtype=float)):
            names = tuple(f"p{n}" for n in range(len(dice)))
            rows.append(NetworkScores(arm, 2, seed, names, names, dice))
    return rows


def test_structures_that_one_arm_invents_are_in_difference_interval_p_and_ranks():
    """Ten patients with a lesion, alike in both arms, and ten without, in half of whom ours invents one."""
    rng = np.random.default_rng(0)
    lesions = np.repeat(rng.uniform(0.7, 0.9, (1, 10)), 3, 0)
    empty = np.full((3, 10), np.nan)
    invented = np.where(np.arange(10) < 5, 0.0, np.nan) * np.ones((3, 1))
    found = compare_arms(_arms_of(np.hstack([lesions, invented]), np.hstack([lesions, empty])), "scratch", "dice")
    difference = found["points"][0]["differences"]["ours"]
    both = difference["over_seeds_and_patients"]
    assert difference["seed_differences"] == pytest.approx([-5 / 15] * 3)
    assert (both["estimate"], both["n"], both["clusters"]) == (pytest.approx(-5 / 15), 15, 15)
    values = np.repeat([0.0, -1.0], [10, 5])
    half = stats.t.ppf(0.975, 14) * values.std(ddof=1) / np.sqrt(15)
    assert both["high"] == pytest.approx(-5 / 15 + half), "no seed differs: Student's t over the patients alone"
    assert difference["p_value"] == difference["smallest_p_value"] == 2 / 2**5, "ten of 15 are alike"
    assert found["ranking"]["ranks"] == pytest.approx({"scratch": 20 / 15, "ours": 25 / 15}), "10 ties, 5 lost"


def test_ranks_do_not_reward_what_was_invented():
    """Means of what each arm has are 0.54 for ours and 0.5; on the same cases 0.54 and 0.55."""
    ours, theirs = [0.6] * 9 + [0.0], [0.5] * 9 + [np.nan]
    found = compare_arms(_arms_of([ours, ours], [theirs, theirs]), "scratch", "dice")
    assert found["points"][0]["differences"]["ours"]["over_seeds"]["estimate"] == pytest.approx(-0.01)
    assert found["ranking"]["ranks"] == pytest.approx({"ours": 1.1, "scratch": 1.9}), "the patient counts, and is lost"


def test_ranks_of_dice_are_over_patients_whatever_the_number_of_seeds():
    """More seeds on the same patients are no more blocks; a patient that no arm says anything about is none."""
    rng = np.random.default_rng(7)
    dice = rng.uniform(size=(3, 8))  # of each arm
    dice[:, 0] = np.nan
    rows = [
        NetworkScores(arm, labels, seed, tuple("abcdefgh"), tuple("abcdefgg"), values)
        for arm, values in zip(("scratch", "ours", "again"), dice, strict=True)
        for labels in (2, 8)
        for seed in range(4)
    ]
    found = compare_arms(rows, "scratch", "dice")["ranking"]
    of_patients = np.column_stack([dice[:, 1:6], dice[:, 6:].mean(1)])
    assert found["blocks"] == 6
    assert found["p_value"] == pytest.approx(stats.friedmanchisquare(*of_patients).pvalue)
    assert list(found["ranks"].values()) == pytest.approx(sorted(stats.rankdata(-of_patients, axis=0).mean(1)))
    assert "speaks for other patients and these networks" in _caption(compare_arms(rows, "scratch", "dice"))


def _caption(compared: dict[str, Any]) -> str:
    return study_sections(_results(compared))[1].tables[-1].caption


def test_estimate_and_p_rest_on_the_same_pairs_where_seeds_count_other_cases():
    """A patient that says something in one seed alone has more weight there: the statistic of the swaps is the sum."""
    ours = np.array([[0.9, 0.8, np.nan], [0.9, 0.8, 0.0]])
    theirs = np.array([[0.6, 0.6, np.nan], [0.6, 0.7, np.nan]])
    difference = compare_arms(_arms_of(ours, theirs), "scratch", "dice")["points"][0]["differences"]["ours"]
    brought = np.array([0.3 / 2 + 0.3 / 3, 0.2 / 2 + 0.1 / 3, -1 / 3])
    assert difference["over_seeds"]["estimate"] == pytest.approx(brought.sum() / 2)
    signs = np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1)
    assert difference["p_value"] == pytest.approx((abs(brought @ signs) >= abs(brought.sum()) - 1e-9).mean())


def test_the_interval_over_seeds_and_patients_is_never_narrower_than_either():
    rng = np.random.default_rng(1)
    for scale in (0.001, 0.05, 1.0):
        ours = rng.normal(0, 0.05, (3, 12)) + rng.normal(0, scale, (3, 1))
        difference = compare_arms(_arms_of(ours, 0 * ours), "scratch", "dice")["points"][0]["differences"]["ours"]
        names = ("over_seeds", "over_seeds_and_patients")
        halves = [difference[name]["high"] - difference[name]["estimate"] for name in names]
        patients = stats.t.ppf(0.975, 11) * ours.mean(0).std(ddof=1) / np.sqrt(12)
        assert halves[1] == pytest.approx(np.hypot(halves[0], patients))


def test_a_class_of_one_patient_alone_has_no_interval_over_patients():
    values = np.stack([np.linspace(0.1, 0.8, 20), 1 - np.linspace(0.1, 0.8, 20)], 1)
    truth = np.array([1, 1] + [0] * 18)
    rows = [
        NetworkScores(arm, 4, seed, _CASES, _PATIENTS, values[:: 1 - 2 * (seed == 1)], truth)
        for seed in range(3) for arm in ("scratch", "ours")
    ]  # fmt: skip
    found = compare_arms(rows, "scratch", "auroc")
    difference = found["points"][0]["differences"]["ours"]
    both = difference["over_seeds_and_patients"]
    assert (both["low"], both["high"]) == (None, None)
    assert (difference["p_value"], difference["verdict"]) == (1.0, "no difference shown")
    assert both["method"].startswith("none: without one of the patients")


def test_seeds_that_one_arm_lacks_are_left_out():
    rows = [row for row in _rows(0.05) if (row.arm, row.labels, row.seed) != ("ours", 8, 1)]
    point = compare_arms(rows, "scratch", "dice")["points"][1]
    assert point["differences"]["ours"]["seeds"] == [0, 2]
    assert list(point["arms"]["scratch"]["seeds"]) == [0, 1, 2]


def test_means_that_are_told_together_are_of_the_same_seeds():
    """Seed 1, in which both arms are bad, is lacking of one of them: its mean alone would look better."""
    rows = [replace(row, values=row.values - 0.3 * (row.seed == 1)) for row in _rows(0.05)]
    rows = [row for row in rows if (row.arm, row.labels, row.seed) != ("ours", 8, 1)]
    results = _results(compare_arms(rows, "scratch", "dice"))
    means = {arm: [found["seeds"][seed] for seed in (0, 2)] for arm, found in results["points"][1]["arms"].items()}
    text = next(t for t in study_sections(results)[0].text if t.startswith("With 8 labelled patients"))
    assert f"of {np.mean(means['ours']):.3f}, scratch {np.mean(means['scratch']):.3f}: difference +0.050" in text
    assert f"| ours | {results['points'][0]['arms']['ours']['mean']['estimate']:.3f}; " in study_markdown(results)
    assert "(2 of 3 seeds); +0.050" in study_markdown(results)


def test_a_number_of_all_cases_is_measured_on_all_of_them():
    rng = np.random.default_rng(0)
    truth = np.arange(20) // 2 % 2
    rows = []
    for seed in range(2):
        for arm in ("scratch", "ours"):
            share = rng.uniform(size=20)
            values = np.stack([1 - share, share], 1)
            rows.append(NetworkScores(arm, 4, seed, _CASES, _PATIENTS, values, truth))
    point = compare_arms(rows, "scratch", "auroc")["points"][0]
    for row in rows:
        assert point["arms"][row.arm]["seeds"][row.seed] == pytest.approx(roc_auc_score(truth, row.values[:, 1]))
    difference = point["differences"]["ours"]
    wide, narrow = difference["over_seeds_and_patients"], difference["seed_differences"]
    assert wide["low"] <= np.mean(narrow) <= wide["high"]
    ranking = compare_arms(rows, "scratch", "auroc")["ranking"]
    assert (ranking["blocks"], ranking["blocks_are"]) == (2, "pairs of labels and seed")
    assert (ranking["p_value"], ranking["critical_difference"]) == (None, None)
    assert "not independent" in _caption(compare_arms(rows, "scratch", "auroc"))
    with pytest.raises(ConfigError, match="needs classes"):
        measure_of("auroc")(_dice("a", 1, 0, 0), np.arange(3))


def test_other_test_cases_are_refused():
    rows = _rows(0.0)
    other = NetworkScores("ours", 2, 0, (*_CASES[:-1], "other"), _PATIENTS, rows[0].values)
    with pytest.raises(ConfigError, match="different test sets"):
        compare_arms([*rows, other], "scratch", "dice")


def test_the_report_counts_validation_patients_where_something_was_chosen_on_them():
    compared = compare_arms(_rows(0.05), "scratch", "dice")
    for chosen, said in (
        ([], "With 2 labelled patients ours reaches"),
        (
            ["options"],
            "With 2 labelled patients, and 3 validation patients on whom the options were chosen, ours reaches",
        ),
        (["options", "weights"], "and 3 validation patients on whom the options and the weights were chosen, ours"),
    ):
        validation = {"cases": 4, "patients": 3, "chosen": chosen}
        assert said in study_sections(_results(compared, validation=validation))[0].text[1]


def test_the_report_warns_of_unlike_budgets_but_for_what_may_take_longer():
    compared = compare_arms(_rows(0.05, noise=0.01), "scratch", "dice")
    budgets = {"scratch": (300, 2, ""), "ours": (300, 2, ""), "again": (900, 2, "ours")}

    def warnings(**changed: tuple[int, int, str]) -> tuple[str, ...]:
        names = ("steps", "batch_size", "longer_as")
        found = {arm: dict(zip(names, one, strict=True)) for arm, one in {**budgets, **changed}.items()}
        return study_sections(_results(compared, budgets=found))[0].warnings

    assert warnings() == ()
    (said,) = warnings(ours=(600, 2, ""))
    assert "scratch 300 steps of 2 crops, ours 600 steps of 2 crops." in said
    assert len(warnings(ours=(300, 4, ""))) == 1


def _pretraining(**given: Any) -> dict[str, Any]:
    return {
        "method": "SparK", "cases": 9, "steps": 3, "crop": [8, 9], "source": None, "views": 1, "local_views": 0,
        "batch_size": 4, "device_hours": 0.1, "pretrainings": 1, **given,
    }  # fmt: skip


def test_the_report_says_what_pretrainings_saw_and_warns_where_they_took_unlike_time():
    compared = compare_arms(_rows(0.05, noise=0.01), "scratch", "dice")
    two = _pretraining(method="SimCLR", source=[16, 16], views=2, local_views=6, device_hours=0.124)
    sections = study_sections(_results(compared, pretraining={"ours": _pretraining(), "again": two}))
    assert sections[0].warnings == ()
    (table,) = sections[2].tables
    assert table.rows == (
        ("ours", "SparK", "9", "8 x 9", "1", "4", "3", "1", "0.1"),
        ("again", "SimCLR", "9", "8 x 9 out of 16 x 16", "2 and 6 small", "4", "3", "1", "0.124"),
    )
    unknown = dict.fromkeys(("crop", "source", "views", "local_views", "batch_size", "device_hours"))
    given = {"ours": _pretraining(), "again": _pretraining(device_hours=0.126), "theirs": _pretraining(**unknown)}
    summary, _, choices = study_sections(_results(compared, pretraining=given))[:3]
    (said,) = summary.warnings
    assert said.startswith("Pretrainings took unlike time, in device-hours: ours 0.1, again 0.126. Differences")
    assert choices.tables[0].rows[2] == ("theirs", "SparK", "9", "–", "–", "–", "3", "1", "–")


def test_the_report_says_how_far_intervals_speak_for_other_pretrainings():
    once = _pretraining()
    compared = compare_arms(_rows(0.05, noise=0.01), "scratch", "dice")
    for given, said in (
        ({"ours": once}, ["One pretraining an arm: what another one would give is in no interval."]),
        ({"ours": {**once, "pretrainings": 3}}, ["hold what other pretrainings would give"]),
        ({"ours": {**once, "pretrainings": 3}, "again": once}, ["ours 3.", "One pretraining an arm (again): what"]),
        ({}, []),
    ):
        summary = study_sections(_results(compared, pretraining=given))[0]
        for place in (summary.text, summary.notes):
            about = [text for text in place if "retraining" in text and "patients" not in text]
            assert len(about) == len(said)
            assert all(words in text for words, text in zip(said, about, strict=True))


def test_the_report_says_what_was_found_and_what_failed():
    run = {"arm": "ours", "labels": 2, "seed": 9, "steps": 3, "lr": 0.1, "seconds_a_step": None, "folder": "f"}
    runs = [{**run, "failed": "the disk was full"}]
    sections = study_sections(_results(compare_arms(_rows(0.05, noise=0.01), "scratch", "dice"), runs=runs))
    assert sections[0].text[0] == "All in all: 2 of 4 comparisons show a difference."
    assert "With 2 labelled patients ours reaches a mean Dice of" in sections[0].text[1]
    assert sections[0].text[1].endswith("over 3 seeds and 10 patients, corrected p 0.008: better.")
    assert sections[0].warnings == ("1 of 1 runs failed and are in no number; see Failures.",)
    assert any(section.title == "Failures" and "the disk was full" in str(section) for section in sections)
    assert sections[1].pictures
