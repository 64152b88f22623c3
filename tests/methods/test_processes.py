"""Two processes with half of a batch each compute what one computes of the whole."""

from typing import Any

import gloo_drawn
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


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    return in_two_processes(gloo_drawn.half, tmp_path_factory.mktemp("gloo"))


@pytest.mark.parametrize("kind", gloo_drawn.KINDS)
def test_with_the_draws_of_one_process_two_compute_the_same(
    kind: str, drawn: list[dict[str, dict[str, Tensor]]]
) -> None:
    whole = gloo_drawn.found(kind, slice(None))
    assert ("moved.patch_centre" in whole) == (kind in ("dinov2_centred", "ibot"))
    for half in drawn:
        assert half[kind].keys() == whole.keys()
        for name, tensor in whole.items():
            torch.testing.assert_close(half[kind][name], tensor, atol=2e-5, rtol=1e-3, msg=name)
