"""Heads between an encoder's vector and a loss."""

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)

from medssl.models.projectors import Prototypes


def test_cosines_with_prototypes_are_those_of_float32_under_bf16_too():
    prototypes, vectors = Prototypes(16, 5), torch.randn(4, 3, 16)
    vectors[0, 0] = 3 * prototypes.weight[0].detach()
    wanted = F.cosine_similarity(vectors[:, :, None], prototypes.weight, dim=-1)
    torch.testing.assert_close(prototypes(vectors), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(prototypes(vectors), wanted)
        assert prototypes(vectors.bfloat16()).dtype == torch.float32
