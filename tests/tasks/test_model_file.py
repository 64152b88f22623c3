import json
from pathlib import Path

import pytest
import torch
from small_networks import network, network_spec

from medssl.imaging.errors import CheckpointError
from medssl.imaging.labels import Code, Label
from medssl.imaging.preprocess import Intensity, Preprocess
from medssl.tasks.model_file import ModelSpec, load_model, model_folders, save_model


def _spec(kind: str, dims: int) -> ModelSpec:
    return ModelSpec(
        network=network_spec(kind, dims, channels=2),
        preprocess=Preprocess(dims, spacing_mm=(0.5,) * dims, intensity=Intensity("window", (-100.0,), (300.0,))),
        window=(8,) * dims,
        overlap=0.25,
        mirror_axes=(0,),
        labels=(Label(1, "liver", Code("10200004", "SCT", "Liver"), colour=(1, 2, 3)), Label(2, "spleen")),
        classes=(),
        ignore_label=255,
        channels=("T1", "T2"),
        validation={"dice": 0.5},
        provenance={"seed": 3, "init": None},
    )


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["unet", "vit", "classifier"])
def test_a_model_comes_back_as_it_was(tmp_path: Path, kind: str, dims: int) -> None:
    made, spec = network(kind, dims, channels=2), _spec(kind, dims)
    save_model(tmp_path, made.state_dict(), spec)
    found, read = load_model(tmp_path)
    assert read == spec
    assert not found.training
    image = torch.randn((2, 2, *[8] * dims), generator=torch.Generator().manual_seed(0))
    assert torch.equal(found(image), made(image))


def _broken(tmp_path: Path) -> tuple[Path, Path]:
    save_model(tmp_path, network("unet", 2, channels=2).state_dict(), _spec("unet", 2))
    return tmp_path / "model.safetensors", tmp_path / "model.json"


def test_cut_or_edited_weights_are_refused(tmp_path: Path) -> None:
    weights, _ = _broken(tmp_path)
    content = weights.read_bytes()
    weights.write_bytes(content[:-8])
    with pytest.raises(CheckpointError, match="cut or edited") as caught:
        load_model(tmp_path)
    assert caught.value.reason == "model-hash"
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="cut or edited"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        load_model(tmp_path)


def test_damaged_newer_or_foreign_descriptions_are_refused(tmp_path: Path) -> None:
    _, description = _broken(tmp_path)
    content = json.loads(description.read_text())
    description.write_text(description.read_text()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tmp_path)
    description.write_text(json.dumps({**content, "schema_version": 99}))
    with pytest.raises(CheckpointError, match="update medssl") as caught:
        load_model(tmp_path)
    assert caught.value.reason == "newer-version"
    foreign = {**content["network"], "encoder": {"class_path": "os.PathLike", "init_args": {}}}
    description.write_text(json.dumps({**content, "network": foreign}))
    with pytest.raises(CheckpointError, match="refused"):
        load_model(tmp_path)
    other = {**content["network"], "out_channels": 7}
    description.write_text(json.dumps({**content, "network": other}))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(tmp_path)


def test_folders_of_a_run_are_itself_or_its_folds_in_order(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no finished model"):
        model_folders(tmp_path)
    for number in (0, 2, 10):
        folder = tmp_path / f"fold_{number}"
        folder.mkdir()
        (folder / "model.json").write_text("{}")
    assert [p.name for p in model_folders(tmp_path)] == ["fold_0", "fold_2", "fold_10"]
    (tmp_path / "fold_2" / "model.json").unlink()
    with pytest.raises(CheckpointError, match="fold_2"):
        model_folders(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    assert model_folders(tmp_path) == (tmp_path,)
