import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from toys import Toy, lines

from medssl.imaging.errors import CacheError, CheckpointError, ConfigError, MedsslError
from medssl.models import weights
from medssl.training import arithmetic, loop
from medssl.training.checkpoints import read_checkpoint, write_checkpoint
from medssl.training.divergence import DivergedError
from medssl.training.loop import Hooks, launch
from medssl.training.options import TrainOptions


def _weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_accumulated_parts_equal_the_whole_batch(train):
    whole, *_ = train("whole", accumulate=1, clip_norm=0.5)
    parts, *_ = train("parts", accumulate=4, clip_norm=0.5)
    other, *_ = train("other", accumulate=1, clip_norm=0.5, seed=1)
    torch.testing.assert_close(_weights(parts), _weights(whole), rtol=0, atol=2e-6)
    assert not torch.allclose(_weights(other), _weights(whole), atol=1e-3)


def test_the_loss_falls_and_every_step_is_told_to_the_module(train):
    module, result, run = train(steps=60, lr=0.03, log_every=20)
    assert module.steps == list(range(1, 61))
    assert (result.step, result.finished) == (60, True)
    losses = [line["loss"] for line in lines(run)]
    assert losses[-1] < 0.2 * losses[0]


def test_a_line_holds_the_means_since_the_last_line(train):
    _, _, each = train("each", steps=6, log_every=1)
    _, _, third = train("third", steps=6, log_every=3)
    single = [line["loss"] for line in lines(each)]
    assert [line["step"] for line in lines(third)] == [3, 6]
    assert lines(third)[0]["loss"] == pytest.approx(sum(single[:3]) / 3, rel=1e-6)
    assert lines(third)[1]["loss"] == pytest.approx(sum(single[3:]) / 3, rel=1e-6)
    assert {"grad_norm", "lr", "data_wait", "steps_per_s", "answer"} <= lines(third)[0].keys()
    assert list((third / "tb").glob("events*"))


def test_the_rate_of_a_line_is_that_of_the_schedule_where_some_weights_keep_theirs(train):
    module = Toy()
    module.steady_rates = ("head.",)
    _, _, run = train(make=lambda: module, steps=4, lr=0.1, log_every=1)
    assert [line["lr"] for line in lines(run)] == pytest.approx(
        [0.1, 0.05 + 0.05 * 0.5**0.5, 0.05, 0.05 - 0.05 * 0.5**0.5]
    )


