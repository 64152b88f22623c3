"""Two processes with half of a batch each compute what one computes of the whole."""

from typing import Any

import gloo_views
import pytest
import torch
from gloo import in_two_processes
from small_view_methods import SMALL
from torch import Tensor


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    return in_two_processes(gloo_views.half, tmp_path_factory.mktemp("gloo"))


@pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.__name__)
def test_loss_gradients_queues_and_statistics_are_those_of_one_process(
    kind: Any, halves: list[dict[str, dict[str, Tensor]]]
) -> None:
    whole = gloo_views.found(kind, slice(None))
    rounding = 5e-6 * max(1.0, *(float(tensor.abs().max()) for tensor in whole.values()))
    for half in halves:
        assert half[kind.__name__].keys() == whole.keys()
        for name, tensor in whole.items():
            torch.testing.assert_close(half[kind.__name__][name], tensor, atol=rounding, rtol=1e-3, msg=name)
