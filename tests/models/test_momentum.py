import pytest
import torch
from torch import Tensor, nn

from medssl.models.momentum import KeyQueue, Teacher, cosine_momentum
from medssl.models.swin import SwinV2


@pytest.mark.parametrize(("step", "golden"), [(0, 0.996), (25, 0.99658579), (50, 0.998), (100, 1.0), (120, 1.0)])
def test_momentum_rises_along_half_a_cosine(step: int, golden: float) -> None:
    assert cosine_momentum(0.996, step, 100) == pytest.approx(golden, abs=1e-8)


def test_the_teacher_is_an_average_and_never_trained() -> None:
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    teacher = Teacher(student)
    start = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    teacher.follow(student, 0.9)
    for own, old, live in zip(teacher.parameters(), start, student.parameters(), strict=True):
        torch.testing.assert_close(own, 0.9 * old + 0.1 * live)
        assert not own.requires_grad
    out = teacher(torch.randn(5, 3))
    assert not out.requires_grad
    assert teacher.network[1].num_batches_tracked == 1  # its own passes move its statistics
    assert student[1].num_batches_tracked == 0


class _ByChance(nn.Module):
    """Skips blocks and drops features in training."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.swin = SwinV2(dims, 1, patch_size=2, width=8, stages=[[1, 2], [3, 2]], window=2, drop_path=0.9)
        self.drop = nn.Dropout(0.5)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.drop(self.swin(image)[-1])
        return out


@pytest.mark.parametrize("dims", [2, 3])
def test_a_teacher_in_training_says_the_same_twice_and_its_student_does_not(dims: int) -> None:
    torch.manual_seed(0)
    student = _ByChance(dims)
    teacher, image = Teacher(student).train(), torch.randn(4, 1, *[8] * dims)
    assert teacher.network.training
    assert torch.equal(teacher(image), teacher(image))
    assert not torch.equal(student(image), student(image))
    torch.testing.assert_close(teacher(image), student.eval()(image))


def test_the_queue_forgets_the_oldest_and_wraps() -> None:
    queue = KeyQueue(4, 2)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(4))
    random = queue.keys.clone()
    queue.push(torch.tensor([[3.0, 0], [0, 2]]))
    assert torch.equal(queue.keys[:2], torch.eye(2))
    assert torch.equal(queue.keys[2:], random[2:])
    queue.push(torch.tensor([[-1.0, 0], [0, -1]]))
    queue.push(torch.tensor([[0.0, 5], [5, 0]]))
    assert queue.keys.tolist() == [[0, 1], [1, 0], [-1, 0], [0, -1]]
    other = KeyQueue(4, 2, seed=3)
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other.keys, queue.keys)
    assert other.pointer == queue.pointer == 2
