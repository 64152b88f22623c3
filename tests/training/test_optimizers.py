import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from medssl.imaging.errors import ConfigError
from medssl.methods.cae import CAE
from medssl.methods.simsiam import SimSiam
from medssl.models.vit import ViT
from medssl.training.ema import WeightAverage
from medssl.training.loop import launch
from medssl.training.optimizers import build_optimizer, clip_each, decay_at, parameter_groups, rate_at, set_rates
from medssl.training.options import TrainOptions
from medssl.training.state import build


class _Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Linear(2, 2)
        self.position_embedding = nn.Parameter(torch.zeros(1, 4, 2))
        self.blocks = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
        self.norm = nn.LayerNorm(2)


class _Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = _Encoder(), nn.Linear(2, 2)


def _scales(groups):
    return {name: group.scale for group in groups for name in group.names}


def test_layer_decay_halves_the_rate_from_layer_to_layer():
    scale = _scales(parameter_groups(_Network(), layer_decay=0.5))
    assert scale["decoder.weight"] == 1
    assert scale["encoder.norm.weight"] == 1
    assert [scale[f"encoder.blocks.{n}.weight"] for n in (2, 1, 0)] == [0.5, 0.25, 0.125]
    assert scale["encoder.patch_embed.weight"] == scale["encoder.position_embedding"] == 0.0625


def test_layer_decay_of_an_encoder_whose_layers_are_not_known_is_refused():
    module = nn.Module()
    module.encoder = nn.ModuleDict({"model": nn.ModuleDict({"conv1": nn.Linear(2, 2), "layer1": nn.Linear(2, 2)})})
    with pytest.raises(ConfigError, match=r"train\.layer_decay: which layers of this encoder are first is not known"):
        parameter_groups(module, layer_decay=0.5)
    assert set(_scales(parameter_groups(module)).values()) == {1.0}


def test_norms_biases_and_embeddings_are_not_decayed():
    module = _Network()
    groups = parameter_groups(module)
    decayed = {name for group in groups if group.decay for name in group.names}
    assert decayed == {name for name, _ in module.named_parameters() if name.endswith("weight") and "norm" not in name}
    optimizer = build_optimizer(groups, TrainOptions(weight_decay=0.3))
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.0, 0.3}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(module.parameters()))


def test_the_query_of_hidden_patches_is_a_token_and_that_of_attention_a_weight():
    method = CAE(ViT(2, 1, patch_size=4, width=12, depth=1, heads=2), depths=(1, 1))
    decay = {name: group.decay for group in parameter_groups(method) for name in group.names}
    assert not decay["regressor.query"]
    assert decay["regressor.blocks.0.cross.query.weight"]


def test_what_is_not_decayed_can_have_a_rate_of_its_own_on_the_same_schedule():
    options = TrainOptions(lr=0.2, undecayed_lr=0.0048, steps=110, warmup_steps=10, final_lr=0.001)
    groups = parameter_groups(_Network(), layer_decay=0.5, undecayed_scale=options.undecayed_scale)
    optimizer = build_optimizer(groups, options)
    for step, share in ((0, 0.1), (10, 1.0), (110, 0.001)):
        set_rates(optimizer, groups, step, options)
        rates = {name: g["lr"] for g, own in zip(optimizer.param_groups, groups, strict=True) for name in own.names}
        assert rates["decoder.weight"] == pytest.approx(0.2 * share)
        assert rates["decoder.bias"] == rates["encoder.norm.weight"] == pytest.approx(0.0048 * share)
        assert rates["encoder.blocks.1.weight"] == pytest.approx(0.05 * share)
        assert rates["encoder.blocks.1.bias"] == pytest.approx(0.0012 * share)
    assert TrainOptions(lr=0.2).undecayed_scale == 1
    state = build(launch(TrainOptions(accelerator="cpu")), _Network(), replace(options, accelerator="cpu"))
    assert sorted(group["lr"] for group in state.optimizer.param_groups) == pytest.approx([0.0048, 0.2])
    with pytest.raises(ConfigError, match="undecayed_lr must be 0 or more"):
        TrainOptions(undecayed_lr=-0.1)


def test_the_predictor_of_simsiam_can_keep_its_rate_to_the_end():
    options = TrainOptions(lr=0.1, steps=20, warmup_steps=10)
    for kept in (True, False):
        vit = ViT(2, 1, patch_size=4, width=12, depth=1, heads=2)
        method = SimSiam(vit, hidden=8, bottleneck=4, fix_predictor_lr=kept)
        groups = parameter_groups(method)
        optimizer = build_optimizer(groups, options)
        for step, rest, predictor in ((4, 0.05, 0.05), (10, 0.1, 0.1), (15, 0.05, 0.1), (20, 0.0, 0.1)):
            set_rates(optimizer, groups, step, options)
            for group, own in zip(optimizer.param_groups, groups, strict=True):
                for name in own.names:
                    steady = kept and name.startswith("predictor.")
                    assert group["lr"] == pytest.approx(predictor if steady else rest), name


