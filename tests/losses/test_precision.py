"""Under bf16 autocast a loss of float32 embeddings is the same number; bf16 gives float32, and float64 stays."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medssl.losses.agreement import barlow_twins, cosine_distance, koleo, negative_cosine, vicreg_terms
from medssl.losses.contrastive import batch_info_nce, nt_xent, queue_info_nce

_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nt_xent": lambda a, b: nt_xent(a, b, 0.1),
    "queue": lambda a, b: queue_info_nce(a, b, torch.nn.functional.normalize(b.float().flip(0)), 0.1),
    "batch": lambda a, b: batch_info_nce(a, b, 0.1),
    "barlow_twins": lambda a, b: barlow_twins(a, b, 0.01)[0],
    "vicreg": lambda a, b: torch.stack(vicreg_terms(a, b)).sum(),
    "cosine_distance": cosine_distance,
    "negative_cosine": negative_cosine,
    "koleo": lambda a, _: koleo(a),
}


@pytest.mark.parametrize("name", _LOSSES)
def test_autocast_changes_nothing(name: str):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 16, 32, generator=generator)
    expected = _LOSSES[name](first, second)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(_LOSSES[name](first, second), expected, rtol=0, atol=0)
        assert _LOSSES[name](first.bfloat16(), second.bfloat16()).dtype == torch.float32
    exact = _LOSSES[name](first.double(), second.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), expected)
