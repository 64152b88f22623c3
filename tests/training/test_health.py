import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from small_cache import small_cache

from medssl.commands.pretrain import pretrain
from medssl.data.cache import Cache
from medssl.data.dataset import CropPlan
from medssl.methods.mae import MAE
from medssl.models.component import Component
from medssl.models.swin import SwinV2
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.unified_vit import UnifiedViT
from medssl.models.vit import ViT
from medssl.training import health_check
from medssl.training.health import (
    attention_spread,
    auroc,
    feature_spread,
    knn_accuracy,
    panel,
    presence_auroc,
    watched_attention,
)
from medssl.training.health_check import HealthCheck
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import ViewOptions
from medssl.training.run_folder import RunFolder


def test_identical_features_have_no_spread():
    assert feature_spread(torch.ones(20, 8)) == {"feature_std": pytest.approx(0, abs=1e-6), "effective_rank": 0.0}


def test_features_on_a_line_have_rank_one_and_on_a_simplex_full_rank():
    line = torch.linspace(-1, 1, 20)[:, None] * torch.ones(1, 8)
    assert feature_spread(line)["effective_rank"] == pytest.approx(1, abs=1e-4)
    axes = torch.cat([torch.eye(8), -torch.eye(8)])
    found = feature_spread(axes)
    assert found["effective_rank"] == pytest.approx(8, rel=1e-6)
    assert found["feature_std"] == pytest.approx(1, rel=1e-6)


def test_neighbours_of_the_same_patient_do_not_vote():
    # Each patient's two images are alike, but the patients' classes alternate along the circle.
    angles = torch.tensor([0.0, 0.01, 1.0, 1.01, 2.0, 2.01, 3.0, 3.01])
    features = torch.stack([angles.cos(), angles.sin()], 1)
    patients, classes = ["a", "a", "b", "b", "c", "c", "d", "d"], [0, 0, 1, 1, 0, 0, 1, 1]
    assert knn_accuracy(features, classes, patients, neighbours=1) == 0.0
    assert knn_accuracy(features, classes, [str(n) for n in range(8)], neighbours=1) == 1.0


def test_accuracy_is_balanced_over_classes():
    features = torch.cat([torch.tensor([[1.0, 0.0]]).repeat(9, 1), torch.tensor([[0.9, 0.1]])])
    assert knn_accuracy(features, [0] * 9 + [1], [str(n) for n in range(10)], neighbours=3) == 0.5


def test_auroc_against_counting():
    scores = torch.tensor([0.1, 0.4, 0.4, 0.8, 0.9])
    truth = torch.tensor([False, False, True, True, False])
    # pairs (positive, negative): 0.4 beats 0.1, ties 0.4, loses to 0.9; 0.8 beats two, loses one
    assert auroc(scores, truth) == pytest.approx((1 + 0.5 + 0 + 1 + 1 + 0) / 6)


def test_the_presence_probe_reads_what_is_there_and_nothing_else(rng):
    count = 80
    present = torch.from_numpy(rng.random((count, 2)) < 0.5)
    noise = torch.from_numpy(rng.normal(size=(count, 16))).float()
    patients = [f"p{n // 4}" for n in range(count)]
    told = torch.cat([noise, 3.0 * present.float()], 1)
    assert presence_auroc(told, present, patients) > 0.95
    assert 0.3 < presence_auroc(noise, present, patients) < 0.7
    assert np.isnan(presence_auroc(told, torch.ones(count, 2, dtype=torch.bool), patients))


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3)])
def test_the_panel_shows_rows_of_images_and_columns_of_kinds(shape):
    image = torch.zeros(2, 1, *shape)
    image[1, 0, 0] = 1.0  # first index: left column in 3D (to the right is +), first row in 2D
    pixels = panel({"input": image, "masked": torch.zeros_like(image)})
    rows, cols = shape if len(shape) == 2 else (shape[1], shape[0])
    scale = round(128 / 6)
    assert pixels.shape == (16 + 2 * rows * scale, 2 * cols * scale, 3)
    second = pixels[16 + rows * scale :, : cols * scale, 0]
    bright = second[:scale] if len(shape) == 2 else second[:, :scale]
    assert (bright == 255).all()
    assert (second == 255).mean() == pytest.approx(1 / 6)
    assert (pixels[16:, cols * scale :] == 0).all()


