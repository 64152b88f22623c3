"""The table of a comparison of methods, and the plan it comes from."""

from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from medssl.evaluation.benchmark_plan import BenchmarkPlan, FamilyPlan, MethodPlan, SetPlan, merged
from medssl.evaluation.benchmark_table import Judged, RandomWeights, compare, markdown
from medssl.imaging.errors import ConfigError
from medssl.models.component import Overrides

_VIT = {"class_path": "medssl.models.vit.ViT", "init_args": {"width": 8}}


def _judged(seed: int, linear: float, **given: Any) -> Judged:
    about = {"images": "set", "method": "m", "family": "f", "architecture": _VIT, "seed": seed, "key": "k"}
    return Judged(**{**about, "hours": 0.5, "probes": {"knn": 0.9, "linear": linear}, **given})


def _random(*linear: float, **given: Any) -> list[RandomWeights]:
    about = {"images": "set", "architecture": _VIT, "key": "k", **given}
    return [RandomWeights(**about, seed=seed, probes={"knn": 0.5, "linear": v}) for seed, v in enumerate(linear)]


def test_a_method_is_compared_with_all_seeds_of_its_encoder_s_random_weights():
    rows, beside = [_judged(0, 0.8), _judged(1, 0.9), _judged(2, 0.85)], _random(0.7, 0.72, 0.68, 0.7)
    others = [*_random(0.99, 0.98, images="other"), *_random(0.99, 0.98, architecture={**_VIT, "init_args": {}})]
    (found,) = compare(rows, [*others, *beside], ())
    linear = found.probes["linear"]
    assert (linear.auroc, linear.random) == (pytest.approx(0.85), pytest.approx(0.7))
    tested = stats.ttest_ind([0.8, 0.9, 0.85], [0.7, 0.72, 0.68, 0.7], equal_var=False)
    expected = tested.confidence_interval(0.95)
    difference = linear.interval
    assert (difference.low, difference.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert difference.n == 7
    assert linear.p_value == linear.p_value_corrected == pytest.approx(tested.pvalue), "the larger of two"
    assert found.verdict == "yes"
    assert found.minutes == pytest.approx(30)
    assert (
        f"| m | ViT | 0.900 (+0.400: +0.400 to +0.400) * | 0.850 (+0.150: {expected.low:+.3f} to {expected.high:+.3f}) "
        "* | yes * | 30.0 |" in markdown([found])
    )
    (other,) = compare([_judged(0, 0.8, images="other")], [], ())
    parts = markdown([found, other]).split("### ")[1:]
    assert len(parts) == 2
    assert all("after Holm's correction over all methods and probes of the set" in p.split("|")[-1] for p in parts)


def test_p_values_are_corrected_over_all_methods_and_probes_of_a_set():
    """Of ten methods alike one just clears 0 alone, and no more beside the others."""
    values = [[0.80, 0.84, 0.86], *[[0.70, 0.80, 0.60]] * 9]
    rows = [
        _judged(seed, v, method=f"m{n}", probes={"linear": v, "attentive": 0.7 + seed / 50})
        for n, own in enumerate(values)
        for seed, v in enumerate(own)
    ]
    beside = [replace(r, probes={**r.probes, "attentive": 0.7}) for r in _random(0.70, 0.74, 0.78, 0.76)]
    elsewhere = [replace(row, images="other", method="m0") for row in rows[:3]]
    first, *others, apart = compare([*rows, *elsewhere], [*beside, *[replace(r, images="other") for r in beside]], ())
    p_value = first.probes["linear"].p_value
    assert p_value == pytest.approx(stats.ttest_ind(values[0], [0.70, 0.74, 0.78, 0.76], equal_var=False).pvalue)
    assert p_value < 0.05
    assert first.probes["linear"].p_value_corrected == pytest.approx(20 * p_value)
    assert apart.probes["linear"].p_value_corrected == pytest.approx(2 * p_value)
    assert (first.verdict, first.learns(), first.learns(corrected=True)) == ("yes", True, False)
    assert all(c.verdict == "not shown" for c in others)
    content = first.to_json()
    assert (content["learns"], content["learns_corrected"]) == (True, False)
    row = next(line for line in markdown([first]).splitlines() if line.startswith("| m0 "))
    assert "*" not in row


_BEST, _MIXED_UP = (0.88, 0.9, 0.92), (0.1, 0.9, 0.5)


@pytest.mark.parametrize(
    ("knn", "linear", "joint", "plain"),
    [
        (_BEST, _BEST, "yes", "yes"),
        (_MIXED_UP, _BEST, "yes, kNN not shown", "yes"),
        (_BEST, _MIXED_UP, "kNN alone", "not shown"),
        (_MIXED_UP, _MIXED_UP, "not shown", "not shown"),
    ],
)
def test_neighbours_too_must_show_what_a_joint_embedding_learned(
    knn: tuple[float, ...], linear: tuple[float, ...], joint: str, plain: str
):
    rows = [
        _judged(seed, 0.0, method=name, probes={"knn": knn[seed], "linear": linear[seed], "attentive": 0.5})
        for name in ("joint", "plain")
        for seed in range(3)
    ]
    random = [
        RandomWeights("set", _VIT, seed, "k", {"knn": v, "linear": v, "attentive": 0.5})
        for seed, v in enumerate((0.7, 0.72, 0.68))
    ]
    found = compare(rows, random, {"joint"})
    assert [c.verdict for c in found] == [joint, plain]
    assert [c.learns() for c in found] == [joint == "yes", plain == "yes"]
    assert [c.to_json()["verdict"] for c in found] == [joint, plain]
    assert [f"| {verdict} " in markdown([c]) for c, verdict in zip(found, (joint, plain), strict=True)] == [True, True]


def test_without_random_weights_nothing_is_shown():
    (found,) = compare([_judged(0, 0.8), _judged(1, 0.9)], [], ())
    assert found.verdict == "not shown"
    content = found.to_json()["probes"]["linear"]
    assert [content[name] for name in ("random", "p_value", "p_value_corrected")] == [None] * 3
    assert "not shown" in markdown([found])
    assert "nan" not in markdown(compare([_judged(0, 0.8)], _random(0.7, 0.71), ()))


def test_neighbours_alone_do_not_count_and_failures_are_told():
    random = _random(0.75, 0.77)
    (found,) = compare([_judged(0, 0.7), _judged(1, 0.8)], random, ())
    assert found.verdict == "not shown"
    assert "not shown" in markdown([found])
    broken = _judged(0, 0, probes={}, architecture={}, failed="diverged")
    (failed,) = compare([broken], random, ())
    assert failed.failures == ("seed 0: diverged",)
    assert "| failed |" in markdown([failed])
    (partly,) = compare([broken, _judged(1, 0.7), _judged(2, 0.8)], random, ())
    assert partly.probes["linear"].auroc == pytest.approx(0.75)


def _plan(**given: Any) -> BenchmarkPlan:
    images = SetPlan("a", "images", "class", (8, 8), columns={"class": "c"})
    family = FamilyPlan(
        "f", Overrides({"a": {"train": {"steps": 3, "lr": 0.1}, "encoder": {"class_path": "x", "init_args": {}}}})
    )
    method = MethodPlan("m", "f", "m_unet", Overrides({"train": {"lr": 0.2}, "encoder": {"class_path": "y"}}))
    return BenchmarkPlan(**{"sets": [images], "families": [family], "methods": [method], **given})


def test_a_method_s_changes_lie_over_its_family_s():
    plan = _plan()
    assert plan.changes(plan.methods[0], plan.sets[0]) == {
        "train": {"steps": 3, "lr": 0.2},
        "encoder": {"class_path": "y"},
    }
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}) == {"a": {"b": 1, "c": 3}}


