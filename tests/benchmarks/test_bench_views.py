"""The measurement of views runs, and both sides make what they say."""

import pytest
import torch
from torch import Tensor

from medssl.__main__ import main
from medssl.commands.benchmarks import monai_views, views
from medssl.commands.benchmarks.comparison import median_seconds
from medssl.imaging.errors import ConfigError


def test_both_sides_make_two_views_of_each_sample_and_are_compared() -> None:
    images = torch.randn(2, 1, 16, 16, 16)
    for side in (views._Ours(images, 12), monai_views.MonaiViews(images, 12)):
        first, second = side(), side()
        assert first.shape == (2, 2, 1, 12, 12, 12)
        assert torch.isfinite(first).all()
        assert not torch.equal(first, second)
        assert not torch.equal(first[0], first[1])
    (found,) = views.run(size=8, source=12, batch=2, rounds=1)
    assert found.ratio > 0
    assert "MONAI" in found.peer_name
    assert found.name.endswith("thread(s)")


def test_a_gpu_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch finds no GPU here: leave device out"):
        views.run(size=8, source=12, batch=2, rounds=1, device="cuda")
    assert main(["bench", "views", "--device", "cuda"]) == 2
    assert "torch finds no GPU here" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["step", "data", "predict", "all"])
def test_nothing_else_is_measured_on_a_gpu(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", what, "--device", "cuda"]) == 2
    assert f"on which {what} is not measured: medssl bench views --device cuda" in capsys.readouterr().err


def test_where_the_transforms_of_monai_fail_they_run_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = torch.empty(2, 1, 16, 16, 16, device="meta")
    monkeypatch.setattr(monai_views, "_works", lambda transform, image: False)
    peer = monai_views.MonaiViews(elsewhere, 12)
    assert not peer.there
    assert peer._transform({"image": torch.randn(1, 16, 16, 16)})["image"].device.type == "cpu"
    assert monai_views.MonaiViews(torch.randn(2, 1, 16, 16, 16), 12).there


def test_transforms_that_fail_or_move_an_image_do_not_work_where_it_lies() -> None:
    def failing(sample: dict[str, Tensor]) -> dict[str, Tensor]:
        raise RuntimeError("not on this device")

    image = torch.zeros(1, 4, 4, 4)
    assert monai_views._works(lambda sample: sample, image)
    assert not monai_views._works(failing, image)
    assert not monai_views._works(lambda sample: {"image": sample["image"].to("meta")}, image)


def test_what_a_device_still_computes_is_waited_for_around_each_timing() -> None:
    told: list[str] = []
    median_seconds({"a": lambda: told.append("a")}, 2, warmup=1, settle=lambda: told.append("settled"))
    assert told == ["settled", "a", "settled"] * 3


@pytest.mark.gpu
def test_views_are_measured_on_a_gpu() -> None:
    (found,) = views.run(size=8, source=12, batch=2, rounds=1, device="cuda")
    assert found.ratio > 0
    assert found.name.endswith(torch.cuda.get_device_name())
