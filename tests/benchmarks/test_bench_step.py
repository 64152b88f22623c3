"""The step benchmark measures what it says; its bar is checked with `medssl bench step`, not here."""

import pytest
import torch

from medssl.commands.benchmarks.comparison import median_seconds
from medssl.commands.benchmarks.step import StepSizes, run
from medssl.training.arithmetic import has_bf16


def test_both_programs_train_and_the_ratio_is_that_of_the_rates():
    threads = torch.get_num_threads()
    sizes = StepSizes(side=16, patch=8, width=24, depth=1, heads=2, decoder_width=24, decoder_depth=1, batch=1)
    lines = run(rounds=2, threads=1, sizes=sizes)
    precisions = ["fp32", "bf16"] if has_bf16(torch.device("cpu")) else ["fp32"]
    assert [line.name for line in lines] == [f"mae step 3d {precision}" for precision in precisions]
    for line in lines:
        assert line.ratio == pytest.approx(line.ours / line.peer)
        assert line.unit == "steps/s"
        assert line.peer_name.startswith("MONAI")
        assert set(line.to_json()) == {"name", "unit", "ours", "peer", "peer_name", "ratio"}
    assert torch.get_num_threads() == threads


def test_programs_take_turns_and_the_median_is_reported(monkeypatch):
    calls = []
    clock = iter(range(10_000))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    result = median_seconds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=1)
    assert calls == ["a", "b"] * 4
    assert result == {"a": 1, "b": 1}
