import json
import shutil

import pytest
import torch
from PIL import Image
from pretrain_toy import run
from small_cache import small_cache
from toys import ToyEncoder, lines

from medssl.commands.pretrain import pretrain
from medssl.data.augment_options import ViewAugment
from medssl.imaging.errors import CheckpointError, ConfigError, MedsslError
from medssl.imaging.preprocess import Preprocess
from medssl.models.component import Component
from medssl.models.resnet import ResNet
from medssl.models.weights import read_encoder
from medssl.training import checkpoints
from medssl.training.divergence import DivergedError
from medssl.training.options import TrainOptions
from medssl.training.pretrain_checks import contradictions
from medssl.training.pretrain_options import SecondData, SecondViewOptions, ViewOptions
from medssl.training.pretrain_sources import make_sources
from medssl.training.run_folder import encoder_patients

_SIZES = {2: [(12, 14), (16, 10), (11, 11)], 3: [(10, 12, 9), (9, 9, 9)]}


@pytest.fixture
def cache(tmp_path):
    return small_cache(tmp_path / "cache", _SIZES[2]).path


@pytest.mark.parametrize(("dims", "channels"), [(2, 1), (2, 3), (3, 2)])
def test_a_run_leaves_encoder_health_numbers_and_what_it_was(tmp_path, dims, channels):
    data = small_cache(tmp_path / "cache", _SIZES[dims], channels=channels)
    out = tmp_path / "run"
    run(data.path, out, size=(8,) * dims, steps=6, log_every=2, health_every=3, encoder={"width": 6})
    tensors, meta = read_encoder(out / "encoder.safetensors")
    arguments = meta["encoder"]["init_args"]
    assert arguments == {"width": 6, "spatial_dims": dims, "in_channels": channels, "image_size": [8] * dims}
    ToyEncoder(**arguments).load_state_dict({n.removeprefix("encoder."): t for n, t in tensors.items()}, strict=True)
    assert meta["provenance"]["steps"] == 6
    assert Preprocess.from_json(meta["preprocess"]) == data.preprocess
    numbers = lines(out)
    assert [line["step"] for line in numbers if "loss" in line] == [2, 4, 6]
    health = [line for line in numbers if "health/loss" in line]
    assert [line["step"] for line in health] == [0, 3, 6]
    assert {"health/feature_std", "health/effective_rank"} <= health[0].keys()
    for step in (0, 3, 6):
        with Image.open(out / "health" / f"step-{step:07d}.png") as picture:
            assert picture.size == (3 * 128, min(4, 16) * 128 + 16)
    described = json.loads((out / "run.json").read_text())
    assert described["status"] == "finished"
    assert described["config"]["train"]["steps"] == 6
    assert described["config"]["encoder"]["init_args"] == arguments
    assert described["sessions"][0]["versions"]["torch"] == torch.__version__
    assert list((out / "tb").iterdir())


@pytest.mark.parametrize(
    ("given", "number"),
    [({"classes": ["a", "b"]}, "knn_balanced_accuracy"), ({"labelled": [True] * 4}, "presence_auroc")],
)
def test_health_probes_what_labels_there_are(tmp_path, given, number):
    data = small_cache(tmp_path / "cache", [(8, 8)] * 4, **given)
    run(data.path, tmp_path / "run", size=(3, 3), steps=2, log_every=2)
    *_, health = (line for line in lines(tmp_path / "run") if "health/loss" in line)
    assert 0 <= health[f"health/{number}"] <= 1


def test_test_cases_are_never_read(tmp_path):
    data = small_cache(tmp_path / "cache", _SIZES[2], splits=["train", "test", "val"])
    shutil.rmtree(data.path / "cases" / "c1" / "image.b2nd", ignore_errors=True)
    (data.path / "cases" / "c1" / "image.b2nd").unlink(missing_ok=True)
    run(data.path, tmp_path / "run", steps=3)
    with pytest.raises(ConfigError, match="no cases to train on"):
        run(small_cache(tmp_path / "other", _SIZES[2], splits=["test"] * 3).path, tmp_path / "run2")


def test_no_cases_and_crops_that_do_not_divide_are_told_with_wrong_arguments(tmp_path):
    data = small_cache(tmp_path / "cache", _SIZES[2], splits=["test"] * 3)
    vit = Component("medssl.models.vit.ViT", {"patch_size": 8, "width": 12, "depth": 1, "heads": 2})
    views, train = ViewOptions((10, 10), foreground=0.5), TrainOptions(batch_size=4, accelerator="cpu")
    for name, arguments in (("mae.MAE", {"mask_ratio": 1.5}), ("simclr.SimCLR", {"temperature": 0.0})):
        with pytest.raises(ConfigError) as caught:
            pretrain(data.path, tmp_path / "run", Component(f"medssl.methods.{name}", arguments), vit, views, train)
        empty, argument, size = caught.value.problems
        assert "no cases to train on" in empty
        assert next(iter(arguments)) in argument
        assert "(10, 10) does not divide into patches of (8, 8)" in size


