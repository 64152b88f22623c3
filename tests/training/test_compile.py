"""torch.compile changes the speed of a run, not what it learns; where it cannot compile, the run goes on without."""

import json
from collections.abc import Callable
from pathlib import Path

import mixed_run
import pytest
import torch
from small_cache import small_cache
from tiny_methods import METHODS, run
from toys import Toy

pytestmark = pytest.mark.slow  # the compiler takes its time


class Stubborn(Toy):
    """Breaks the graph in each forward pass."""

    def forward(self, batch):
        torch._dynamo.graph_break()
        return super().forward(batch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [Toy, Stubborn])
def test_a_compiled_run_learns_what_an_eager_one_learns(train, make):
    eager, _, _ = train("eager")
    compiled, result, _ = train("compiled", make, compile=True)
    assert result.step == 6
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    for (name, ours), (_, theirs) in zip(compiled.state_dict().items(), eager.state_dict().items(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_the_same_when_compiled(name: str, dims: int, tmp_path: Path):
    shapes = {2: [(20, 24), (24, 20), (18, 18)], 3: [(20, 24, 18), (24, 20, 18), (18, 18, 20)]}
    data = small_cache(tmp_path / "cache", shapes[dims]).path
    _compare(tmp_path, lambda out, **train: run(data, out, name, dims=dims, steps=4, lr=1e-3, **train))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", mixed_run.PARTS)
def test_every_mixed_method_learns_the_same_when_compiled(name: str, tmp_path: Path):
    flat = small_cache(tmp_path / "flat", [(20, 24), (24, 20), (18, 18)])
    deep = small_cache(tmp_path / "deep", [(12, 14, 12), (14, 12, 13)])
    _compare(tmp_path, lambda out, **train: mixed_run.run(flat.path, deep.path, out, name, steps=8, lr=1e-3, **train))


def _compare(folder: Path, start: Callable[..., None]) -> None:
    """The losses of a run, eager and compiled."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    losses = []
    for compiled in (False, True):
        out = folder / f"compiled_{compiled}"
        start(out, log_every=1, compile=compiled)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows if "loss" in row])
    frames = torch._dynamo.utils.counters["frames"]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert frames["ok"] >= 0.8 * frames["total"], "much of it runs eagerly"