def test_a_mixed_method_learns_from_a_set_of_each_dimension_in_one_run():
    flat, deep, other = (
        SetPlan(name, "images", "class", size, columns={"class": "c"})
        for name, size in (("a", (8, 8)), ("b", (8, 8, 8)), ("c", (8, 8)))
    )
    mixed = MethodPlan("m", "f", "m_vit", mixed=True)
    family = FamilyPlan("f", Overrides({"a": {"train": {"steps": 3}}, "mixed": {"train": {"steps": 6}}}))
    plan = _plan(sets=[other, deep, flat], methods=[mixed], families=[family])
    assert plan.groups(mixed) == [(other, deep)]
    assert plan.groups(mixed, ["a", "b"]) == []
    assert plan.groups(MethodPlan("n", "f", "n_vit"), ["a", "b"]) == [(deep,), (flat,)]
    assert plan.changes(mixed, other) == {"train": {"steps": 6}}
    assert mixed.config_for(deep) == "m_vit_mixed"
    apart = _plan(sets=[other, deep], mixed_sets=[flat], methods=[mixed], families=[family])
    assert apart.groups(mixed) == [(flat, deep)]
    assert apart.groups(MethodPlan("n", "f", "n_vit")) == [(other,), (deep,)]
    with pytest.raises(ConfigError, match="sets: a is there twice"):
        _plan(sets=[flat, deep], mixed_sets=[flat], methods=[mixed], families=[family])
    with pytest.raises(ConfigError, match="mixed ones need a set of 2D and one of 3D"):
        _plan(methods=[mixed], families=[family])


def test_all_mistakes_of_a_plan_are_told_at_once():
    images = SetPlan("a", "images", "structures", (8,), crops=0)
    with pytest.raises(ConfigError) as caught:
        _plan(
            seeds=1,
            random_seeds=1,
            sets=[images, images],
            methods=[MethodPlan("m", "g", "m_unet")],
            families=[FamilyPlan("f", Overrides({"b": {}}))],
        )
    for part in (
        "seeds must",
        "random_seeds must",
        "a is there twice",
        "family 'g'",
        "'b', no set",
        "size needs",
        "label maps",
        "crops and draws must be",
    ):
        assert part in caught.value.message
