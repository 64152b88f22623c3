"""torch.compile changes the speed of a run, not what it learns; where it cannot compile, the run goes on without."""

import pytest
import torch
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