def _collapsing(tmp_path: Path) -> tuple[Cache, MAE]:
    cache = small_cache(tmp_path / "cache", [(12, 12)] * 4)
    return cache, MAE(ViT(2, 1, patch_size=4, width=12, depth=1, heads=2), decoder=(8, 1, 2)).eval()


def _collapse(method: MAE) -> None:
    norm = cast(ViT, method.encoder).norm
    with torch.no_grad():
        norm.weight.zero_()
        norm.bias.fill_(1.0)


def test_a_collapse_is_told_once_with_its_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache, method = _collapsing(tmp_path)
    check = HealthCheck(cache, cache.cases, CropPlan((8, 8), 2), None, torch.device("cpu"))
    with torch.no_grad():
        check(method, 0)
        assert capsys.readouterr().err == ""
        _collapse(method)
        for step in (250, 500):
            check(method, step)
    told = capsys.readouterr().err
    assert told.count("a collapse") == 1
    assert "at step 250" in told
    assert "--train.lr" in told


def test_attention_that_looks_at_one_token_is_told_once_with_its_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, method = _collapsing(tmp_path)
    check = HealthCheck(cache, cache.cases, CropPlan((8, 8), 2), None, torch.device("cpu"))
    with torch.no_grad():
        assert check(method, 0)["attention_entropy"] > 0.5
        cast(ViT, method.encoder).blocks[0].qkv.weight[:24] *= 1e4  # queries and keys
        for step in (250, 500):
            assert check(method, step)["attention_entropy"] < 0.02
    told = capsys.readouterr().err
    assert told.count("hardly more than one token") == 1
    assert "at step 250" in told
    assert "attention: sigma" in told


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["vit", "swin", "unified", "unet"])
def test_attention_of_every_transformer_is_watched(kind: str, dims: int) -> None:
    encoder = {
        "vit": lambda: ViT(dims, 1, patch_size=8, width=24, depth=2, heads=2),
        "swin": lambda: SwinV2(dims, 1, patch_size=4, width=12, stages=[[2, 2], [1, 2]], window=2),
        "unified": lambda: UnifiedViT(1, 8, 8, width=24, depth=2, heads=2),
        "unet": lambda: ResidualUNetEncoder(dims, 1, (4, 8), (0, 1)),
    }[kind]()
    blocks = {"vit": 2, "swin": 3, "unified": 2, "unet": 0}[kind]
    with torch.no_grad(), watched_attention(encoder) as found:
        encoder.embed(torch.randn(2, 1, *[16] * dims))
    assert [len(passes) for passes in found.values()] == [1] * blocks
    assert all(0.1 < value < 1.000001 for value in attention_spread(found).values())
    assert len(attention_spread(found)) == min(1, blocks)
    assert not any(part._forward_pre_hooks for part in encoder.modules())


def test_a_resumed_run_measures_by_what_it_logged_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache, method = _collapsing(tmp_path)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    (run.path / "metrics.jsonl").write_text(
        '{"step": 0, "health/feature_std": 0.4, "health/effective_rank": 7.0}\n{"step": 20, "loss": 1.0}\n{"st'
    )
    check = HealthCheck(cache, cache.cases, CropPlan((8, 8), 2), run, torch.device("cpu"))
    _collapse(method)
    with torch.no_grad():
        check(method, 500)
    assert "earlier 0.4" in capsys.readouterr().err