@pytest.mark.parametrize(("temperature", "told"), [(0.1, 1), (0.0, 2)])
def test_an_encoder_that_asserts_another_size_is_told(cache, tmp_path, monkeypatch, temperature, told):
    """As timm's do, whose method could be built or not."""

    def refuse(self, image):
        raise AssertionError("Input height (8) doesn't match model (16).")

    monkeypatch.setattr(ResNet, "forward", refuse)
    method = Component("medssl.methods.simclr.SimCLR", {"temperature": temperature, "hidden": 8, "width": 8})
    encoder = Component("medssl.models.resnet.ResNet", {"depth": 10, "width": 4})
    with pytest.raises(ConfigError, match=r"cannot compute crops of \(8, 8\) \(Input height") as caught:
        pretrain(cache, tmp_path / "run", method, encoder, ViewOptions((8, 8)), TrainOptions(batch_size=4))
    assert len(caught.value.problems) == told


def test_the_patients_that_an_encoder_knows_are_told_from_run_to_run(tmp_path):
    first = small_cache(tmp_path / "first", _SIZES[2], splits=["train", "test", "val"], patients=["a", "b", "c"])
    then = small_cache(tmp_path / "then", _SIZES[2], splits=["train"] * 3, patients=["c", "d", "d"])
    run(first.path, tmp_path / "one", steps=1)
    encoder = tmp_path / "one" / "encoder.safetensors"
    run(then.path, tmp_path / "two", steps=1, init=encoder)
    assert encoder_patients(None) == []
    assert encoder_patients(encoder) == ["a"]
    assert encoder_patients(tmp_path / "two" / "encoder.safetensors") == ["a", "c", "d"]
    (tmp_path / "one" / "run.json").unlink()
    assert encoder_patients(encoder) is None
    run(then.path, tmp_path / "three", steps=1, init=encoder)
    assert encoder_patients(tmp_path / "three" / "encoder.safetensors") is None


def test_a_dry_run_says_what_and_how_long_and_writes_nothing(cache, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    run(cache, tmp_path / "run", steps=1000, dry_run=True)
    told = capsys.readouterr().err
    assert "1000 steps of 4 crops" in told
    assert "s a step" in told
    assert "nothing was written" in told
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_is_never_overwritten_and_never_made_up(cache, tmp_path):
    run(cache, tmp_path / "run", steps=2)
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(ConfigError, match="already holds a run: continue it with --resume"):
        run(cache, tmp_path / "run", steps=2)
    with pytest.raises(ConfigError, match="already holds a run"):
        run(cache, tmp_path / "run", steps=2, dry_run=True)
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    with pytest.raises(ConfigError, match="holds no run"):
        run(cache, tmp_path / "none", resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="not an empty folder"):
        run(cache, tmp_path / "mine")


def test_resume_tells_every_difference(cache, tmp_path):
    run(cache, tmp_path / "run", steps=2)
    with pytest.raises(ConfigError) as caught:
        run(cache, tmp_path / "run", steps=4, workers=1, lr=0.5, encoder={"width": 8}, resume=True)
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 2
    assert "encoder.init_args.width: the run has 'nothing', now 8" in told
    assert "train.lr: the run has 0.001, now 0.5" in told


def test_a_run_from_before_an_option_goes_on_with_its_default(cache, tmp_path):
    run(cache, tmp_path / "run", steps=2)
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    for option in ("beta2", "undecayed_lr"):
        del content["config"]["train"][option]
    del content["config"]["views"]["partner"]
    del content["config"]["views"]["augment"]["stain_p"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"train.beta2: the run has 0.999, now 0.9"):
        run(cache, tmp_path / "run", steps=4, beta2=0.9, resume=True)
    run(cache, tmp_path / "run", steps=3, resume=True)


def test_resume_with_other_data_is_refused(cache, tmp_path):
    run(cache, tmp_path / "run", steps=2)
    content = json.loads((cache / "cache.json").read_text())
    (cache / "cache.json").write_text(json.dumps({**content, "data_sha256": "2" * 64}))
    with pytest.raises(ConfigError, match="the cache's content differs"):
        run(cache, tmp_path / "run", steps=4, resume=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("labels", [{"value": 1, "name": "tumour"}]),
        ("label_map", {"1": 2, "2": 1}),
        ("ignore_label", 255),
        ("resample_irregular", True),
    ],
)
def test_resume_with_data_that_was_read_otherwise_is_refused(cache, tmp_path, name, value):
    """The originals are the same, and so is `data_sha256`."""
    run(cache, tmp_path / "run", steps=2)
    content = json.loads((cache / "cache.json").read_text())
    (cache / "cache.json").write_text(json.dumps({**content, name: value}))
    with pytest.raises(ConfigError, match=f"data: the cache was prepared with {name} .* when the run began, now"):
        run(cache, tmp_path / "run", steps=4, resume=True)
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    del described["read_as"]  # as an earlier version wrote it
    (tmp_path / "run" / "run.json").write_text(json.dumps(described))
    run(cache, tmp_path / "run", steps=3, resume=True)


