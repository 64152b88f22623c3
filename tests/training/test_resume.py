"""Interrupted runs, in real processes that are really killed."""

import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time

import pretrain_toy
import pytest
import torch
from gloo import as_torchrun
from safetensors.torch import load_file
from small_cache import small_cache
from toys import lines

from medssl.training.checkpoints import read_checkpoint

_RUN = {"ema_decay": 0.9, "lr": 0.01, "checkpoint_every": 20, "log_every": 1, "validate_every": 10**6, "clip_norm": 1.0}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return small_cache(tmp_path_factory.mktemp("cache"), [(12, 14), (16, 10), (11, 11)]).path


@pytest.fixture(scope="module")
def processes():
    """Processes of their own, forked from a server that has imported everything once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pretrain_toy", "medssl.training.pretraining", "toys"])
    return context


def _start(processes, cache, out, environment=None, **options):
    process = processes.Process(target=pretrain_toy.start, args=(cache, out, environment or {}, {**_RUN, **options}))
    process.start()
    return process


def _finish(*running):
    for process in running:
        process.join(120)
        late = process.exitcode is None
        process.kill()
        assert not late
        assert process.exitcode == 0


def _reached(out, step, process):
    """Wait until the run has logged `step`."""
    metrics, limit = out / "metrics.jsonl", time.monotonic() + 120
    written = re.compile(rf'"step": {step}\b.*\n')
    while not (metrics.exists() and written.search(metrics.read_text())):
        assert process.is_alive(), f"ended with {process.exitcode}"
        assert time.monotonic() < limit
        time.sleep(0.002)


@pytest.fixture(scope="module")
def whole(processes, cache, tmp_path_factory):
    """The run without interruption."""
    out = tmp_path_factory.mktemp("whole") / "run"
    _finish(_start(processes, cache, out, steps=120))
    return out


def _state(out):
    saved = read_checkpoint(out / "checkpoints" / "last.ckpt")
    moments = {f"{k}.{name}": t for k, row in saved["optimizer"]["state"].items() for name, t in row.items()}
    average = {f"average.{name}": tensor for name, tensor in saved["average"].items()}
    return {**saved["module"], **average, **moments, **load_file(out / "encoder.safetensors")}


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_between_checkpoints_and_resumed_the_weights_are_bit_equal(processes, cache, whole, tmp_path, workers):
    chosen = random.SystemRandom()
    cut = tmp_path / "cut"
    for first in (20, 60):  # killed twice
        step = first + chosen.randint(1, 17)
        process = _start(processes, cache, cut, steps=120, workers=workers, resume=cut.exists())
        _reached(cut, step, process)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert read_checkpoint(cut / "checkpoints" / "last.ckpt")["step"] < 120
    _finish(_start(processes, cache, cut, steps=120, workers=2 - workers, resume=True))
    expected, found = _state(whole), _state(cut)
    assert expected.keys() == found.keys()
    assert len(expected) > 20
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == [], f"killed at {step}"
    losses = [[(line["step"], line["loss"]) for line in lines(out) if "loss" in line] for out in (whole, cut)]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[1]] == list(range(1, 121))
    assert json.loads((cut / "run.json").read_text())["status"] == "finished"
    assert not list((cut / "checkpoints").glob(".partial*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_leaves_a_checkpoint_and_an_exit_code(processes, cache, tmp_path, number, code):
    out = tmp_path / "run"
    process = _start(processes, cache, out, steps=100_000, workers=1 if number == signal.SIGTERM else 0)
    _reached(out, 5, process)
    os.kill(process.pid, number)
    process.join(60)
    late = process.exitcode is None
    process.kill()
    assert not late
    assert process.exitcode == code
    last = lines(out)[-1]["step"]
    assert 5 <= last < 100_000
    assert read_checkpoint(out / "checkpoints" / "last.ckpt")["step"] == last
    assert json.loads((out / "run.json").read_text())["status"] == "stopped"


def test_two_processes_train_as_one_does(processes, cache, tmp_path):
    """Two gloo processes share each batch; the crops, masks and gradient are those of one process in two parts."""
    one, two = tmp_path / "one", tmp_path / "two"
    _finish(_start(processes, cache, one, steps=6, accumulate=2))
    first = as_torchrun(0)
    ranks = [
        _start(processes, cache, two, {**first, "RANK": rank, "LOCAL_RANK": rank}, steps=6, devices=2, strategy="ddp")
        for rank in ("0", "1")
    ]
    _finish(*ranks)
    expected, found = _state(one), _state(two)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=2e-4, msg=name)
    losses = [[line["loss"] for line in lines(out) if "loss" in line] for out in (one, two)]
    assert len(losses[1]) == 6
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.slow
def test_devices_are_started_from_one_command(cache, tmp_path):
    out = tmp_path / "run"
    options = json.dumps({**_RUN, "steps": 3, "devices": 2, "strategy": "ddp"})
    command = [sys.executable, pretrain_toy.__file__, str(cache), str(out), options]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, timeout=300)
    assert done.returncode == 0
    assert [line["step"] for line in lines(out) if "loss" in line] == [1, 2, 3]
