"""Vision transformer: shapes, visible patches alone, attention in either arithmetic."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)

from medssl.imaging.errors import ConfigError
from medssl.models.attention import SigmaLinear, TransformerBlock, attention, mean_entropy, rotary_angles, rotate
from medssl.models.positions import pick, sincos_positions
from medssl.models.vit import ViT


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


@pytest.mark.parametrize(("name", "count"), [("tiny", 5.717), ("small", 22.05), ("base", 86.57), ("large", 304.3)])
def test_named_sizes_have_the_published_weights(name, count):
    """In millions, of ViT-*/16 with the 1000-class head (timm, DeiT); positions here are fixed, theirs are learned."""
    with torch.device("meta"):
        vit = ViT(2, 3, patch_size=16, width=name)
    learned_positions, head = 197 * vit.width, 1000 * vit.width + 1000
    own = sum(p.numel() for p in vit.parameters())
    assert (own + learned_positions + head) / 1e6 == pytest.approx(count, rel=5e-4)


def test_an_unknown_size_is_told():
    with pytest.raises(ConfigError, match="one of tiny, small, base, large, got 'huge'"):
        ViT(2, 1, width="huge")


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("attention", ["rope", "sigma", "rope_sigma"])
def test_the_options_of_attention_run_on_all_paths(dims, attention):
    torch.manual_seed(0)
    vit = ViT(dims, 2, patch_size=4, width=24, depth=2, heads=2, registers=1, attention=attention)
    image = torch.randn(2, 2, *[12] * dims)
    maps, every = vit(image), torch.arange(3**dims).expand(2, -1)
    torch.testing.assert_close(vit.eval().encode(image, every), vit.encode(image, None))
    assert maps[-1].shape == (2, 24, *[3] * dims)
    vit.train()(image)[-1].square().mean().backward()
    assert all(p.grad is not None for p in vit.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(vit(image)[-1]).all()
    other = ViT(dims, 2, patch_size=4, width=24, depth=2, heads=2, registers=1, attention=attention)
    other.load_state_dict(vit.state_dict(), strict=True)
    torch.testing.assert_close(other.eval()(image)[-1], vit.eval()(image)[-1], rtol=0, atol=0)


@pytest.mark.parametrize("grid", [(4, 5), (3, 4, 2)])
def test_rotary_scores_depend_on_the_distance_alone(grid):
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 26)
    table = rotary_angles(grid, 26).view(*grid, 13)

    def score(first, second):
        turned = [rotate(v, (table[p].cos(), table[p].sin())) for v, p in ((query, first), (key, second))]
        return float((turned[0] * turned[1]).sum())

    zero, far = (0,) * len(grid), tuple(n - 2 for n in grid)
    step = (1,) * len(grid)
    moved = tuple(a + b for a, b in zip(far, step, strict=True))
    assert score(zero, step) == pytest.approx(score(far, moved), abs=1e-5)
    assert score(zero, step) != pytest.approx(score(zero, zero), abs=1e-3)
    torch.testing.assert_close(rotate(query, (table.cos()[far], table.sin()[far])).norm(), query.norm())


def test_order_matters_to_rotary_tokens_and_the_class_token_is_not_turned():
    torch.manual_seed(0)
    vit = ViT(2, 1, patch_size=4, width=24, depth=1, heads=2, attention="rope").eval()
    image = torch.randn(1, 1, 12, 12)
    assert not torch.allclose(vit.embed(image), vit.embed(image.flip(2)), atol=1e-4)
    cosines, sines = vit._rotation(image, None)
    assert (cosines[..., 0, :] == 1).all()
    assert (sines[..., 0, :] == 0).all()


def test_sigma_is_the_largest_singular_value_and_gamma_the_norm():
    torch.manual_seed(0)
    layer = SigmaLinear(12, 20)
    plain = torch.nn.Linear(12, 20)
    plain.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    layer.start()
    tokens = torch.randn(3, 12)
    torch.testing.assert_close(layer.eval()(tokens), plain(tokens))  # as it was drawn
    with torch.no_grad():
        layer.weight.add_(torch.randn(20, 12))
        layer.gamma.fill_(0.7)
        before = layer.direction.clone()
        layer(tokens)
        assert torch.equal(layer.direction, before)  # nothing moves in eval mode
        layer.train()
        for _ in range(200):
            layer(tokens)
        effective = (layer.eval()(torch.eye(12)) - layer.bias).T
    assert float(torch.linalg.matrix_norm(effective, 2)) == pytest.approx(0.7, rel=1e-4)


@pytest.mark.parametrize("second_in_training", [True, False])
def test_two_passes_before_backward_give_the_gradients_of_both(second_in_training):
    torch.manual_seed(0)
    layer = SigmaLinear(6, 5)
    layer.start()
    with torch.no_grad():
        layer.weight.add_(0.5 * torch.randn(5, 6))  # the direction is that of another weight
    first, second = torch.randn(2, 3, 6)
    start, singly = layer.direction.clone(), torch.zeros(5, 6)
    for tokens in (first, second):  # each on its own, from the direction that it finds
        layer.train(tokens is first or second_in_training)
        singly += torch.autograd.grad(layer(tokens).square().sum(), layer.weight)[0]
    layer.direction.copy_(start)
    one = layer.train()(first).square().sum()
    two = layer.train(second_in_training)(second).square().sum()
    (one + two).backward()
    torch.testing.assert_close(layer.weight.grad, singly)


def test_one_pass_is_one_step_of_the_power_iteration():
    torch.manual_seed(0)
    layer = SigmaLinear(6, 5)
    layer.start()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(5, 6))
        layer.gamma.fill_(1.0)
    weight, right = layer.weight.detach(), layer.direction.clone()
    for _ in range(3):
        left = weight @ right / (weight @ right).norm()
        right = weight.T @ left / (weight.T @ left).norm()
        bounded = layer.train()(torch.eye(6)).detach() - layer.bias.detach()
        torch.testing.assert_close(bounded.T, weight / (left @ weight @ right))
    torch.testing.assert_close(layer.direction, right)


@pytest.mark.parametrize("attention", ["plain", "rope", "sigma"])
@pytest.mark.parametrize("dims", [2, 3])
def test_images_of_unlike_sizes_in_one_pass_are_as_each_alone(dims: int, attention: Any) -> None:
    torch.manual_seed(0)
    vit = ViT(dims, 1, patch_size=4, width=12, depth=2, heads=2, registers=1, attention=attention).eval()
    large, small = torch.randn(2, 1, *[16] * dims), torch.randn(3, 1, *[8] * dims)
    fill = torch.rand(2, 4**dims) < 0.5, torch.randn(1, 1, 12)
    packed = vit.encode_packed([large, small], [fill, None])
    alone = [vit.encode(large, fill=fill), vit.encode(small)]
    for one, other in zip(packed, alone, strict=True):
        torch.testing.assert_close(one, other)
    gradients = [
        torch.autograd.grad(sum(part.square().sum() for part in parts), list(vit.parameters()))
        for parts in (packed, alone)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_entropy_of_attention_is_one_where_all_are_alike_and_nothing_where_one_is_taken():
    assert mean_entropy(torch.zeros(2, 3, 5, 7)).tolist() == pytest.approx([1.0] * 3)
    one = torch.full((2, 3, 5, 7), -torch.inf)
    one[..., 4], one[..., 5] = 0.3, -99.0
    assert mean_entropy(one).tolist() == pytest.approx([0.0] * 3)
    assert mean_entropy(torch.tensor([[[[0.0, 0.0, -torch.inf]]]])).tolist() == [1.0], "alike among those it may see"
    assert mean_entropy(torch.zeros(1, 1, 2, 1)).tolist() == [1.0], "a token alone has no choice"


@pytest.mark.parametrize(("norm", "golden"), [(0.0, 2.77258872), (2.0, 2.41870800)])
def test_entropy_of_the_sharpest_logits_of_a_norm(norm: float, golden: float):
    """The bound of Zhai et al., ICML 2023, which the row of logits that is one large and 15 equal ones reaches."""
    row = torch.full((16,), -norm / math.sqrt(16 * 15), dtype=torch.float64)
    row[3] = norm * math.sqrt(15 / 16)
    assert float(row.norm()) == pytest.approx(norm)
    assert float(mean_entropy(row.view(1, 1, 1, 16))) * math.log(16) == pytest.approx(golden, abs=1e-6)


@pytest.mark.parametrize("rotary", [False, True])
def test_a_block_tells_the_entropy_of_the_attention_it_computes(rotary: bool):
    torch.manual_seed(0)
    block, tokens = TransformerBlock(24, 2), 3 * torch.randn(2, 6, 24)
    angles = rotary_angles((2, 3), 12)
    rotation = (angles.cos()[None, None], angles.sin()[None, None]) if rotary else None
    with torch.no_grad():
        block.qkv.weight *= 4
        parts = block.qkv(block.norm1(tokens)).view(2, 6, 3, 2, 12)
        for head in range(2):
            entropies = []
            for image in range(2):
                asking, asked = parts[image, :, 0, head], parts[image, :, 1, head]
                if rotation is not None:
                    asking, asked = (rotate(p[None, None], rotation)[0, 0] for p in (asking, asked))
                for query in asking[2:]:
                    shares = torch.softmax(torch.stack([query @ key for key in asked]) / math.sqrt(12), 0)
                    entropies.append(-sum(float(p) * math.log(float(p)) for p in shares))
            expected = sum(entropies) / len(entropies) / math.log(6)
            assert float(block.attention_entropy(tokens, 2, rotation)[head]) == pytest.approx(expected, rel=1e-5)
            assert expected < 0.9


@pytest.mark.parametrize(("dims", "width", "heads"), [(3, 48, 12), (2, 24, 8)])
def test_heads_too_narrow_for_rotary_positions_are_refused(dims: int, width: int, heads: int):
    with pytest.raises(ConfigError, match=f"attention rope needs {2 * dims} numbers a head or more"):
        ViT(dims, 1, patch_size=4, width=width, depth=1, heads=heads, attention="rope")
    ViT(dims, 1, patch_size=4, width=width, depth=1, heads=heads)
