"""Vision transformer: shapes, visible patches alone, attention in either arithmetic."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)

from medssl.imaging.errors import ConfigError
from medssl.models.positions import pick, sincos_positions
from medssl.models.vit import TransformerBlock, ViT, attention


def _vit(dims: int, channels: int = 1, **extra) -> ViT:
    torch.manual_seed(0)
    return ViT(dims, channels, **{"patch_size": 4, "width": 24, "depth": 4, "heads": 2, **extra})


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_shapes(dims: int, channels: int):
    model, image = _vit(dims, channels, registers=2), torch.randn(2, channels, *(8, 12, 4)[:dims])
    maps = model(image)
    grid = (2, 3, 1)[:dims]
    assert [tuple(m.shape) for m in maps] == [(2, 24, *grid)] * 4
    assert model.feature_channels == (24,) * 4
    assert model.strides == ((4,) * dims,) * 4
    assert model.embed(image).shape == (2, 24)
    torch.testing.assert_close(maps[-1].flatten(2).mean(-1), model.embed(image))


@pytest.mark.parametrize("dims", [2, 3])
def test_all_patches_kept_is_the_whole_image(dims: int):
    model, image = _vit(dims), torch.randn(2, 1, *(8, 12, 4)[:dims])
    count = image[0, 0].numel() // 4**dims
    order = torch.stack([torch.randperm(count) for _ in range(2)])
    shuffled = model.encode(image, order)[:, 1:]
    unshuffled = torch.empty_like(shuffled).scatter_(1, order[..., None].expand_as(shuffled), shuffled)
    torch.testing.assert_close(unshuffled, model.encode(image, None)[:, 1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_only_kept_patches_are_embedded(dims: int, monkeypatch):
    model, image = _vit(dims), torch.randn(2, 1, *(16, 8, 8)[:dims])
    seen = []
    model.patch_embed.register_forward_hook(lambda _, args, out: seen.append(tuple(args[0].shape)))
    keep = torch.tensor([[0, 3], [1, 2]])
    tokens = model.encode(image, keep)
    assert seen == [(2, 2, 4**dims)]
    assert tokens.shape == (2, 3, 24)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_token_takes_the_place_of_hidden_patches_and_keeps_their_position(dims: int):
    model, image = _vit(dims, registers=1), torch.randn(2, 1, *(8, 12, 4)[:dims])
    hidden = torch.tensor([[True, False, False, True, True, False], [False] * 6])
    token = torch.randn(1, 1, 24, requires_grad=True)
    embedded, plain = model.embed_patches(image, None, (hidden, token)), model.embed_patches(image, None)
    positions = sincos_positions(model.grid(image.shape[2:]), 24)
    torch.testing.assert_close(embedded[0, hidden[0]], token[0] + positions[hidden[0]])
    assert torch.equal(embedded[~hidden], plain[~hidden])
    encoded = model.encode(image, fill=(hidden, token))
    assert encoded.shape == (2, 2 + 6, 24)
    torch.testing.assert_close(encoded[1], model.encode(image)[1])
    encoded[0].sum().backward()
    assert token.grad is not None
    keep = torch.tensor([[3, 1], [5, 0]])
    assert torch.equal(model.embed_patches(image, keep, (hidden, token)), pick(embedded, keep))


@pytest.mark.parametrize("first", [0, 3])
def test_block_computes_only_what_is_read(first: int):
    torch.manual_seed(0)
    block, tokens = TransformerBlock(16, 2), torch.randn(2, 7, 16)
    torch.testing.assert_close(block(tokens, first), block(tokens)[:, first:])


def test_attention_equals_loops():
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4)
    out = attention(query, key, value)
    for head in range(2):
        for row in range(3):
            scores = torch.tensor([float(query[0, head, row] @ key[0, head, n]) / 2 for n in range(5)]).exp()
            expected = sum(s / scores.sum() * value[0, head, n] for n, s in enumerate(scores))
            torch.testing.assert_close(out[0, head, row], expected)


def test_bf16_attention_with_gradient_agrees_with_float32():
    torch.manual_seed(0)
    parts = [torch.randn(2, 3, 9, 8, dtype=torch.bfloat16) for _ in range(3)]
    trained = [p.clone().requires_grad_() for p in parts]
    exact = [p.float().requires_grad_() for p in parts]
    out, reference = attention(*trained), F.scaled_dot_product_attention(*exact)
    torch.testing.assert_close(out.float(), reference, atol=0.02, rtol=0.02)
    out.float().square().sum().backward()
    reference.square().sum().backward()
    for ours, theirs in zip(trained, exact, strict=True):
        torch.testing.assert_close(ours.grad.float(), theirs.grad, atol=0.08, rtol=0.05)
    with torch.no_grad():
        torch.testing.assert_close(attention(*parts).float(), reference, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("dims", [2, 3])
def test_grid_may_change(dims: int):
    model = _vit(dims)
    assert model(torch.randn(1, 1, *[8] * dims))[0].shape[2:] == (2,) * dims
    assert model(torch.randn(1, 1, *[16] * dims))[0].shape[2:] == (4,) * dims


def test_layer_depths_name_every_parameter():
    model = _vit(2)
    names = model.layer_depths()
    assert all(any(p == n or p.startswith(n + ".") for n in names) for p, _ in model.named_parameters())
    assert names["patch_embed"] < names["blocks.0"] < names["blocks.3"] <= names["norm"]


@pytest.mark.parametrize(("extra", "word"), [({"heads": 5}, "heads"), ({"width": 4, "heads": 1}, "width")])
def test_what_does_not_fit_is_refused(extra: dict, word: str):
    with pytest.raises(ConfigError, match=word):
        _vit(3, **extra)


def test_image_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match="patches"):
        _vit(2)(torch.randn(1, 1, 8, 10))
