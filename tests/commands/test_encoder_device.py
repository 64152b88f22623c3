"""Every verb that computes features of an encoder takes a device: it reaches the encoder, or is refused at once."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small_cache import small_cache
from small_encoder import small_encoder

from medssl.commands import comparison, probing
from medssl.commands.benchmark import benchmark
from medssl.commands.curate import curate
from medssl.commands.embed import embed
from medssl.commands.evaluate import evaluate
from medssl.commands.match import match
from medssl.commands.search import search
from medssl.data.cache import Cache
from medssl.data.curate_options import LikenessOptions
from medssl.evaluation.benchmark_plan import SetPlan
from medssl.evaluation.options import Device, FrozenOptions, PredictOptions
from medssl.imaging.errors import ConfigError
from medssl.imaging.manifest import Manifest, Row
from medssl.models.anatomy import AnatomyNetwork
from medssl.models.component import Component
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.weights import save_encoder

_SPLITS = ("train",) * 8 + ("val",) * 4 + ("test",) * 4
_SET = SetPlan("pictures", "pictures", "class", (8, 8))


class Moved(BaseException):
    """A network is moved: where to; no `except Exception` of a verb catches it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `cache`, `encoder`, `features`, `picture.png`, a run of `sam`, and `manifest.csv` of pictures."""
    folder = tmp_path_factory.mktemp("device")
    cache = small_cache(folder / "cache", [(12, 12)] * 16, splits=_SPLITS, classes=("no", "yes"), labelled=[True] * 16)
    small_encoder(folder / "encoder", preprocess=cache.preprocess.to_json())
    embed(folder / "encoder", folder / "cache", folder / "features", device="cpu")
    _run_of_sam(folder / "sam", cache)
    rows = []
    for n in range(3):
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (12, 12), dtype=np.uint8)).save(folder / f"{n}.png")
        rows.append(Row(f"c{n}", f"p{n}", f"{n}.png"))
    Manifest.from_rows(rows, folder).write(folder / "manifest.csv")
    return folder


def _run_of_sam(folder: Path, cache: Cache) -> None:
    features = {"features": [4, 8], "blocks": [0, 1]}
    network = AnatomyNetwork(ResidualUNetEncoder(2, 1, **features), 8)
    described = Component("medssl.models.unet.ResidualUNetEncoder", {**features, "spatial_dims": 2, "in_channels": 1})
    meta = {"encoder": described.to_json(), "channels": ["x"], "method": {"class_path": "medssl.methods.sam.SAM"}}
    meta["preprocess"] = cache.preprocess.to_json()
    heads = network.heads_state_dict()
    save_encoder(folder / "encoder.safetensors", network.encoder.state_dict(), heads, meta)


def _verbs(made: Path, out: Path) -> dict[str, Callable[[Device], object]]:
    encoder, cache = made / "encoder", made / "cache"

    def asked(target: str) -> Callable[[Device], object]:
        crops = {"crops": 60, "size": (6, 6)} if target == "structures" else {}
        frozen = FrozenOptions(target=target, **crops)  # type: ignore[arg-type]
        return lambda device: evaluate(encoder, cache, out, predict=PredictOptions(device=device), frozen=frozen)

    like = LikenessOptions("embedding", scope="set")
    return {
        "embed": lambda device: embed(encoder, cache, out, device=device),
        "search": lambda device: search([made / "features"], [str(made / "0.png")], device=device),
        "match": lambda device: match(made / "sam", str(made / "0.png"), [], (1, 1), device=device),
        "curate": partial(_curate, made, out, like),
        **{target: asked(target) for target in ("class", "structures", "landmarks", "prompt")},
    }


def _curate(made: Path, out: Path, likeness: LikenessOptions, device: Device) -> None:
    weights = made / "encoder" / "encoder.safetensors"
    curate(made / "manifest.csv", out, likeness=likeness, encoder=weights, workers=1, device=device)


_NAMES = ("embed", "search", "match", "curate", "class", "structures", "landmarks", "prompt")


@pytest.mark.parametrize("verb", _NAMES)
@pytest.mark.parametrize(("wanted", "expected"), [("auto", "cuda"), ("cpu", "cpu")])
def test_the_encoder_is_moved_to_the_device(
    verb: str, wanted: Device, expected: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _verbs(made, tmp_path / "out")[verb]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", _moved)
    with pytest.raises(Moved) as caught:
        run(wanted)
    assert caught.value.args == (expected,)


def _moved(network: torch.nn.Module, device: str) -> torch.nn.Module:
    raise Moved(device)


@pytest.mark.parametrize("verb", _NAMES)
def test_a_gpu_that_is_not_there_is_refused_before_an_image_is_read(
    verb: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*arguments: object, **options: object) -> None:
        raise AssertionError("an image is read")

    run = _verbs(made, tmp_path / "out")[verb]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("medssl.imaging.readers.open.read_channels", read)
    for name in ("image", "crop_image", "label"):
        monkeypatch.setattr(Cache, name, read)
    with pytest.raises(ConfigError, match="device is cuda, but torch finds no GPU here: use cpu or auto"):
        run("cuda")
    assert not (tmp_path / "out").exists()


def test_frozen_encoders_of_a_comparison_compute_on_the_device(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.Module, "to", _moved)
    for module in (probing, comparison):
        monkeypatch.setattr(module, "auroc_of_probes", lambda path, cache, images, make: make())
    file = made / "encoder" / "encoder.safetensors"
    run = SimpleNamespace(cache=lambda s: made / "cache", encoder=lambda s: file, probes=lambda s: tmp_path / "p.json")
    with pytest.raises(Moved, match="cuda"):
        comparison._probe(run, _SET, "cuda")  # type: ignore[arg-type]
    architecture = {
        "class_path": "medssl.models.unet.ResidualUNetEncoder",
        "init_args": {"features": [4, 8], "blocks": [0, 1]},
    }
    with pytest.raises(Moved, match="cuda"):
        list(probing.measured([probing.RandomRun(made / "cache", _SET, architecture, 0)], 1, "cuda"))


def test_a_comparison_refuses_a_gpu_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError) as caught:
        benchmark(Path("methods_small"), tmp_path / "nowhere", tmp_path / "out", device="cuda")
    told = "; ".join(caught.value.problems)
    assert "device is cuda, but torch finds no GPU here" in told
    assert "nowhere does not exist" in told
