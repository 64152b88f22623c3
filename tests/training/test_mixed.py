"""Pretraining on a 2D and a 3D cache in one run: what is written, what is refused, resume, damage, two processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mixed_run
import pytest
import torch
from mixed_run import PARTS, run
from safetensors.torch import load_file
from small_cache import small_cache
from toys import lines

from medssl.commands.pretrain import pretrain
from medssl.imaging.errors import CacheError, ConfigError
from medssl.models.component import Component
from medssl.models.networks import build_encoder
from medssl.models.weights import read_encoder
from medssl.training import loop
from medssl.training.checkpoints import read_checkpoint
from medssl.training.options import TrainOptions
from medssl.training.pretrain_options import SecondData, SecondViewOptions, ViewOptions


@pytest.fixture
def caches(tmp_path: Path) -> tuple[Path, Path]:
    flat = small_cache(tmp_path / "flat", [(20, 24), (24, 20), (18, 18)])
    deep = small_cache(tmp_path / "deep", [(12, 14, 12), (14, 12, 13)])
    return flat.path, deep.path


@pytest.mark.parametrize("name", PARTS)
def test_a_run_leaves_an_encoder_for_each_dimension(caches: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    run(*caches, out, name, steps=12, accumulate=2)
    assert sorted(p.name for p in out.glob("*.safetensors")) == ["encoder_2d.safetensors", "encoder_3d.safetensors"]
    weights = read_checkpoint(out / "checkpoints" / "last.ckpt")["module"]
    for dims in (2, 3):
        tensors, meta = read_encoder(out / f"encoder_{dims}d.safetensors")
        found = meta["encoder"]["init_args"]
        assert (found.pop("spatial_dims"), found.pop("in_channels")) == (dims, 1)
        plain = build_encoder(Component(meta["encoder"]["class_path"], found), dims, 1, trusted_only=True)
        plain.load_state_dict({k.removeprefix("encoder."): v for k, v in tensors.items()}, strict=True)
        assert meta["preprocess"]["spatial_dims"] == dims
        assert meta["provenance"]["learned_with"] == [{"data_sha256": "1" * 64, "cases": dims}]  # 3 of 2D, 2 of 3D
        for tensor in tensors.values():
            assert any(tensor.shape == other.shape and torch.equal(tensor, other) for other in weights.values())
    names = {key for line in lines(out) for key in line}
    assert {"health/loss_2d", "health/loss_3d", "health/feature_std_2d", "health/feature_std_3d"} <= names
    expected = {"uni4eye": {"image_2d", "gradient_3d"}, "intra_inter": {"intra_2d", "intra_3d", "masked_3d"}}
    assert expected[name] | {"loss", "grad_norm"} <= names
    assert {p.name for p in (out / "health").iterdir()} >= {"step-0000012_2d.png", "step-0000012_3d.png"}
    described = json.loads((out / "run.json").read_text())
    assert described["status"] == "finished"
    assert described["config"]["also"]["data"] == str(caches[1].resolve())
    assert described["data_sha256"] == "1" * 64 + "+" + "1" * 64


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("share", [0.5, 0.3])
def test_a_crash_changes_nothing(
    caches: tuple[Path, Path], tmp_path: Path, name: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"share": share, "accumulate": 2, "checkpoint_every": 3}
    run(*caches, tmp_path / "whole", name, **options)

    def crash(state: loop.TrainState, *given: Any) -> dict[str, torch.Tensor]:
        if state.step == 8:
            raise RuntimeError("the power failed")
        return train_step(state, *given)

    train_step = loop.train_step
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", crash)
        with pytest.raises(RuntimeError, match="power"):
            run(*caches, tmp_path / "broken", name, **options)
    run(*caches, tmp_path / "broken", name, resume=True, workers=1, **options)
    states = [read_checkpoint(tmp_path / out / "checkpoints" / "last.ckpt")["module"] for out in ("whole", "broken")]
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())
    for dims in (2, 3):
        whole, again = (load_file(tmp_path / out / f"encoder_{dims}d.safetensors") for out in ("whole", "broken"))
        assert all(torch.equal(tensor, again[key]) for key, tensor in whole.items())
    logged = [
        {line["step"]: line["loss"] for line in lines(tmp_path / o) if "loss" in line} for o in ("whole", "broken")
    ]
    assert logged[0] == logged[1]


def test_resume_tells_what_differs_in_the_second_cache(caches: tuple[Path, Path], tmp_path: Path) -> None:
    run(*caches, tmp_path / "run", "uni4eye", steps=2)
    with pytest.raises(ConfigError) as caught:
        run(*caches, tmp_path / "run", "uni4eye", steps=4, share=0.25, small=2, resume=True)
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 2
    assert "also.share: the run has 0.5, now 0.25" in told
    assert "also.batch_size: the run has 4, now 2" in told
    content = json.loads((caches[1] / "cache.json").read_text())
    (caches[1] / "cache.json").write_text(json.dumps({**content, "data_sha256": "2" * 64}))
    with pytest.raises(ConfigError, match="the cache's content differs"):
        run(*caches, tmp_path / "run", "uni4eye", steps=4, resume=True)


def test_a_second_cache_is_told_to_be_missing_or_too_many(caches: tuple[Path, Path], tmp_path: Path) -> None:
    mae = Component("medssl.methods.mae.MAE", {"decoder": [12, 1, 2]})
    vit = Component("medssl.models.vit.ViT", {"patch_size": 4, "width": 12, "depth": 1, "heads": 2})
    with pytest.raises(ConfigError, match="MAE learns from one cache"):
        pretrain(caches[0], tmp_path / "run", mae, vit, ViewOptions((8, 8)), also=SecondData(caches[1]))
    with pytest.raises(ConfigError, match=r"Uni4Eye learns from 2D and 3D .* --also\.data"):
        pretrain(caches[0], tmp_path / "run", *PARTS["uni4eye"], ViewOptions((8, 8)))
    with pytest.raises(ConfigError, match=r"without also\.data these options do nothing"):
        pretrain(caches[0], tmp_path / "run", mae, vit, ViewOptions((8, 8)), also=SecondData(share=0.25))
    train, method, also = (
        TrainOptions(accelerator="cpu"),
        PARTS["uni4eye"][0],
        SecondData(caches[1], SecondViewOptions((8, 8, 8))),
    )
    with pytest.raises(ConfigError, match="UnifiedViT"):
        pretrain(caches[0], tmp_path / "run", method, vit, ViewOptions((8, 8)), train, also=also)
    assert not (tmp_path / "run").exists()


def test_caches_that_do_not_go_together_are_refused_with_all_reasons(tmp_path: Path) -> None:
    flat = small_cache(tmp_path / "flat", [(20, 24)] * 2)
    other = small_cache(tmp_path / "other", [(20, 24)] * 2, channels=3)
    views, also = (
        ViewOptions((9, 9)),
        SecondData(other.path, SecondViewOptions((40, 10), source=(40, 40)), batch_size=1),
    )
    train = TrainOptions(accelerator="cpu", batch_size=5, accumulate=1)
    with pytest.raises(ConfigError) as caught:
        pretrain(flat.path, tmp_path / "run", *PARTS["intra_inter"], views, train, also=also)
    told = "\n".join(caught.value.problems)
    assert "is all 2D" in told
    assert "as many channels, there are 1 (channel 0)" in told
    assert "3 (channel 0, channel 1, channel 2)" in told
    assert "also.views.source (40, 40) is larger than every case" in told
    assert "also.batch_size 1 in 1 part(s) leaves fewer than 2 samples" in told


def test_crops_that_do_not_divide_are_told_for_each_dimension(caches: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run(*caches, tmp_path / "run", "uni4eye", size=(8, 8, 9))
    (told,) = caught.value.problems
    assert told == "image of (8, 8, 9) does not divide into patches of (4, 4, 4)"


@pytest.mark.parametrize("wrong", [{"share": 1.0}, {"batch_size": -1}])
def test_numbers_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"also.{next(iter(wrong))} must"):
        SecondData(**wrong)


def test_damaged_cases_of_either_cache_are_named(
    caches: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for cache, case in ((caches[0], "c1"), (caches[1], "c0")):
        path = cache / "cases" / case / "image.b2nd"
        path.write_bytes(path.read_bytes()[:100])
    run(*caches, tmp_path / "run", "uni4eye")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["damaged_cases"] == ["deep/c0", "flat/c1"]
    assert "case(s) deep/c0, flat/c1 of the cache" in capsys.readouterr().err
    with pytest.raises(CacheError, match="2 cases of the cache cannot be read: deep/c0, flat/c1"):
        run(*caches, tmp_path / "other", "uni4eye", damaged_cases=1)


def test_a_dry_run_measures_each_dimension_at_the_stage_that_costs_most(
    caches: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method, encoder = PARTS["intra_inter"]
    views, also = ViewOptions((12, 12)), SecondData(caches[1], SecondViewOptions((8, 8, 8)), 0.25, 4)
    train = TrainOptions(accelerator="cpu", steps=1000, batch_size=8)
    pretrain(caches[0], tmp_path / "run", method, encoder, views, train, also=also, dry_run=True)
    told = capsys.readouterr().err
    assert "750 steps of 8 crops" in told
    assert "250 steps of 4 crops" in told
    assert "needs in 2D: loss" in told
    assert "for 250 steps" in told[told.index("needs in 3D") :]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", PARTS)
def test_an_encoder_file_of_one_dimension_is_a_start(caches: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    run(*caches, tmp_path / "first", name, steps=4)
    for dims in (2, 3):
        init = tmp_path / "first" / f"encoder_{dims}d.safetensors"
        run(*caches, tmp_path / f"from{dims}", name, steps=1, lr=1e-12, init=init)
        before, after = load_file(init), load_file(tmp_path / f"from{dims}" / init.name)
        moved = [key for key, tensor in before.items() if not torch.allclose(tensor, after[key], atol=1e-6)]
        assert not [key for key in moved if "running" not in key]


def test_another_library_s_file_is_no_start_of_a_mixed_encoder(caches: tuple[Path, Path], tmp_path: Path) -> None:
    init = tmp_path / "monai.pt"
    with pytest.raises(ConfigError, match=r"monai\.pt does not exist"):
        run(*caches, tmp_path / "run", "uni4eye", init=init)
    torch.save({"vit.norm.weight": torch.ones(4)}, init)
    with pytest.raises(ConfigError, match=r"it is another library's: UnifiedViT takes only encoder files") as caught:
        run(*caches, tmp_path / "run", "uni4eye", size=(8, 8, 40), init=init)
    assert "also.views.size (8, 8, 40) is larger than every case" in caught.value.message


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "method", "accumulate"),
    [
        ("uni4eye", {}, 2),  # masks are drawn for each part
        ("intra_inter", {"stages": [0.0, 0.0, 0.0]}, 1),  # batch norm and clusters are those of the whole batch
    ],
)
def test_two_processes_take_the_same_dimension_and_learn_what_one_learns(
    caches: tuple[Path, Path], tmp_path: Path, name: str, method: dict[str, Any], accumulate: int
) -> None:
    given = {"steps": 6, "optimizer": "sgd", "lr": 0.01, "clip_norm": 1, "method": method}
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", "2"]
    arguments = [str(caches[0]), str(caches[1]), str(tmp_path / "two"), name, json.dumps(given)]
    done = subprocess.run(
        [*torchrun, mixed_run.__file__, *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    run(*caches, tmp_path / "one", name, accumulate=accumulate, **given)
    run(*caches, tmp_path / "start", name, **{**given, "lr": 1e-30})
    one, two, start = (
        read_checkpoint(tmp_path / out / "checkpoints" / "last.ckpt")["module"] for out in ("one", "two", "start")
    )
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, atol=1e-5, rtol=1e-4)
    assert sum(not torch.allclose(two[key], tensor, atol=1e-4) for key, tensor in start.items()) > len(start) / 2


def test_several_devices_need_the_strategy_that_allows_unused_weights(tmp_path: Path) -> None:
    from medssl.training.pretrain_checks import contradictions
    from medssl.training.pretrain_sources import make_sources

    flat = small_cache(tmp_path / "flat", [(20, 24)] * 2)
    deep = small_cache(tmp_path / "deep", [(12, 12, 12)] * 2)
    for strategy, refused in (("ddp", True), ("fsdp", True), ("ddp_find_unused_parameters_true", False)):
        train = TrainOptions(strategy=strategy, batch_size=4)
        also = SecondData(deep.path, SecondViewOptions((8, 8, 8)))
        sources = make_sources(flat, ViewOptions((8, 8)), train, also, deep)
        found = contradictions(PARTS["uni4eye"][0], sources, train, 2)
        assert bool(found) == refused
        assert all("train.strategy must be ddp_find_unused_parameters_true" in problem for problem in found)
