"""The plans of configs/cluster: scripts that run as they are, with stand-ins for what only a cluster has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_cache import small_cache

from medssl.commands.parsing import parse_verb
from medssl.training.pretrain_checks import contradictions
from medssl.training.pretrain_sources import make_sources

_CLUSTER = Path(__file__).parents[2] / "configs" / "cluster"
_CONFIG = {
    "method": {"class_path": "medssl.methods.simsiam.SimSiam", "init_args": {"hidden": 8, "bottleneck": 4}},
    "encoder": {"class_path": "medssl.models.resnet.ResNet", "init_args": {"depth": 10, "width": 4, "small": True}},
    "views": {"size": [8, 8], "source": [12, 12], "min_std": 0},
    "train": {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "lr": 0.001},
}
_STRATEGY = {"train": {"accelerator": "cpu", "strategy": "ddp"}}


@pytest.fixture
def plan(tmp_path: Path) -> dict[str, str]:
    """Arguments of the scripts and the environment that they run in."""
    cache = small_cache(tmp_path / "cache", [(12, 14), (16, 13), (14, 14)])
    for name, content in (("config.yaml", _CONFIG), ("cpu.yaml", _STRATEGY)):
        (tmp_path / name).write_text(yaml.safe_dump(content))
    programs = tmp_path / "bin"
    programs.mkdir()
    torchrun = Path(sys.executable).parent / "torchrun"
    (programs / "srun").write_text(
        f'#!/bin/sh\nshift\nexec "{torchrun}" --standalone --nproc-per-node 2 --no-python "$@"\n'
    )
    (programs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/requeued"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "STRATEGY": str(tmp_path / "cpu.yaml"),
        "DEVICES": "2",
        "OMP_NUM_THREADS": "1",
        "DATA": str(cache.path),
        "CONFIG": str(tmp_path / "config.yaml"),
    }


def _script(name: str, plan: dict[str, str], out: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = ["bash", str(_CLUSTER / name), plan["DATA"], str(out), plan["CONFIG"], *options]
    return subprocess.run(command, env=plan, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("path", sorted(_CLUSTER.glob("*.s*")), ids=lambda p: p.name)
def test_scripts_are_shell(path: Path):
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize(
    ("config", "strategy"), [("mae_vit3d_gpu", "ddp"), ("mae_vit3d_gpu", "fsdp"), ("simclr_resnet3d_gpu", "ddp")]
)
def test_the_strategies_go_with_the_gpu_configurations(config: str, strategy: str):
    given = parse_verb("pretrain", ["--config", config, "--config", strategy, "--data", "c", "--out", "o"])
    assert given["train"].strategy == strategy
    assert given["train"].devices == "auto"


@pytest.mark.parametrize("config", ["uni4eye_vit_mixed_gpu", "intra_inter_resnet_mixed_gpu"])
@pytest.mark.parametrize(("strategy", "refused"), [("ddp", True), ("ddp_mixed", False)])
def test_mixed_configurations_have_a_strategy_of_their_own(config: str, strategy: str, refused: bool, tmp_path: Path):
    flat, deep = small_cache(tmp_path / "flat", [(240, 240)]), small_cache(tmp_path / "deep", [(8, 8, 8)])
    given = parse_verb("pretrain", ["--config", config, "--config", strategy, "--data", "c", "--out", "o"])
    sources = make_sources(flat, given["views"], given["train"], given["also"], deep)
    told = contradictions(given["method"], sources, given["train"], 4)
    assert any("train.strategy must be" in problem for problem in told) == refused


@pytest.mark.integration
def test_torchrun_trains_as_one_process_does_and_goes_on(plan: dict[str, str], tmp_path: Path):
    done = _script("torchrun.sh", plan, tmp_path / "two", "--train.steps", "2")
    assert done.returncode == 0, done.stderr
    done = _script("torchrun.sh", plan, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "two" / "run.json").read_text())["sessions"]) == 2


@pytest.mark.integration
def test_slurm_starts_and_requeues_when_the_time_is_up(plan: dict[str, str], tmp_path: Path):
    plan |= {"SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_JOB_ID": "77"}
    done = _script("slurm.sbatch", plan, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    whole = load_file(tmp_path / "run" / "encoder.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in whole.values())
    assert not (tmp_path / "requeued").exists()
    (tmp_path / "bin" / "srun").write_text("#!/bin/sh\nexit 138\n")
    done = _script("slurm.sbatch", plan, tmp_path / "run")
    assert done.returncode == 0
    assert (tmp_path / "requeued").read_text() == "requeue 77\n"
    (tmp_path / "bin" / "srun").write_text("#!/bin/sh\nexit 2\n")
    assert _script("slurm.sbatch", plan, tmp_path / "run").returncode == 2


@pytest.mark.parametrize("script", ["slurm.sbatch", "slurm_seeds.sbatch"])
def test_srun_gets_the_cores_that_were_asked_for(script: str, plan: dict[str, str], tmp_path: Path):
    """Slurm 22.05 and later tell srun of them in this way alone; sbatch sets the other one where a script asks."""
    (tmp_path / "bin" / "srun").write_text(f'#!/bin/sh\necho "${{SRUN_CPUS_PER_TASK-none}}" > "{tmp_path}/cores"\n')
    plan |= {"SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_ARRAY_TASK_ID": "3"}
    for asked, found in (({"SLURM_CPUS_PER_TASK": "8"}, "8\n"), ({}, "none\n")):
        done = _script(script, plan | asked, tmp_path / "run")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "cores").read_text() == found


@pytest.mark.integration
def test_an_array_gives_each_seed_a_folder(plan: dict[str, str], tmp_path: Path):
    (tmp_path / "bin" / "srun").write_text('#!/bin/sh\nexec "$@"\n')
    plan |= {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "5"}
    done = _script("slurm_seeds.sbatch", plan, tmp_path / "runs", "--train.accelerator", "cpu")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "runs" / "seed3" / "run.json").read_text())["seed"] == 3
