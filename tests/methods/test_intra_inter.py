"""Joint image-volume clustering: its stages, what each trains, and the numbers."""

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import yaml
from fixed_batch import learn
from torch import Tensor

from medssl.imaging.errors import ConfigError
from medssl.methods.intra_inter import IntraInter
from medssl.models.resnet import ResNet
from medssl.models.slices import SliceEncoder
from medssl.models.vit import ViT

_RESNET = {"class_path": "medssl.models.resnet.ResNet", "init_args": {"depth": 10, "width": 4, "small": True}}
_VIT = {"class_path": "medssl.models.vit.ViT", "init_args": {"patch_size": 4, "width": 12, "depth": 2, "heads": 2}}
_INTRA, _MASKED, _INTER = 0.1, 0.5, 0.9


def _method(part: dict = _RESNET, channels: int = 1, **extra) -> IntraInter:
    torch.manual_seed(0)
    encoder = SliceEncoder(3, channels, part, (8, 1, 2))
    return IntraInter(encoder, **{"head": (8, 8, 6), "volumes": (5, 8), "slices": 2, **extra})


def _batch(dims: int, progress: float = 1.0, channels: int = 1, samples: int = 4) -> dict[str, Tensor]:
    shape = (8, 8) if dims == 2 else (8, 8, 6)
    views = torch.randn(2, samples, channels, *shape, generator=torch.Generator().manual_seed(dims))
    return {"image": views[0], "views": views, "step": torch.tensor(3), "progress": torch.tensor(progress)}


def _slow_sinkhorn(scores: Tensor) -> Tensor:
    """Row by row and column by column."""
    table = [[math.exp(float(s) / 0.05) for s in row] for row in scores.detach()]
    rows, columns = len(table), len(table[0])
    for _ in range(3):
        for k in range(columns):
            total = sum(table[b][k] for b in range(rows))
            for b in range(rows):
                table[b][k] /= total * columns
        for b in range(rows):
            total = sum(table[b])
            table[b] = [value / (total * rows) for value in table[b]]
    return torch.tensor(table) * rows


def _slow_swapped(first: Tensor, second: Tensor, weight: Tensor, earlier: list[Tensor] | None = None) -> float:
    units = [F.normalize(vector, dim=1).detach() for vector in (first, second)]
    scores = [unit @ F.normalize(weight, dim=1).T.detach() for unit in units]
    own = scores
    if earlier is not None:
        own = [torch.cat([e @ F.normalize(weight, dim=1).T.detach(), s]) for e, s in zip(earlier, scores, strict=True)]
    targets = [_slow_sinkhorn(s)[-len(first) :] for s in own]
    total = 0.0
    for target, other in ((targets[0], scores[1]), (targets[1], scores[0])):
        for b in range(len(first)):
            logs = (other[b] / 0.1).log_softmax(0)
            total -= sum(float(target[b, k]) * float(logs[k]) for k in range(len(logs))) / len(first)
    return total / 2


def test_images_are_clustered_as_the_slow_sum_says() -> None:
    method, batch = _method().eval(), _batch(2)
    first, second = (method.projector(method.encoder.slices.embed(view)) for view in batch["views"])
    out = method(batch)
    expected = _slow_swapped(first, second, method.image_prototypes.weight)
    assert out["loss"].item() == pytest.approx(expected, rel=1e-4)
    assert out.keys() == {"loss", "intra_2d"}


def test_slices_are_the_same_ones_of_both_views_and_clustered_as_images() -> None:
    method, batch = _method().eval(), _batch(3, _INTRA)
    places = torch.arange(6.0).expand(4, 1, 8, 8, 6)
    one, other = method._some_slices(places, 10 + places, 3)
    assert one.shape == (8, 1, 8, 8)
    assert torch.equal(one + 10, other)
    assert len({float(v) for v in one.view(4, 2, -1)[0, :, 0]}) == 2
    first, second = (
        method.projector(method.encoder.slices.embed(part)) for part in method._some_slices(*batch["views"], 3)
    )
    out = method(batch)
    assert out["intra_3d"].item() == pytest.approx(
        _slow_swapped(first, second, method.image_prototypes.weight), rel=1e-4
    )


@pytest.mark.parametrize(("ratio", "count", "hidden"), [(0.1, 64, 7), (0.1, 6, 1), (0.5, 6, 3), (0.34, 10, 4)])
def test_masks_hide_the_share_rounded_up(ratio: float, count: int, hidden: int, monkeypatch) -> None:
    method = _method(mask_ratio=ratio)
    seen = []

    def spy(vectors: Tensor, fill: tuple[Tensor, Tensor]) -> Tensor:
        seen.append(fill[0])
        return torch.zeros(*vectors.shape[:2], 8)

    monkeypatch.setattr(method.encoder, "sequence", spy)
    method._masked(*torch.randn(2, 2, 1, 8, 8, count), 0)
    assert len(seen) == 2
    assert not torch.equal(*seen)
    assert all((mask.sum(1) == hidden).all() for mask in seen)


