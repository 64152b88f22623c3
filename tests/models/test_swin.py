"""Swin Transformer V2: windows, cosine attention, position bias, and the pyramid."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)

from medssl.imaging.errors import ConfigError
from medssl.models.decoders import UNetDecoder, decoder_for
from medssl.models.networks import Network
from medssl.models.swin import SwinV2
from medssl.models.window_attention import WindowAttention, Windows, log_offsets
from medssl.training.optimizers import parameter_groups


def _swin(dims: int, channels: int = 1, lively: bool = True, **extra) -> SwinV2:
    """A small one; `lively`: with weights as after some training, where blocks are not the identity."""
    torch.manual_seed(0)
    given = {"patch_size": 2, "width": 12, "stages": [[2, 2], [2, 3]], "window": 3}
    model = SwinV2(dims, channels, **{**given, **extra})
    if lively:
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 4])
def test_pyramid(dims: int, channels: int):
    model, image = _swin(dims, channels), torch.randn(2, channels, *(16, 12, 8)[:dims])
    maps = model(image)
    assert [tuple(m.shape) for m in maps] == [(2, 12, *(8, 6, 4)[:dims]), (2, 24, *(4, 3, 2)[:dims])]
    assert model.feature_channels == (12, 24)
    assert model.strides == ((2,) * dims, (4,) * dims)
    torch.testing.assert_close(maps[-1].flatten(2).mean(-1), model.embed(image))


def test_a_stage_without_blocks_merges_and_does_no_more():
    model = _swin(2, stages=[[2, 2], [0, 1]])
    first = model.stages[0](model.patch_embed(image := torch.randn(1, 1, 8, 8)))
    torch.testing.assert_close(model(image)[-1].movedim(1, -1), model.norm(model.stages[1].merge(first)))


@pytest.mark.parametrize("dims", [2, 3])
def test_blocks_are_the_identity_at_first(dims: int):
    model, tokens = _swin(dims, lively=False), torch.randn(2, *(6, 5, 4)[:dims], 12)
    assert torch.equal(model.stages[0](tokens), tokens)
    assert not torch.equal(_swin(dims).stages[0](tokens), tokens)


@pytest.mark.parametrize(
    ("grid", "size", "shifted"), [((7, 6), (3, 4), True), ((5, 3, 4), (2, 3, 3), True), ((4,), (4,), True)]
)
def test_windows_part_the_grid_and_join_again(grid: tuple[int, ...], size: tuple[int, ...], shifted: bool):
    tokens = torch.randn(2, *grid, 5)
    windows = Windows.over(grid, size, shifted)
    assert torch.equal(windows.join(windows.split(tokens)), tokens)


def test_a_window_holds_neighbours_row_by_row():
    tokens = torch.arange(16.0).view(1, 4, 4, 1)
    plain = Windows.over((4, 4), (2, 2), False).split(tokens)[..., 0]
    assert plain.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    moved = Windows.over((4, 4), (2, 2), True).split(tokens)[..., 0]
    assert moved.tolist() == [[5, 6, 9, 10], [7, 4, 11, 8], [13, 14, 1, 2], [15, 12, 3, 0]]


def test_windows_as_large_as_the_grid_are_not_moved():
    windows = Windows.over((3, 8), (4, 4), True)
    assert (windows.size, windows.shift) == ((3, 4), (0, 2))
    assert Windows.over((3, 4), (4, 4), True).apart(torch.device("cpu")) is None


def test_drawn_mask_of_a_moved_grid():
    apart = Windows.over((4,), (2,), True).apart(torch.device("cpu"))
    assert apart is not None
    assert apart.tolist() == [[[False, False], [False, False]], [[False, True], [True, False]]]


def _logits_and_places(grid: tuple[int, ...], size: tuple[int, ...]) -> tuple[Windows, torch.Tensor]:
    windows = Windows.over(grid, size, True)
    places = torch.stack(torch.meshgrid(*[torch.arange(n) + 1 for n in grid], indexing="ij"), -1)
    return windows, windows.split(places[None])  # the filling has place 0


@pytest.mark.parametrize(("grid", "size"), [((8,), (4,)), ((7, 6), (3, 4)), ((5, 3, 4), (2, 2, 3))])
def test_tokens_see_each_other_where_they_are_near_in_the_grid(grid: tuple[int, ...], size: tuple[int, ...]):
    windows, places = _logits_and_places(grid, size)
    apart = windows.apart(torch.device("cpu"))
    assert apart is not None
    filling = (places == 0).any(-1)
    distance = (places[:, :, None] - places[:, None]).abs()
    near = (distance < torch.tensor(windows.size)).all(-1)
    real = ~filling[:, :, None] & ~filling[:, None]
    assert torch.equal(apart[real], ~near[real])
    assert apart[filling[:, :, None] ^ filling[:, None]].all(), "nobody sees the filling"
    assert not apart.diagonal(dim1=1, dim2=2).any()


@pytest.mark.parametrize("dims", [2, 3])
def test_what_is_far_away_has_no_influence_across_the_border(dims: int):
    """Along an axis of 6 with windows of 3 moved by 1, the last window holds tokens 4, 5 and 0."""
    block = _swin(dims).stages[0].blocks[1].attention
    grid = (6, *[1] * (dims - 1))
    tokens = torch.randn(1, *grid, 12)
    windows = Windows.over(grid, (3,) * dims, True)
    before = block(tokens, windows, windows.apart(tokens.device))
    tokens[:, 5] += 3
    after = block(tokens, windows, windows.apart(tokens.device))
    changed = (before != after).flatten(2).any(-1)[0]
    assert changed.tolist() == [False, False, False, False, True, True]
    assert (block(tokens, windows, None) != after)[:, 0].any(), "without the mask the first token sees the last"


@pytest.mark.parametrize("dims", [2, 3])
def test_attention_equals_loops(dims: int):
    block = _swin(dims).stages[0].blocks[0].attention
    size = (3, 2, 2)[:dims]
    tokens = torch.randn(1, *size, 12)
    windows = Windows.over(size, size, False)
    flat = tokens.flatten(1, -2)[0]
    parts = [part(flat).view(-1, 2, 6) for part in (block.query, block.key, block.value)]
    places = [(i, j, k)[:dims] for i in range(3) for j in range(2) for k in range(2 if dims == 3 else 1)]
    rows = []
    for own, here in zip(parts[0], places, strict=True):
        heads = []
        for head in range(2):
            logits = []
            for other, there in zip(parts[1], places, strict=True):
                offset = torch.tensor([float(a - b) * 8 / 2 for a, b in zip(here, there, strict=True)])
                logarithm = offset.sign() * torch.log2(1 + offset.abs()) / math.log2(8)
                bias = 16 * torch.sigmoid(block.position(logarithm))[head]
                cosine = F.cosine_similarity(own[head], other[head], dim=0)
                logits.append(cosine * block.log_scale[head].exp() + bias)
            weights = torch.stack(logits).softmax(0)
            heads.append((weights[:, None] * parts[2][:, head]).sum(0))
        rows.append(block.proj(torch.cat(heads)))
    torch.testing.assert_close(block(tokens, windows, None).flatten(1, -2)[0], torch.stack(rows), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_entropy_of_attention_counts_what_may_be_seen_alone(dims: int):
    block = _swin(dims).stages[0].blocks[1].attention
    grid, size = (6, *[1] * (dims - 1)), (3,) * dims
    windows = Windows.over(grid, size, True)
    apart = windows.apart(torch.device("cpu"))
    with torch.no_grad():
        for part in (block.query, *block.position):
            for parameter in part.parameters():
                parameter.zero_()
        tokens = torch.randn(2, *grid, 12)
        assert block.attention_entropy(tokens, windows, apart).tolist() == pytest.approx([1.0] * block.heads)
        block.query.weight.copy_(block.key.weight)
        block.log_scale.fill_(99.0)  # every token looks at itself alone, but one, which has no other
        found = block.attention_entropy(tokens, windows, apart)
        assert found.tolist() == pytest.approx([1 / 6] * block.heads, abs=0.02)


def test_logits_are_bounded():
    block = WindowAttention(8, 2, (4, 4))
    assert block.log_scale.exp().tolist() == pytest.approx([10, 10])
    block.log_scale.data.fill_(99.0)
    for parameter in block.position.parameters():
        parameter.data *= 1e3
    logits = block._logits(50 * torch.randn(3, 16, 8), (4, 4))
    assert logits.abs().max() <= 116.001
    same = block._logits(torch.ones(1, 16, 8), (4, 4)).detach()
    assert same.diagonal(dim1=2, dim2=3).isfinite().all()
    assert (block.bias((4, 4)) >= 0).all()
    assert (block.bias((4, 4)) <= 16).all()


def test_logits_are_those_of_float32_under_bf16_too():
    block = WindowAttention(8, 2, (4, 4))
    block.log_scale.data.fill_(math.log(100.0))
    tokens = torch.randn(3, 16, 8)
    with torch.autocast("cpu", torch.bfloat16):
        query, key = (F.normalize(block._per_head(part(tokens)).float(), dim=-1) for part in (block.query, block.key))
        logits = block._logits(tokens, (4, 4))
    wanted = 100 * query @ key.transpose(-1, -2) + block.bias((4, 4))
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-4)


def test_bias_depends_on_the_offset_alone():
    block = _swin(2).stages[0].blocks[0].attention
    bias = block.bias((3, 4)).view(2, 3, 4, 3, 4)
    torch.testing.assert_close(bias[:, 0, 0, 1, 2], bias[:, 1, 1, 2, 3])
    torch.testing.assert_close(bias[:, 2, 3, 0, 1], bias[:, 2, 2, 0, 0])
    assert not torch.allclose(bias[:, 0, 0, 1, 2], bias[:, 1, 2, 0, 0])


def test_golden_log_offsets():
    found = log_offsets((4,), (4,))[4:, 0]
    torch.testing.assert_close(found, torch.tensor([0.62482304, 0.88765500, 1.05664167]), atol=1e-6, rtol=0)
    assert log_offsets((8,), (8,))[10, 0].item() == pytest.approx(0.71561380, abs=1e-6)
    assert log_offsets((1, 1), (1, 1)).tolist() == [[0, 0]], "a window of 1 divides by no 0"


def test_another_window_keeps_the_bias_of_common_offsets():
    small, large = _swin(2), _swin(2, window=5, pretrained_window=3)
    large.load_state_dict(small.state_dict())
    before, after = (m.stages[0].blocks[0].attention for m in (small, large))
    torch.testing.assert_close(
        after.bias((5, 5)).view(2, 5, 5, 5, 5)[:, 1:4, 1:4, 1:4, 1:4].reshape(2, 9, 9), before.bias((3, 3))
    )
    image = torch.randn(1, 1, 16, 16)
    assert not torch.equal(large(image)[0], small(image)[0])


def test_each_stage_has_the_window_that_it_was_trained_with():
    both, each = _swin(2, pretrained_window=5), _swin(2, pretrained_window=[[5, 5], [2, 4]])
    each.load_state_dict(both.state_dict())
    reaches = [stage.blocks[0].attention.reach for stage in each.stages]
    assert reaches == [(5, 5), (2, 4)]
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(each(image)[0], both(image)[0])
    assert not torch.allclose(each(image)[1], both(image)[1])


def test_a_small_grid_keeps_the_bias_of_its_offsets():
    block = _swin(2).stages[0].blocks[0].attention
    torch.testing.assert_close(block.bias((2, 1)), block.bias((3, 3)).view(2, 3, 3, 3, 3)[:, :2, 0, :2, 0])


def test_filling_up_changes_nothing():
    """A grid of 4 in windows of 3 is filled up to 6: the last token is alone with two that are not there."""
    block = _swin(2).stages[0].blocks[0].attention
    tokens = torch.randn(1, 4, 1, 12)
    windows = Windows.over((4, 1), (3, 3), False)
    out = block(tokens, windows, windows.apart(tokens.device))
    alone = block(tokens[:, 3:], Windows.over((1, 1), (3, 3), False), None)
    torch.testing.assert_close(out[:, 3:], alone)


def test_2d_is_3d_with_one_slice():
    flat, deep = _swin(2), _swin(3, patch_size=[2, 2, 1], window=[3, 3, 1], stages=[[2, 2]])
    flat = _swin(2, stages=[[2, 2]])
    weights = flat.state_dict()
    weights["patch_embed.embed.weight"] = weights["patch_embed.embed.weight"][..., None]
    for name in list(weights):
        if name.endswith("position.0.weight"):
            weights[name] = F.pad(weights[name], (0, 1), value=7.0)  # the third offset is always 0
    deep.load_state_dict(weights)
    image = torch.randn(2, 1, 14, 10)
    torch.testing.assert_close(deep(image[..., None])[0][..., 0], flat(image)[0])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_token_takes_the_place_of_hidden_patches(dims: int):
    model, image = _swin(dims), torch.randn(2, 1, *[8] * dims)
    hidden, token = torch.rand(2, 4**dims) < 0.5, torch.randn(1, 1, 12)
    seen = model(image, (hidden, token))
    voxels = hidden.view(2, 1, *[4] * dims)
    for axis in range(2, 2 + dims):
        voxels = voxels.repeat_interleave(2, axis)
    other = model(torch.where(voxels, 9.0, image), (hidden, token))
    assert all(torch.equal(a, b) for a, b in zip(seen, other, strict=True))
    assert not torch.equal(seen[0], model(image)[0])
    nothing = model(image, (torch.zeros_like(hidden), token))
    assert torch.equal(nothing[-1], model(image)[-1])


def test_drop_path_skips_branches_in_training_alone():
    model, tokens = _swin(2, drop_path=0.5, stages=[[1, 2], [3, 2]]), torch.randn(64, 2, 2, 24)
    block = model.stages[1].blocks[2]
    assert [b.drop_path for stage in model.stages for b in stage.blocks] == pytest.approx([0, 1 / 6, 2 / 6, 0.5])
    windows = Windows.over((2, 2), (3, 3), False)
    assert torch.equal(block(tokens, windows, None), block(tokens, windows, None))
    branch = block.train()._drop(torch.ones(2000, 1, 1, 1))
    assert set(branch.unique().tolist()) == {0.0, 2.0}
    assert branch.mean().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("dims", [2, 3])
def test_bf16_stays_near_float32_and_every_weight_gets_a_gradient(dims: int):
    model, image = _swin(dims), torch.randn(2, 1, *[16] * dims)
    exact = model(image)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(image)
    assert (low[-1] - exact[-1]).abs().mean() < 0.1 * exact[-1].abs().mean()
    sum(level.float().square().sum() for level in low).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("dims", [2, 3])
def test_segmentation_uses_the_pyramid(dims: int):
    encoder, image = _swin(dims, 2), torch.randn(2, 2, *[16] * dims)
    decoder = decoder_for(encoder, 3)
    assert type(decoder) is UNetDecoder
    network = Network(encoder, decoder)
    logits = network(image)
    assert logits.shape == (2, 3, *image.shape[2:])
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_layers_have_depths_and_what_is_no_weight_does_not_decay():
    model = _swin(2, stages=[[1, 2], [1, 2], [1, 2]])
    names = model.layer_depths()
    assert all(any(p.startswith(n + ".") for n in names) for p, _ in model.named_parameters())
    groups = parameter_groups(torch.nn.ModuleDict({"encoder": model}), layer_decay=0.5, encoder="encoder.")
    where = {name.removeprefix("encoder."): group for group in groups for name in group.names}
    rates = [
        where[name].scale
        for name in (
            "patch_embed.embed.weight",
            "stages.0.blocks.0.fc1.weight",
            "stages.1.merge.reduce.weight",
            "stages.2.blocks.0.fc1.weight",
            "norm.weight",
        )
    ]
    assert rates == pytest.approx([1 / 16, 1 / 8, 1 / 4, 1 / 2, 1])
    attention = "stages.0.blocks.0.attention"
    assert where[f"{attention}.query.weight"].decay
    assert not any(where[f"{attention}.{name}"].decay for name in ("log_scale", "position.0.weight", "query.bias"))


@pytest.mark.parametrize(
    ("extra", "part"),
    [
        ({"stages": [[2, 5]]}, "divisible by its heads"),
        ({"stages": [[2]]}, "blocks and heads of each stage"),
        ({"window": [3, 3, 3]}, "window needs 2 numbers"),
        ({"pretrained_window": [[3, 3]]}, "a list for each of 2 stages, got 1"),
        ({"pretrained_window": [[3, 3], [3]]}, r"pretrained_window needs 2 numbers of 1 and more, got \(3,\)"),
        ({"patch_size": 0}, "patch_size needs 2 numbers of 1 and more"),
        ({"drop_path": 1.0}, "drop_path must lie in"),
    ],
)
def test_what_does_not_fit_is_refused(extra: dict, part: str):
    with pytest.raises(ConfigError, match=part):
        _swin(2, **extra)


def test_image_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"does not divide into patches of \(4, 4\)"):
        _swin(2)(torch.randn(1, 1, 8, 10))
