import errno

import pytest
import torch

from medssl.imaging.errors import CheckpointError, MedsslError
from medssl.training import checkpoints
from medssl.training.checkpoints import read_checkpoint, require_space, write_checkpoint

_CONTENT = {
    "step": 7,
    "module": {"weight": torch.arange(3000.0).reshape(30, 100), "half": torch.ones(3, dtype=torch.bfloat16)},
    "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    "best_value": -float("inf"),
}


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    write_checkpoint(path, _CONTENT)
    found = read_checkpoint(path)
    assert {name: found[name] for name in ("step", "best_value")} == {"step": 7, "best_value": -float("inf")}
    assert torch.equal(found["module"]["weight"], _CONTENT["module"]["weight"])
    assert found["module"]["half"].dtype == torch.bfloat16
    assert found["optimizer"]["param_groups"] == _CONTENT["optimizer"]["param_groups"]
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_cut_checkpoint_is_refused(tmp_path, share):
    path = tmp_path / "last.ckpt"
    write_checkpoint(path, _CONTENT)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be read .*cut or edited") as caught:
        read_checkpoint(path)
    assert caught.value.reason == "checkpoint-damaged"


def test_a_flipped_byte_in_the_weights_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    write_checkpoint(path, _CONTENT)
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(1000.0, 1010.0).numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cut or edited|it was edited"):
        read_checkpoint(path)


def test_an_edited_and_saved_again_checkpoint_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    write_checkpoint(path, _CONTENT)
    content = torch.load(path, weights_only=True)
    content["module"]["weight"][3, 3] += 1
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="it was edited"):
        read_checkpoint(path)


def test_a_newer_checkpoint_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "SCHEMA_VERSION", 2)
        write_checkpoint(path, _CONTENT)
    with pytest.raises(CheckpointError, match="schema 2, this version reads up to 1: update medssl"):
        read_checkpoint(path)


def test_a_foreign_file_and_a_missing_one_are_refused(tmp_path):
    torch.save({"weights": torch.ones(1)}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="no checkpoint of medssl"):
        read_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "none.ckpt")


class _Trap:
    def __reduce__(self):
        return (open, ("trap-was-sprung", "w"))


def test_code_in_a_checkpoint_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"schema_version": 1, "trap": _Trap()}, "last.ckpt")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "trap-was-sprung").exists()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file")]
)
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch, error):
    path = tmp_path / "last.ckpt"
    write_checkpoint(path, _CONTENT)

    def fail(content, file):
        file.write_bytes(b"half of")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(MedsslError, match=r"could not be written .*the one before it is whole") as caught:
        write_checkpoint(path, {**_CONTENT, "step": 8})
    assert caught.value.reason == "checkpoint-write"
    assert read_checkpoint(path)["step"] == 7
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_first_checkpoint_that_fails_claims_no_other(tmp_path, monkeypatch):
    def fail(content, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(MedsslError, match="it was the first one, so the run begins anew") as caught:
        write_checkpoint(tmp_path / "last.ckpt", _CONTENT)
    assert "is whole" not in caught.value.message


def test_too_little_room_is_told_before_the_start(tmp_path):
    require_space(tmp_path / "not" / "there" / "yet", 1000)
    with pytest.raises(MedsslError, match=r"needs about 1048576 MiB .* MiB free") as caught:
        require_space(tmp_path / "run", 2**40)
    assert caught.value.reason == "disk-space"
    assert list(tmp_path.iterdir()) == []