def test_hidden_slices_are_predicted_as_the_slow_sum_says(monkeypatch) -> None:
    method, batch = _method(mask_ratio=0.4).eval(), _batch(3, _MASKED)
    masks = []
    plain = method.encoder.sequence
    monkeypatch.setattr(method.encoder, "sequence", lambda vectors, fill: masks.append(fill[0]) or plain(vectors, fill))
    out = method(batch)
    total = 0.0
    for view, hidden in zip(batch["views"], masks, strict=True):
        vectors = method.encoder.vectors(view).detach()
        predicted = method.decoder(plain(vectors, (hidden, method.mask_token))).detach()
        errors = [(p - v) ** 2 for p, v in zip(predicted.flatten().tolist(), vectors.flatten().tolist(), strict=True)]
        total += sum(errors) / len(errors)
    assert out["masked_3d"].item() == pytest.approx(total / 2, rel=1e-4)  # int(0.4 * 6) = 2


@pytest.mark.parametrize("progress", [0.6, _INTER])
def test_volumes_are_clustered_as_the_slow_sum_says(progress: float) -> None:
    """The queue takes part when the stage has gone on for its share."""
    method, batch = _method().eval(), _batch(3, progress)
    means = [method.encoder.sequence(method.encoder.vectors(view)).mean(1) for view in batch["views"]]
    earlier = [queue.keys for queue in method.queues] if progress == _INTER else None
    expected = _slow_swapped(*means, method.volume_prototypes.weight, earlier)
    assert method(batch)["inter_3d"].item() == pytest.approx(expected, rel=1e-4)


def test_without_structure_the_loss_is_the_log_of_the_number_of_prototypes() -> None:
    """Prototypes that are all alike: every prediction is uniform."""
    method = _method(volumes=(5, 0)).eval()
    for prototypes in (method.image_prototypes, method.volume_prototypes):
        prototypes.weight.data[:] = prototypes.weight.data[:1]
    assert method(_batch(2))["loss"].item() == pytest.approx(math.log(6), rel=1e-5)
    assert method(_batch(3))["loss"].item() == pytest.approx(math.log(5), rel=1e-5)


def test_volumes_leave_the_2d_encoder_alone_while_slices_are_predicted() -> None:
    method = _method()
    before = copy.deepcopy(method.encoder.slices.state_dict())
    optimizer = torch.optim.AdamW(method.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        method(_batch(3, _MASKED))["loss"].backward()
        optimizer.step()
    after = method.encoder.slices.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert method.encoder.slices.training
    method(_batch(3, _INTER))  # statistics move again
    assert any(not torch.equal(tensor, before[name]) for name, tensor in method.encoder.slices.state_dict().items())


@pytest.mark.parametrize("slices", [_RESNET, _VIT], ids=["resnet", "vit"])
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_reach_what_each_step_trains_and_nothing_else(slices: dict, channels: int) -> None:
    method = _method(slices, channels)
    steps = {
        (2, _INTRA): ("_encoder.slices", "projector", "image_prototypes"),
        (3, _INTRA): ("_encoder.slices", "projector", "image_prototypes"),
        (3, _MASKED): ("_encoder.project", "_encoder.mixing", "_encoder.norm", "mask_token", "decoder"),
        (3, _INTER): (
            "_encoder.slices", "_encoder.project", "_encoder.mixing", "_encoder.norm", "volume_prototypes",
        ),
    }  # fmt: skip
    spared = ("_encoder.slices.tokens",)  # a class token reaches what is read through attention alone
    for (dims, progress), parts in steps.items():
        method.zero_grad(set_to_none=True)
        method(_batch(dims, progress, channels))["loss"].backward()
        for name, parameter in method.named_parameters():
            if not name.startswith(spared):
                assert (parameter.grad is not None) == name.startswith(parts), (name, progress)


def test_prototypes_stand_still_when_their_stage_has_just_begun() -> None:
    method = _method(stages=(0.4, 0.6, 0.05))
    for dims, progress, prototypes, held in (
        (2, 0.01, method.image_prototypes, True),
        (2, 0.06, method.image_prototypes, False),
        (3, 0.64, method.volume_prototypes, True),
        (3, 0.66, method.volume_prototypes, False),
    ):
        method.zero_grad(set_to_none=True)
        method(_batch(dims, progress))["loss"].backward()
        method.before_step(0)
        assert (prototypes.weight.grad is None) == held


def test_volumes_enter_the_queue_of_their_view_once_a_step() -> None:
    method = _method()
    first = [queue.keys.clone() for queue in method.queues]
    method(_batch(2))
    method.after_step(1)
    method.eval()(_batch(3))
    method.train().after_step(2)
    assert all(torch.equal(queue.keys, keys) for queue, keys in zip(method.queues, first, strict=True))
    halves = [{**b, "views": b["views"][:, rows]} for b in [_batch(3)] for rows in (slice(2), slice(2, 4))]
    for half in halves:  # two accumulated parts
        method(half)
    method.after_step(3)
    for view, queue in enumerate(method.queues):
        assert torch.equal(queue.keys[4:], first[view][4:])
        assert not torch.isclose(queue.keys[:4], first[view][:4]).all(1).any()
        torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(8))
    assert not torch.allclose(method.queues[0].keys[:4], method.queues[1].keys[:4])
    assert method._fresh == []


