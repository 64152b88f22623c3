"""Section about single lesions: how many are found, at how many false alarms."""

from collections.abc import Mapping
from typing import Any

from medssl.evaluation.report.page import Section, Table
from medssl.evaluation.report.results import interval_text

_MATCH = {
    "iou": "an intersection over union of {overlap:g} or more",
    "dice": "a Dice of {overlap:g} or more",
    "any": "one voxel",
}


def lesion_section(results: Mapping[str, Any], title: str = "Single lesions") -> Section:
    """Average precision, sensitivity at false candidates a case, and whether a case has a lesion, of every arm.

    Args:
        results: Content of results.json with `lesions`.
        title: Heading.
    """
    rule = results["lesions"]
    arms = {name: arm["lesions"] for name, arm in results["arms"].items() if arm["lesions"]}
    found = [(label, name, own[label]) for label in arms[results["arm"]] for name, own in arms.items()]
    numbers = Table(
        ("lesions of", "arm", "lesions", "found", "false", "average precision", "FROC", "AUROC of cases"),
        tuple(
            (
                label,
                name,
                *(str(one[key]) for key in ("lesions", "found", "false")),
                *(interval_text(one[key]) for key in ("average_precision", "froc", "case_auroc")),
            )
            for label, name, one in found
        ),
        "Found and false: candidates of any score. 95 % intervals over patients.",
    )
    rates = list(found[0][2]["sensitivity"])
    curve = Table(
        ("lesions of", "arm", *(f"at {rate}" for rate in rates)),
        tuple((label, name, *(interval_text(one["sensitivity"][r]) for r in rates)) for label, name, one in found),
        "Share of the lesions found, at so many false candidates a case; FROC above is the mean of this line.",
    )
    match = _MATCH[rule["match"]].format(**rule)
    text = (
        f"Candidates are connected voxels with a probability above {rule['threshold']:g}, scored by the highest; a "
        f"candidate finds a lesion by an overlap of {match}. Each lesion is found once, each candidate finds one; "
        "further hits of a lesion that is found count in the score of their case alone.",
        "The AUROC of cases asks whether a case has a lesion at all, by its highest candidate; it needs cases of both "
        "kinds.",
    )
    return Section(title, text, (numbers, curve))
