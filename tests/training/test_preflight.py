"""What is measured before a run starts, and that it changes nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pretrain_toy
import pytest
import torch
from safetensors.torch import load_file
from small_cache import small_cache
from torch import Tensor
from toys import Blobs, Toy

from medssl.commands import pretrain as verb
from medssl.imaging.errors import ConfigError, MedsslError
from medssl.training.loop import Hooks, launch
from medssl.training.options import TrainOptions
from medssl.training.preflight import _SLACK, Estimate, _fitting, measure

_GIB = 2**30


def test_memory_grows_along_a_line():
    peaks = {8: 3 * _GIB, 16: 5 * _GIB}  # 1 GiB and a quarter a sample
    assert _fitting(peaks, 16, 1, 20 * _GIB) == 68  # (18 - 1) / 0.25
    assert _fitting(peaks, 16, 16, 20 * _GIB) == 64
    assert _fitting(peaks, 16, 4, 4 * _GIB) == 8
    assert _fitting({16: 5 * _GIB}, 16, 1, 20 * _GIB) is None
    assert _fitting({8: _GIB, 16: _GIB + _SLACK // 2}, 16, 1, 20 * _GIB) is None


def test_what_is_told_adds_up():
    told = Estimate(0.5, 0.72, 3 * _GIB, 24).told(10_000, 8, "cuda")
    assert "about 2.0 h for 10000 steps = 16 GPU-hours on 8" in told
    assert "GPU memory up to 3.0 GiB" in told
    assert "a batch of about 24 should still fit" in told
    assert "batch" not in Estimate(0.5, 0.72, 3 * _GIB, None).told(1000, 1, "cpu")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_run_that_follows_is_the_same_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], accumulate: int
):
    cache = small_cache(tmp_path / "cache", [(12, 14), (16, 10), (11, 11)]).path
    for name, worth in (("with", 1), ("without", 10**9)):
        monkeypatch.setattr(verb, "_WORTH_MEASURING", worth)
        pretrain_toy.run(cache, tmp_path / name, steps=5, accumulate=accumulate, lr=0.01)
        assert ("needs: loss" in capsys.readouterr().err) == (name == "with")
    weights = [load_file(tmp_path / name / "encoder.safetensors") for name in ("with", "without")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


class _Hungry(Toy):
    """Asks for more memory than any machine has when it sees more crops than it bears."""

    def __init__(self, bears: int = 4) -> None:
        super().__init__()
        self._bears = bears

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if len(batch["image"]) > self._bears:
            torch.empty(2**60, dtype=torch.uint8)
        return super().forward(batch)


@pytest.mark.parametrize(
    ("bears", "told"), [(4, "a batch of 4 does fit"), (1, "a batch of 1 does fit"), (0, "not even one of 1 fits")]
)
def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(bears: int, told: str) -> None:
    options = TrainOptions(steps=5, batch_size=8, accelerator="cpu")
    with pytest.raises(ConfigError, match=rf"needs more memory than there is .*train\.accumulate\); {told}"):
        measure(launch(options), _Hungry(bears), lambda n: Blobs(replace(options, batch_size=n)), options, Hooks())


def test_memory_that_runs_out_in_mid_run_is_told_in_words(train: Callable[..., object]) -> None:
    with pytest.raises(MedsslError, match="a step of 6 crops needs more memory than there is") as caught:
        train(make=_Hungry, batch_size=6)
    assert caught.value.reason == "out-of-memory"