def test_a_frozen_start_moves_only_the_rest():
    module = _Network()
    options = TrainOptions(lr=0.1, schedule="constant")
    groups = parameter_groups(module, frozen_steps=2, encoder_scale=0.5)
    optimizer = build_optimizer(groups, options)
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    for step in range(3):
        for p in module.parameters():
            p.grad = torch.ones_like(p)
        set_rates(optimizer, groups, step, options)
        optimizer.step()
        moved = {name for name, p in module.named_parameters() if not torch.equal(p, start[name])}
        assert {name for name in start if name.startswith("decoder")} <= moved
        assert any(name.startswith("encoder") for name in moved) == (step == 2)


def test_a_thawing_encoder_doubles_its_rate_from_a_tenth_until_it_has_its_own():
    module, options = _Network(), TrainOptions(lr=0.1, schedule="constant")
    groups = parameter_groups(module, encoder_scale=0.5, frozen_steps=2, thaw_steps=3)
    optimizer = build_optimizer(groups, options)
    encoder = [any(name.startswith("encoder") for name in group.names) for group in groups]
    rates = []
    for step in range(16):
        set_rates(optimizer, groups, step, options)
        now = [group["lr"] for group in optimizer.param_groups]
        assert {rate for rate, own in zip(now, encoder, strict=True) if not own} == {0.1}
        (rate,) = {rate for rate, own in zip(now, encoder, strict=True) if own}
        rates.append(rate)
    share = [0, 0, *[0.1] * 3, *[0.2] * 3, *[0.4] * 3, *[0.8] * 3, 1, 1]
    assert rates == pytest.approx([0.05 * own for own in share])


def test_schedules_in_closed_form():
    cosine = TrainOptions(steps=110, warmup_steps=10)
    assert [rate_at(s, cosine) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert [rate_at(s, cosine) for s in (10, 35, 60, 110)] == pytest.approx(
        [1, 0.5 + math.sqrt(0.125), 0.5, 0], abs=1e-9
    )
    poly = TrainOptions(steps=100, schedule="poly")
    assert [rate_at(s, poly) for s in (0, 50)] == pytest.approx([1, 0.5**0.9])
    assert rate_at(99, TrainOptions(steps=100, schedule="constant")) == 1
    for schedule, half in (("cosine", 0.6), ("poly", 0.2 + 0.8 * 0.5**0.9)):
        ends = TrainOptions(steps=110, warmup_steps=10, schedule=schedule, final_lr=0.2)
        assert [rate_at(s, ends) for s in (0, 9, 10, 60, 110)] == pytest.approx([0.1, 1, 1, half, 0.2])
    with pytest.raises(ConfigError, match="not reached by") as caught:
        TrainOptions(schedule="constant", final_lr=1.1)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_fused_steps_match_the_formula(optimizer):
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(2.0)
    beta2 = {"beta2": 0.95} if optimizer == "adamw" else {}
    options = TrainOptions(optimizer=optimizer, lr=0.1, weight_decay=0.5, schedule="constant", **beta2)
    built = build_optimizer(parameter_groups(module), options)
    module.weight.grad = torch.full((1, 1), 4.0)
    built.step()
    # AdamW's first step is lr in the direction of the sign, beside decoupled decay; Nesterov's is 1.99 lr g.
    expected = 2.0 * (1 - 0.1 * 0.5) - 0.1 if optimizer == "adamw" else 2.0 - 0.1 * 1.99 * (4.0 + 0.5 * 2.0)
    assert module.weight.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("nesterov", "moved"), [(True, 1.9 * 4 + 0.9**2 * 4 + 1.9 * 4), (False, 4 + 0.9 * 4 + 4)])
def test_momentum_of_sgd_is_an_option(nesterov, moved):
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(2.0)
    options = TrainOptions(optimizer="sgd", lr=0.1, weight_decay=0, momentum=0.9, nesterov=nesterov)
    built = build_optimizer(parameter_groups(module), options)
    for _ in range(2):
        module.weight.grad = torch.full((1, 1), 4.0)
        built.step()
    assert module.weight.item() == pytest.approx(2.0 - 0.1 * moved, rel=1e-5)
    with pytest.raises(ConfigError, match="momentum must be above 0"):
        TrainOptions(optimizer="sgd", momentum=0.0)
    assert TrainOptions(optimizer="sgd", momentum=0.0, nesterov=False).momentum == 0