def test_a_longer_run_goes_on_from_the_checkpoint(cache, tmp_path):
    run(cache, tmp_path / "run", steps=2)
    run(cache, tmp_path / "run", steps=5, workers=1, resume=True)
    assert read_encoder(tmp_path / "run" / "encoder.safetensors")[1]["provenance"]["steps"] == 5
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(described["sessions"]) == 2


def test_resume_from_a_damaged_or_newer_checkpoint_is_refused(cache, tmp_path, monkeypatch):
    run(cache, tmp_path / "run", steps=2)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    with pytest.raises(CheckpointError, match="cut or edited"):
        run(cache, tmp_path / "run", steps=4, resume=True)
    path.write_bytes(whole)
    monkeypatch.setattr(checkpoints, "SCHEMA_VERSION", 0)
    with pytest.raises(CheckpointError, match="update medssl"):
        run(cache, tmp_path / "run", steps=4, resume=True)


def test_nan_stops_the_run_and_says_what_to_do(cache, tmp_path):
    with pytest.raises(DivergedError, match=r"step 6 .*lower --train\.lr"):
        run(cache, tmp_path / "run", method={"explode_at": 5})
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["status"] == "failed"
    assert not (tmp_path / "run" / "encoder.safetensors").exists()


def test_all_wrong_arguments_are_told_before_data_is_read(tmp_path):
    with pytest.raises(ConfigError) as caught:
        run(
            tmp_path / "no-cache",
            tmp_path / "run",
            method={"mask_ration": 0.5, "explode_at": "never"},
            encoder={"width": [1]},
        )
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    assert "method.init_args.mask_ration is no argument of ToyMethod; did you mean mask_ratio?" in told
    assert "method.init_args.explode_at must be int, got 'never'" in told
    assert "encoder.init_args.width must be int, got [1]" in told
    assert not (tmp_path / "run").exists()


def test_what_contradicts_the_data_is_refused(cache, tmp_path):
    with pytest.raises(ConfigError, match=r"encoder\.init_args\.in_channels is 3, but the data and crops have 1"):
        run(cache, tmp_path / "run", encoder={"in_channels": 3})
    with pytest.raises(ConfigError, match="needs 2 numbers"):
        run(cache, tmp_path / "run", size=(8, 8, 8))


@pytest.mark.parametrize("slice_axis", [None, 2])
def test_an_axis_that_the_images_lack_cannot_be_mirrored(tmp_path, slice_axis):
    flat = small_cache(tmp_path / "flat", _SIZES[2] if slice_axis is None else _SIZES[3])
    deep = small_cache(tmp_path / "deep", _SIZES[3])
    method, train = Component("medssl.methods.dino.DINO"), TrainOptions(batch_size=4)

    def told(*axes):
        varied = ViewAugment(flip_axes=axes)
        given = {"augment": varied, "second": varied, "local_views": 1, "local_augment": varied}
        views = ViewOptions((8, 8), slice_axis=slice_axis, **given)
        also = SecondData(deep.path, SecondViewOptions((8, 8, 8), augment=varied))
        found = contradictions(method, make_sources(flat, views, train, also, deep), train, 1)
        return [problem for problem in found if "flip_axes" in problem]

    assert told() == told(0, 1) == []
    assert [line.split(" names ")[0] for line in told(0, 2)] == [
        f"views.{option}.flip_axes [0, 2]" for option in ("augment", "second", "local_augment")
    ]


def test_a_disk_without_room_is_told_before_the_start(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(MedsslError, match="make room or choose another --out"):
        run(cache, tmp_path / "run")
    assert not (tmp_path / "run").exists()