def test_health_is_looked_at_before_the_first_step(tmp_path: Path) -> None:
    cache = small_cache(tmp_path / "cache", [(12, 12)] * 4, splits=["train"] * 4)
    method = Component("medssl.methods.simsiam.SimSiam", {"hidden": 8, "bottleneck": 4})
    encoder = Component("medssl.models.resnet.ResNet", {"width": 4})
    train = TrainOptions(steps=2, batch_size=4, accelerator="cpu")
    pretrain(cache.path, tmp_path / "run", method, encoder, ViewOptions((8, 8), min_std=0), train)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "health/feature_std" in line] == [0, 2]


@pytest.mark.parametrize(
    ("method", "arguments", "encoder"),
    [
        ("simsiam.SimSiam", {"hidden": 8, "bottleneck": 4}, "swin"),
        ("dino.DINO", {"head": [8, 8, 12], "schedule": [0.9, 0.1, 0.2]}, "vit"),
        ("voco.VoCo", {"grid": [2, 2], "head": [8, 8]}, "vit"),
        ("alice.Alice", {"crop": [16, 16], "mask": ["block", 0.5, 4], "head": [8, 8, 8, False]}, "swin"),
    ],
)
def test_health_looks_at_what_the_encoder_sees_where_its_source_is_of_another_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, arguments: dict, encoder: str
) -> None:
    """Crops of 20 voxels do not divide by its stride, 8; views, and crops of the method's own, do."""
    kinds = {
        "swin": Component(
            "medssl.models.swin.SwinV2", {"patch_size": 4, "width": 8, "stages": [[1, 2], [1, 2]], "window": 2}
        ),
        "vit": Component("medssl.models.vit.ViT", {"patch_size": 8, "width": 12, "depth": 1, "heads": 2}),
    }
    seen: list[tuple[int, ...]] = []
    original = health_check._as_seen

    def watched(image: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
        found = original(image, size)
        seen.append(tuple(found.shape[2:]))
        return found

    monkeypatch.setattr(health_check, "_as_seen", watched)
    sizes = {"voco.VoCo": (32, 32), "alice.Alice": (20, 20)}
    views = {"size": sizes[method]} if method in sizes else {"size": (16, 16), "source": (20, 20)}
    cache = small_cache(tmp_path / "cache", [(36, 36)] * 4, splits=["train"] * 4, labelled=[True] * 4)
    train = TrainOptions(steps=1, batch_size=4, accelerator="cpu")
    learner = Component(f"medssl.methods.{method}", arguments)
    pretrain(cache.path, tmp_path / "run", learner, kinds[encoder], ViewOptions(**views, min_std=0), train)
    assert set(seen) == {(16, 16)}


def test_the_middle_is_cut_and_what_is_too_small_enlarged() -> None:
    image = torch.arange(36.0).view(1, 1, 6, 6)
    torch.testing.assert_close(health_check._as_seen(image, (2, 4)), image[:, :, 2:4, 1:5])
    torch.testing.assert_close(health_check._as_seen(image, (6, 6)), image)
    larger = health_check._as_seen(image, (6, 11))
    torch.testing.assert_close(larger[0, 0, 0], torch.arange(11) / 2)
    assert health_check._as_seen(torch.zeros(1, 1, 4, 8, 8), (8, 8, 6)).shape[2:] == (8, 8, 6)


def test_structures_are_looked_for_where_the_features_are_of(tmp_path: Path) -> None:
    """Every other crop holds class 1, in a corner: of the middle nothing tells crops apart."""
    cache = small_cache(tmp_path / "cache", [(12, 12)] * 4, labelled=[True] * 4)
    check = HealthCheck(cache, cache.cases, CropPlan((12, 12), 2), None, torch.device("cpu"))
    for number, crop in enumerate(check._crops):
        crop["label"] = torch.zeros(1, 12, 12)
        crop["label"][0, 0, 0] = number // 4 % 2
    features = torch.randn(len(check._crops), 4, generator=torch.Generator().manual_seed(0))
    assert not np.isnan(check._probe(features, (12, 12))["presence_auroc"])
    assert np.isnan(check._probe(features, (8, 8))["presence_auroc"])
