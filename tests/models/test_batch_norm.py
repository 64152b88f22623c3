"""Batch norm: one process is torch's, and two processes are one."""

from pathlib import Path

import gloo_norms
import torch
from gloo import in_two_processes

from medssl.models.batch_norm import BatchNorm


def test_one_process_is_that_of_torch():
    torch.manual_seed(0)
    vectors = 3 + 2 * torch.randn(8, 5)
    own, theirs = BatchNorm(5), torch.nn.BatchNorm1d(5)
    torch.testing.assert_close(own(vectors), theirs(vectors), rtol=0, atol=0)
    own.load_state_dict(theirs.state_dict(), strict=True)
    torch.testing.assert_close(own.eval()(vectors), theirs.eval()(vectors), rtol=0, atol=0)


def test_two_processes_with_half_a_batch_are_one_with_all_of_it(tmp_path: Path):
    found = in_two_processes(gloo_norms.half, tmp_path)
    for name, network in gloo_norms.networks().items():
        whole = gloo_norms.computed(network, gloo_norms.images(), gloo_norms.targets(network))
        whole |= dict(network.named_buffers())
        for one in found:
            assert one[name].keys() == whole.keys()
            for key, value in whole.items():
                torch.testing.assert_close(one[name][key], value, atol=1e-6, rtol=1e-5, msg=f"{name} {key}")
