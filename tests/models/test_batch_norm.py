"""Batch norm: one process is torch's, and two processes are one."""

import copy
from pathlib import Path

import gloo_norms
import torch
from gloo import in_two_processes

from medssl.models.batch_norm import BatchNorm, convert_batch_norms


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


def test_layers_of_other_libraries_stay_what_they_are_in_one_process():
    torch.manual_seed(0)
    theirs = gloo_norms.of_another_library()
    ours = copy.deepcopy(theirs)
    seen = []
    ours[1].register_forward_hook(lambda layer, images, out: seen.append(out.shape))
    assert convert_batch_norms(ours) == []
    assert [type(ours[n]) for n in (1, 3, 6)] == [BatchNorm] * 3
    for _ in range(3):
        images = 3 + 2 * torch.randn(8, 1, 4, 4)
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=0)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=0, atol=0)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert "1.act.weight" in ours.state_dict()
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())
    assert seen == [(8, 4, 4, 4)] * 4, "hooks stay"


def test_layers_that_cannot_be_converted_are_named():
    class Other(torch.nn.BatchNorm2d):
        pass

    network = torch.nn.Sequential(Other(4), BatchNorm(4), torch.nn.SyncBatchNorm(4), torch.nn.Sequential(Other(2)))
    assert convert_batch_norms(network) == ["0", "3.0"]
    assert type(network[0]) is Other