def test_the_average_follows_its_recurrence():
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    average = WeightAverage(module, 0.5)
    expected = 1.0
    for step, value in enumerate((3.0, 5.0, 4.0, 0.0, 8.0, 2.0, 7.0, 1.0, 9.0, 6.0), start=1):
        module.weight.data.fill_(value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        assert module.weight.item() == pytest.approx(expected, rel=1e-6)
    assert module.weight.item() == 6.0


def test_all_mistakes_of_the_options_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        TrainOptions(steps=0, lr=-1.0, batch_size=3, accumulate=2, ema_decay=1.0, strategy="fsdp", devices=0)
    told = "\n".join(caught.value.problems)
    for name in ("train.steps", "train.lr", "train.batch_size", "train.ema_decay must lie", "fsdp", "train.devices"):
        assert name in told
    assert len(caught.value.problems) == 6


def test_weight_decay_rises_along_half_a_cosine() -> None:
    options = TrainOptions(steps=100, weight_decay=0.04, weight_decay_end=0.4)
    assert [decay_at(step, options) for step in (0, 50, 100)] == pytest.approx([0.04, 0.22, 0.4])
    assert decay_at(70, TrainOptions(steps=100, weight_decay=0.04)) == 0.04
    module = torch.nn.Linear(2, 2)
    groups = parameter_groups(module)
    optimizer = build_optimizer(groups, options)
    set_rates(optimizer, groups, 50, options)
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == pytest.approx([0.0, 0.22])


def test_each_gradient_is_clipped_on_its_own() -> None:
    module = torch.nn.Linear(3, 2)
    module.weight.grad, module.bias.grad = torch.full((2, 3), 4.0), torch.tensor([0.3, 0.4])
    clip_each(module, 1.0)
    torch.testing.assert_close(module.weight.grad.norm(), torch.tensor(1.0))
    torch.testing.assert_close(module.bias.grad, torch.tensor([0.3, 0.4]))


def test_lars_steps_match_the_formula() -> None:
    module = torch.nn.Linear(2, 1)
    module.weight.data, module.bias.data = torch.tensor([[3.0, 4.0]]), torch.tensor([2.0])
    options = TrainOptions(optimizer="lars", lr=10.0, weight_decay=0.5, schedule="constant")
    groups = parameter_groups(module)
    built = build_optimizer(groups, options)
    weight, bias, moving, moving_bias = [3.0, 4.0], 2.0, [0.0, 0.0], 0.0
    for step in range(3):
        set_rates(built, groups, step, options)
        module.weight.grad, module.bias.grad = torch.tensor([[1.0, -2.0 * step]]), torch.tensor([0.25])
        built.step()
        change = [1.0 + 0.5 * weight[0], -2.0 * step + 0.5 * weight[1]]
        rate = 0.001 * math.hypot(*weight) / math.hypot(*change)
        moving = [0.9 * m + rate * c for m, c in zip(moving, change, strict=True)]
        weight = [w - 10 * m for w, m in zip(weight, moving, strict=True)]
        moving_bias = 0.9 * moving_bias + 0.25  # neither scaled nor decayed
        bias -= 10 * moving_bias
        torch.testing.assert_close(module.weight.data, torch.tensor([weight]))
        torch.testing.assert_close(module.bias.data, torch.tensor([bias]))


def test_a_step_of_lars_is_a_share_of_the_weights_whatever_the_gradient() -> None:
    lengths = []
    for gradient in (1e-3, 1e3):
        module = torch.nn.Linear(4, 4, bias=False)
        start = module.weight.detach().clone()
        options = TrainOptions(optimizer="lars", lr=1.0, weight_decay=0.0)
        built = build_optimizer(parameter_groups(module), options)
        module.weight.grad = torch.full((4, 4), gradient)
        built.step()
        lengths.append(((module.weight - start).norm() / start.norm()).item())
    assert lengths == pytest.approx([0.001, 0.001], rel=1e-3)


def test_lars_moves_weights_away_from_zero_and_goes_on_from_its_state() -> None:
    module, other = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
    module.weight.data.zero_()
    options = TrainOptions(optimizer="lars", lr=0.5)
    first, second = (build_optimizer(parameter_groups(m), options) for m in (module, other))
    module.weight.grad = torch.ones(2, 2)
    first.step()
    torch.testing.assert_close(module.weight.data, torch.full((2, 2), -0.5))
    other.load_state_dict(module.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for network, optimizer in ((module, first), (other, second)):
        network.weight.grad = torch.eye(2)
        optimizer.step()
    assert torch.equal(module.weight, other.weight)


def test_lars_with_split_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.optimizer needs whole weights"):
        TrainOptions(optimizer="lars", strategy="fsdp")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"optimizer": "lars", "momentum": 0.95}, "train.momentum is for train.optimizer sgd alone"),
        ({"optimizer": "adamw", "nesterov": False}, "train.nesterov is for train.optimizer sgd alone"),
        ({"optimizer": "sgd", "beta2": 0.95}, "train.beta2 is for train.optimizer adamw alone"),
    ],
)
def test_options_of_another_optimiser_are_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        TrainOptions(**options)