def test_more_volumes_than_the_queue_holds_fill_it() -> None:
    method = _method(volumes=(5, 3))
    method(_batch(3))
    fresh = method._fresh[0][0, -3:].clone()
    method.after_step(1)
    torch.testing.assert_close(method.queues[0].keys, fresh)


def test_the_whole_state_is_saved() -> None:
    method, other = _method(), _method(seed=9)
    method(_batch(3))
    method.after_step(1)
    for parameter in other.parameters():
        parameter.data.normal_()
    other.load_state_dict(method.state_dict())
    other.seed = method.seed
    for dims, progress in ((2, 1.0), (3, _INTRA), (3, _MASKED), (3, _INTER)):
        assert torch.equal(method.eval()(_batch(dims, progress))["loss"], other.eval()(_batch(dims, progress))["loss"])


def test_what_all_volumes_have_in_common_says_nothing() -> None:
    """A large offset of every sequence leaves vectors of volumes as they are."""
    method, batch = _method(volumes=(5, 0)), _batch(3)
    loss = method(batch)["loss"]
    plain = method.encoder.sequence
    method.encoder.sequence = lambda vectors: plain(vectors) + 100.0  # type: ignore[method-assign]
    torch.testing.assert_close(method(batch)["loss"], loss, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(("dims", "progress"), [(2, 1.0), (3, _INTRA), (3, _MASKED), (3, _INTER)])
def test_learns_a_fixed_batch(dims: int, progress: float) -> None:
    losses = learn(_method(volumes=(4, 0)), _batch(dims, progress), 3e-3)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("dims", "progress"), [(2, 1.0), (3, _INTRA), (3, _MASKED), (3, _INTER)])
@pytest.mark.parametrize("slices", [_RESNET, _VIT], ids=["resnet", "vit"])
def test_finite_under_bf16(dims: int, progress: float, slices: dict) -> None:
    method = _method(slices)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(_batch(dims, progress))["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_kept_encoders_load_into_plain_ones() -> None:
    method = _method()
    ResNet(2, 1, depth=10, width=4, small=True).load_state_dict(method.encoder.plain(2).state_dict(), strict=True)
    SliceEncoder(3, 1, _RESNET, (8, 1, 2)).load_state_dict(method.encoder.plain(3).state_dict(), strict=True)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"temperatures": (0.0, -1.0)}, ["prediction", "assignment"]),
        ({"slices": 0, "volumes": (0, -1)}, ["slices", "volumes", "queue"]),
        ({"mask_ratio": 1.0, "stages": (0.7, 0.6, 2.0)}, ["mask_ratio", "frozen", "must rise"]),
    ],
)
def test_numbers_that_do_not_fit_are_told_together(extra: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        _method(**extra)
    told = "\n".join(caught.value.problems)
    assert all(word in told for word in words)


def test_too_few_vectors_for_the_prototypes_are_told() -> None:
    method = _method(head=(8, 8, 64), volumes=(40, 6), slices=4)
    assert method.misfits(16, 2) == method.misfits(4, 3) == []
    (images,) = method.misfits(15, 2)
    assert images.startswith("64 prototypes need a batch of 16 images that are balanced together, got 15: take fewer")
    slices, volumes = method.misfits(3, 3)
    assert slices.startswith("64 prototypes need a batch of 16 slices that are balanced together, got 12")
    assert volumes.startswith("40 prototypes need a batch and queue of 10 volumes that are balanced together, got 9")
    late = _method(head=(8, 8, 64), volumes=(40, 6), stages=(0.0, 1.0, 0.0))
    assert late.misfits(1, 3) == []


@pytest.mark.parametrize("name", ["intra_inter_resnet_mixed", "intra_inter_resnet_mixed_gpu"])
def test_shipped_configurations_have_enough_vectors(name: str) -> None:
    path = Path(__file__).parents[2] / "configs" / "pretrain" / f"{name}.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    method = _method(**config["method"]["init_args"])
    assert method.misfits(config["train"]["batch_size"], 2) == []
    assert method.misfits(config["also"]["batch_size"], 3) == []


def test_needs_an_encoder_of_slices() -> None:
    with pytest.raises(ConfigError, match="SliceEncoder"):
        IntraInter(ViT(2, 1, patch_size=4, width=24, depth=1, heads=2))