def test_clipping_bounds_the_first_update_of_sgd(train):
    torch.manual_seed(3)
    before = Toy()
    start = _weights(before).clone()
    after, *_ = train(make=lambda: before, steps=1, optimizer="sgd", lr=1.0, weight_decay=0.0, clip_norm=0.25)
    # Nesterov's first update is (1 + momentum) times the clipped gradient.
    assert (_weights(after) - start).norm().item() == pytest.approx(1.99 * 0.25, rel=1e-4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_infinite_voxel_stops_the_run_and_its_batch_is_kept(train, tmp_path, accumulate):
    with pytest.raises(DivergedError, match=r"step 4 .*step-0000004.*checkpoint of step 2 is whole") as caught:
        train(bad=13, checkpoint_every=2, accumulate=accumulate)
    assert caught.value.reason == "diverged"
    (file,) = (tmp_path / "run" / "diverged").iterdir()
    images = [tensor for name, tensor in load_file(file).items() if name.endswith("image")]
    assert sum(len(image) for image in images) == 4
    assert any(not torch.isfinite(image).all() for image in images)
    saved = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert saved["step"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in saved["module"].values())


def test_a_diverged_batch_that_finds_no_room_does_not_hide_why_the_run_ended(train, monkeypatch):
    def fail(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises(DivergedError, match=r"step 4 .*no file \(.*No space left.*make room"):
        train(bad=13)


def test_validation_keeps_the_first_best_weights(train):
    seen = {}

    def validate(module, step):
        assert not module.training
        assert not torch.is_grad_enabled()
        seen[step] = _weights(module).clone()
        return {"dice": {2: 0.5, 4: 0.7, 6: 0.7}[step]}

    module, result, run = train(hooks=Hooks(validate=validate, monitor="dice"), validate_every=2)
    assert (result.best_step, result.best_value) == (4, 0.7)
    best = load_file(run / "checkpoints" / "best-0000004.safetensors")
    kept = torch.cat([best[name].flatten() for name, _ in module.named_parameters()])
    assert torch.equal(kept, seen[4])
    assert [line["val/dice"] for line in lines(run) if "val/dice" in line] == [0.5, 0.7, 0.7]
    assert module.training


def _scoring(scores=None, die_before=-1, die_in=-1):
    def validate(module, step):
        if step == die_in:
            raise KeyboardInterrupt
        return {"dice": (scores or {}).get(step, 1 - 1 / (step + 1))}

    def before(step):
        if step == die_before:
            raise KeyboardInterrupt

    return Hooks(validate=validate, monitor="dice", before=before)


def test_best_weights_that_nothing_names_any_more_do_not_fill_the_disk(train, tmp_path):
    there = []

    def validate(module, step):
        there.append(sorted(int(path.stem[5:]) for path in (tmp_path / "run" / "checkpoints").glob("best-*")))
        return {"dice": step / 100}

    train(steps=7, checkpoint_every=4, validate_every=1, hooks=Hooks(validate=validate, monitor="dice"))
    assert there == [[], [1], [2], [3], [3, 4], [3, 4, 5], [6]], "what the checkpoint names, its own step and the last"


def test_best_weights_of_after_the_checkpoint_are_not_taken_for_its_own(train):
    """Killed with the best of step 6 and the checkpoint of step 4, then prolonged, so that step 6 is another one."""
    given = {"steps": 8, "checkpoint_every": 4, "validate_every": 2, "lr": 0.05}
    scores = {2: 0.5, 4: 0.6, 6: 0.9, 8: 0.1}
    with pytest.raises(KeyboardInterrupt):
        train(**given, hooks=_scoring(scores, die_before=7))
    lower = {6: 0.55, 8: 0.58, 10: 0.59, 12: 0.3}
    _, result, run = train(**{**given, "steps": 12}, hooks=_scoring(lower), resume=True)
    assert (result.best_step, result.best_value) == (4, 0.6)
    (file,) = (run / "checkpoints").glob("best-*")
    with safe_open(file, "pt") as best:
        assert best.metadata()["step"] == "4"


@pytest.mark.parametrize("die", [{"die_in": 4}, {"die_before": 4}, {"die_before": 6}])
def test_a_checkpoint_comes_before_its_validation_which_counts_all_the_same(train, die):
    given = {"steps": 8, "checkpoint_every": 4, "validate_every": 4, "lr": 0.05, "log_every": 4}
    scores = {4: 0.6, 8: 0.5}
    _, whole, run = train("whole", **given, hooks=_scoring(scores))
    with pytest.raises(KeyboardInterrupt):
        train("cut", **given, hooks=_scoring(scores, **die))
    cut = run.with_name("cut")
    assert read_checkpoint(cut / "checkpoints" / "last.ckpt")["step"] == 4
    _, again, _ = train("cut", **given, hooks=_scoring(scores), resume=True)
    assert (again.best_step, again.best_value) == (whole.best_step, whole.best_value) == (4, 0.6)
    best, same = (load_file(path / "checkpoints" / "best-0000004.safetensors") for path in (run, cut))
    assert all(torch.equal(best[name], same[name]) for name in best)
    seen = [[(row["step"], row["val/dice"]) for row in lines(path) if "val/dice" in row] for path in (run, cut)]
    assert seen[0] == seen[1] == [(4, 0.6), (8, 0.5)]


def test_a_run_without_the_best_weights_that_it_names_is_refused(train):
    given = {"checkpoint_every": 2, "validate_every": 2}
    _, _, run = train(**given, hooks=_scoring({2: 0.9}))
    (run / "checkpoints" / "best-0000002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"best-0000002\.safetensors is missing"):
        train(**given, steps=8, hooks=_scoring(), resume=True)


def test_a_validation_that_fails_leaves_a_checkpoint(train, tmp_path):
    def validate(module, step):
        raise CacheError("no such case", reason="bad-cache")

    with pytest.raises(CacheError):
        train(validate_every=3, hooks=Hooks(validate=validate))
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["step"] == 3
    _, result, run = train(validate_every=3, hooks=_scoring(), resume=True)
    assert result.step == 6
    assert [row["step"] for row in lines(run) if "val/dice" in row] == [3, 6]


def test_best_weights_that_find_no_room_are_told_and_not_a_bug(train, monkeypatch):
    def fail(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises(MedsslError, match=r"best-0000003\.safetensors could not be written .*make room") as caught:
        train(validate_every=3, hooks=_scoring())
    assert caught.value.reason == "weights-write"


def test_a_session_removes_what_killed_ones_were_writing(train):
    _, _, run = train(steps=3)
    halves = [run / "checkpoints" / ".partial-a-last.ckpt", run / ".partial-b-run.json"]
    for half in halves:
        half.write_bytes(b"half")
    (run / ".partial-c-evaluation").mkdir()
    train(steps=4, resume=True)
    assert not any(half.exists() for half in halves)
    assert (run / ".partial-c-evaluation").is_dir(), "of another command, which may be at work"


def test_validation_sees_the_averaged_weights_and_training_its_own(train):
    plain, *_ = train("plain", lr=0.05)
    seen = {}

    def validate(module, step):
        seen[step] = _weights(module).clone()
        return {}

    averaged, _, run = train("ema", lr=0.05, ema_decay=0.9, hooks=Hooks(validate=validate), validate_every=2)
    saved = read_checkpoint(run / "checkpoints" / "last.ckpt")
    raw = torch.cat([saved["module"][name].flatten() for name, _ in averaged.named_parameters()])
    assert torch.equal(raw, _weights(plain))
    assert not torch.allclose(seen[6], raw, atol=1e-3)
    assert torch.equal(_weights(averaged), seen[6])


def test_dropout_repeats_itself_on_resume_whatever_was_drawn_between(train):
    whole, *_ = train("whole", make=partial(Toy, 0.5), steps=6, schedule="constant")
    train("cut", make=partial(Toy, 0.5), steps=3, schedule="constant")
    torch.rand(7)
    again, *_ = train("cut", make=partial(Toy, 0.5), steps=6, schedule="constant", resume=True)
    assert torch.equal(_weights(again), _weights(whole))


def test_the_time_limit_stops_with_a_checkpoint_and_says_so(train):
    _, result, run = train(steps=5000, time_limit_min=1 / 600, log_every=1000)
    assert not result.finished
    assert 0 < result.step < 5000
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["step"] == result.step
    assert lines(run)[-1]["step"] == result.step


def test_bf16_trains_and_keeps_fp32_weights(train):
    module, _, run = train(steps=40, lr=0.03, precision="bf16", log_every=10)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert lines(run)[-1]["loss"] < 0.5 * lines(run)[0]["loss"]


def test_channels_last_computes_the_same(train):
    plain, *_ = train("plain")
    ordered, *_ = train("ordered", channels_last=True)
    assert ordered.encoder[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(_weights(ordered), _weights(plain), rtol=0, atol=1e-5)


def test_resume_with_another_network_is_refused(train):
    train(steps=2)
    larger = Toy()
    larger.head[1] = torch.nn.Linear(4, 2)
    with pytest.raises(CheckpointError, match="does not fit the network"):
        train(make=lambda: larger, steps=4, resume=True)


def test_resume_with_another_learning_rate_is_refused_and_named(train):
    train(steps=2, lr=0.01)
    with pytest.raises(ConfigError, match=r"train\.lr: the run has 0\.01, now 0\.02") as caught:
        train(steps=4, lr=0.02, resume=True)
    assert len(caught.value.problems) == 1


def test_the_time_of_a_resumed_run_holds_its_earlier_sessions(train):
    _, result, run = train(steps=3)
    checkpoint = run / "checkpoints" / "last.ckpt"
    content = read_checkpoint(checkpoint)
    write_checkpoint(checkpoint, {**content, "seconds": 1000.0})
    _, again, _ = train(steps=4, resume=True)
    assert 0 < content["seconds"] <= result.seconds
    assert 1000 < again.seconds < 1000 + 600


def test_a_finished_run_resumed_does_nothing_more(train):
    first, *_ = train(steps=3, ema_decay=0.5)
    again, result, run = train(steps=3, ema_decay=0.5, resume=True)
    assert again.steps == []
    assert math.isinf(result.best_value)
    assert torch.equal(_weights(first), _weights(again))
    assert len(lines(run)) == 1


@pytest.mark.parametrize("bf16", [True, False])
def test_a_processor_without_bf16_computes_in_fp32_and_says_so(bf16: bool, monkeypatch: pytest.MonkeyPatch):
    for module in (loop, arithmetic):
        monkeypatch.setattr(module, "has_bf16", lambda device: bf16)
    options = TrainOptions(precision="bf16", accelerator="cpu", devices=1)
    fabric = launch(options)
    with fabric.autocast():
        assert torch.is_autocast_enabled("cpu") is bf16
    told = arithmetic.arithmetic(fabric.device, options)
    assert told == "bf16" if bf16 else told.startswith("fp32 (bf16 was asked for")
    assert arithmetic.arithmetic(fabric.device, replace(options, precision="fp32")) == "fp32"


def test_devices_that_are_no_processor_have_bf16():
    assert arithmetic.has_bf16(torch.device("cuda"))
