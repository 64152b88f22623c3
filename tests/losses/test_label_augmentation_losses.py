"""Joint labels: golden numbers, slow oracles, and who learns from whom."""

import pytest
import torch
from golden import sines
from torch.nn import functional

from medssl.losses.label_augmentation import aggregated, joint_cross_entropy, self_distillation

_LOGITS, _CLASSES = sines(4, 6, 3.0), torch.tensor([1, 2])


def test_golden_numbers():
    """Two samples, two transformations, three classes."""
    assert float(joint_cross_entropy(_LOGITS, _CLASSES, 2)) == pytest.approx(2.12542742, abs=1e-8)
    assert float(functional.cross_entropy(aggregated(_LOGITS, 2), _CLASSES)) == pytest.approx(1.38645325, abs=1e-8)


def test_one_transformation_is_plain_cross_entropy():
    logits, classes = sines(4, 3, 0.3), torch.tensor([0, 2, 1, 1])
    assert float(joint_cross_entropy(logits, classes, 1)) == pytest.approx(
        float(functional.cross_entropy(logits, classes))
    )
    torch.testing.assert_close(aggregated(logits, 1), logits)


@pytest.mark.parametrize("transforms", [2, 3, 4])
def test_the_mean_is_over_the_columns_of_each_own_transformation(transforms: int):
    samples, classes = 3, 2
    logits = sines(samples * transforms, classes * transforms, 0.7)
    found = aggregated(logits, transforms)
    for b in range(samples):
        for c in range(classes):
            own = [float(logits[b * transforms + j, c * transforms + j]) for j in range(transforms)]
            assert float(found[b, c]) == pytest.approx(sum(own) / transforms)


def test_distillation_is_a_divergence_that_the_student_alone_feels():
    teacher, student = sines(2, 3, 0.1).requires_grad_(), sines(2, 3, 1.1).requires_grad_()
    loss = self_distillation(teacher, student, temperature=2.0)
    p, q = ((x / 2).softmax(1) for x in (teacher, student))
    torch.testing.assert_close(loss, 4 * (p * (p / q).log()).sum() / 2)
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert float(self_distillation(teacher.detach(), teacher.detach())) == pytest.approx(0, abs=1e-12)
