"""From a run to a bundle that the clinic's own code accepts, and every reason not to make one."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cohort import SPACING_MM, make_cache, make_run

from medssl.commands import export as verb
from medssl.commands.evaluate import evaluate
from medssl.commands.export import export
from medssl.commands.parsing import parse_verb
from medssl.data.cache import Cache
from medssl.evaluation.loaded_run import load_run
from medssl.evaluation.options import PredictOptions
from medssl.evaluation.segmentation_cases import native_reference
from medssl.export import bundle_writer
from medssl.export.options import CardOptions, ConfidenceOptions, OperationOptions, ParityOptions
from medssl.export.trained import Trained
from medssl.export.training_images import learned_count, spacing_range, told_modalities
from medssl.imaging.errors import BundleError, CacheError, CheckpointError, ConfigError
from medssl.imaging.geometry import Geometry
from medssl.imaging.preprocess import restore_label
from medssl.imaging.readers.open import read_volume
from medssl.runtime.bundle import Bundle
from medssl.runtime.postprocess import keep_largest
from medssl.runtime.predictor import Predictor
from medssl.tasks.inference import Ensemble, segment_image
from medssl.tasks.model_file import load_model

_CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "export").glob("*.yaml"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return make_cache(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def flat_cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return make_cache(tmp_path_factory.mktemp("cohort"), dims=2, classes=("healthy", "ill"))


@pytest.fixture(scope="module")
def made(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with its evaluation, and the bundle made of it."""
    root = tmp_path_factory.mktemp("made")
    run, out = make_run(root / "run", cache, "vit"), root / "bundle"
    description = {"patients": {"train": ["patient0"]}, "config": {"data": str(cache.path)}}
    (run / "run.json").write_text(json.dumps(description))
    evaluate(run, cache.path, run / "evaluation")
    card = CardOptions(name="boxes", intended_use="Finding boxes.", licence="CC0", limits=("Boxes only.",))
    export(run, out, card=card, operation=OperationOptions(largest_component=(1,)))
    return run, out


def test_bundle_of_a_run_gives_what_the_run_gives(cache: Cache, made: tuple[Path, Path]) -> None:
    run, out = made
    assert {p.name for p in out.iterdir()} == {"model.onnx", "bundle.json", "golden.npz", "MODEL_CARD.md", "SHA256SUMS"}
    assert {p.name for p in out.parent.iterdir()} == {"run", "bundle"}
    network, model = load_model(run)
    case = cache.cases[0]
    predictor = Predictor(out, threads=1)
    found = predictor.predict(read_volume(case.image_field))
    expected = keep_largest(segment_image([network], model, cache.image(case)), (1,))
    assert found.mask is not None
    same = found.mask.array == restore_label(expected, case.record).array
    assert same.mean() > 0.999, "the cache holds half precision, the clinic does not round"
    assert len(np.unique(expected)) > 1
    spec = predictor.bundle.spec
    assert spec.parity["max_logit_difference"]["batch_1"] < 1e-4
    assert spec.parity["max_logit_difference"]["batch_3"] < 1e-4
    assert spec.parity["min_dice"] > 0.9999
    assert spec.parity["volumes"] == 3
    assert spec.modalities == ("MR",)
    assert spec.spacing_mm == {"smallest": list(SPACING_MM), "largest": list(SPACING_MM)}


def test_a_training_that_was_stopped_is_told_in_card_and_bundle(
    flat_cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = make_run(tmp_path / "run", flat_cache), tmp_path / "bundle"
    content = json.loads((run / "model.json").read_text())
    content["provenance"] |= {"steps": 6, "planned_steps": 400, "finished": False}
    (run / "model.json").write_text(json.dumps(content))
    export(run, out, data=flat_cache.path)
    early = "he training was stopped by its time limit at step 6 of 400"
    assert f"WARNING: run: t{early}" in capsys.readouterr().out
    assert f"**T{early}**" in (out / "MODEL_CARD.md").read_text()
    assert Bundle.open(out).spec.provenance["unfinished"] == f"t{early}"


def test_card_tells_what_one_must_know(made: tuple[Path, Path]) -> None:
    text = (made[1] / "MODEL_CARD.md").read_text()
    for due in (
        "Not a medical device", "Finding boxes.", "CC0", "Boxes only.", "| class_2 |", "Orientation RAS",
        "4 cases of 2 patients, split test", "pretrained without labels", "windows of real cases",
    ):  # fmt: skip
        assert due in text


def test_golden_case_is_torch_on_real_windows_with_every_class(cache: Cache, made: tuple[Path, Path]) -> None:
    run, out = made
    image, logits, _ = Bundle.open(out).golden()
    network, spec = load_model(run)
    np.testing.assert_array_equal(logits, network(torch.from_numpy(image)).numpy())
    classes: set[int] = set()
    for window in image:
        for case in cache.cases:
            whole = cache.image(case)
            for start in np.ndindex(*(n - w + 1 for n, w in zip(case.shape, spec.window, strict=True))):
                place = tuple(slice(s, s + w) for s, w in zip(start, spec.window, strict=True))
                if case.has_label and np.array_equal(whole[(slice(None), *place)], window):
                    classes |= set(np.unique(cache.label(case)[place]).tolist())
    assert classes == {0, 1, 2}


def test_bundle_says_nothing_of_people_or_machine(cache: Cache, made: tuple[Path, Path]) -> None:
    run, out = made
    for file in out.iterdir():
        content = file.read_bytes()
        for secret in (str(run.parent), str(cache.path), "somebody", "patient0", str(Path.cwd()), "0L.nii"):
            assert secret.encode() not in content, (file.name, secret)
    assert b".py" not in (out / "model.onnx").read_bytes(), "the exporter keeps stack traces"
    with np.load(out / "golden.npz", allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["image", "logits"]


def test_folds_and_zip(cache: Cache, tmp_path: Path) -> None:
    run, out = make_run(tmp_path / "run", cache, folds=2), tmp_path / "bundle.zip"
    for fold in (0, 1):
        file = run / f"fold_{fold}" / "model.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "validation": {"dice": 0.5 + 0.2 * fold}}))
    export(run, out, data=cache.path, operation=OperationOptions(mirror="on"))
    assert zipfile.is_zipfile(out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle.zip", "run"]
    predictor = Predictor(out, threads=1)
    assert predictor.bundle.spec.mirror_axes == (0, 1, 2)
    about = predictor.bundle.spec.provenance
    assert about["networks"] == 2
    assert about["validation"] == {"dice": pytest.approx(0.6)}
    assert [fold["validation"]["dice"] for fold in about["folds"]] == [0.5, 0.7]
    networks = [load_model(run / f"fold_{fold}") for fold in (0, 1)]
    case = cache.cases[0]
    image, logits, _ = predictor.bundle.golden()
    mean = torch.stack([n(torch.from_numpy(image)).softmax(1) for n, _ in networks]).mean(0)
    np.testing.assert_allclose(torch.from_numpy(logits).softmax(1).numpy(), mean.numpy(), atol=1e-5)
    ours = segment_image([n for n, _ in networks], networks[0][1], cache.image(case))
    assert ours.shape == case.shape


def test_cases_of_all_folds_are_counted_where_the_cache_is_theirs(cache: Cache, tmp_path: Path) -> None:
    spec = load_run(make_run(tmp_path / "run", cache), PredictOptions(device="cpu")).spec
    people = sorted({case.patient for case in cache.cases})
    folds = [frozenset(name for n, name in enumerate(people) if n % 2 != fold) for fold in (0, 1)]
    whole = Trained([], folds, spec, cache, native_reference)
    assert learned_count(whole) == sum(case.has_label for case in cache.cases)
    assert learned_count(replace(whole, patients=[folds[0]] * 2)) == sum(
        case.has_label and case.patient in folds[0] for case in cache.cases
    )
    assert learned_count(replace(whole, patients=[folds[0], frozenset()])) is None, "nobody knows of one"
    other = replace(spec, provenance={"data_sha256": "of another cache"})
    assert learned_count(replace(whole, spec=other)) is None


@pytest.mark.parametrize("kind", ["unet", "classifier"])
def test_two_dimensions(flat_cache: Cache, tmp_path: Path, kind: str) -> None:
    run, out = make_run(tmp_path / "run", flat_cache, kind), tmp_path / "bundle"
    export(run, out, data=flat_cache.path)
    bundle = Bundle.open(out)
    assert bundle.spec.task == ("classification" if kind == "classifier" else "segmentation")
    if kind == "classifier":
        assert bundle.spec.classes == ("healthy", "ill")
        assert bundle.spec.parity["max_probability_difference"] < 1e-5


def test_a_graph_that_differs_makes_no_bundle(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = make_run(tmp_path / "run", cache), tmp_path / "bundle"
    export_graph = bundle_writer.write_onnx

    def wrong(_: torch.nn.Module, channels: int, window: tuple[int, ...], path: Path, outputs: tuple[str, ...]) -> None:
        altered = Ensemble([load_model(run)[0]]).eval()
        altered.networks[0].decoder.head.bias.data += 0.01
        export_graph(altered, channels, window, path, outputs)

    monkeypatch.setattr(bundle_writer, "write_onnx", wrong)
    with pytest.raises(BundleError, match=r"logits differ by 0.01 at batch 1, allowed are 0.001.*batch 3"):
        export(run, out, data=cache.path)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_refusals(cache: Cache, flat_cache: Cache, tmp_path: Path) -> None:
    run, out = make_run(tmp_path / "run", cache), tmp_path / "bundle"
    with pytest.raises(CacheError, match="give it with --data"):
        export(run, out)
    with pytest.raises(ConfigError, match="prepared otherwise"):
        export(run, out, data=flat_cache.path)
    with pytest.raises(CheckpointError, match="model card"):
        export(run, out, data=cache.path, evaluation=tmp_path)
    with pytest.raises(ConfigError, match="no labels of this model"):
        export(run, out, data=cache.path, operation=OperationOptions(largest_component=(9,)))
    with pytest.raises(ConfigError, match="needs a model of two classes, this one has 0"):
        export(run, out, data=cache.path, operation=OperationOptions(threshold=0.3))
    with pytest.raises(CheckpointError, match="no finished model"):
        export(tmp_path, out, data=cache.path)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    out.mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        export(run, out, data=cache.path)
    with pytest.raises(ConfigError) as caught:
        ParityOptions(cases=0, min_dice=0.5, max_logit_difference=1)
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match=r"\['MRI', 'ct'\]: DICOM's codes"):
        CardOptions(modalities=("MR", "MRI", "ct"))
    with pytest.raises(ConfigError, match="leaves out MR: training images are of it"):
        export(run, tmp_path / "other", data=cache.path, card=CardOptions(modalities=("CT",)))
    assert verb.POSITIONAL == ("run",)


@pytest.mark.parametrize(
    ("told", "known"), [(("MR", "mri"), ("MR",)), (("PET", "CT"), ("CT", "PT")), (("MR", ""), ()), (("MR", "T1"), ())]
)
def test_a_modality_that_not_all_training_images_tell_is_unknown(cache: Cache, told: tuple[str, ...], known: object):
    assert told_modalities([replace(cache.cases[0], modality=text) for text in told]) == known


def test_spacing_is_measured_along_the_axes_of_the_orientation(cache: Cache):
    """However the voxels of each image lie in its file."""
    case = cache.cases[0]
    native = case.record.native
    turned = Geometry(native.affine[:, [2, 0, 1, 3]] * (2, 1, 1, 1), tuple(native.shape[a] for a in (2, 0, 1)))
    other = replace(case, record=replace(case.record, native=turned))
    assert spacing_range([case, other], "RAS") == {"smallest": [1.0, 1.5, 3.0], "largest": [1.0, 1.5, 6.0]}
    assert spacing_range([case], "SAR")["largest"] == [3.0, 1.5, 1.0]
    picture = replace(other, to_scale=False)
    assert spacing_range([case, picture], "RAS") == spacing_range([case], "RAS")
    assert spacing_range([picture], "RAS") == {}


def test_a_modality_is_stated_where_the_images_do_not_tell_it(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = Cache(cache.path, cache._content, tuple(replace(case, modality="") for case in cache.cases))
    monkeypatch.setattr(Cache, "open", lambda _: silent)
    run, found = make_run(tmp_path / "run", cache), []
    for name, stated in (("unknown", ()), ("stated", ("CR", "DX"))):
        quick = {"parity": ParityOptions(cases=1, threads=1), "confidence": ConfidenceOptions(measure=False)}
        export(run, tmp_path / name, data=cache.path, card=CardOptions(modalities=stated), **quick)
        assert ("give --card.modalities" in capsys.readouterr().out) is (name == "unknown")
        card = (tmp_path / name / "MODEL_CARD.md").read_text()
        found.append((Bundle.open(tmp_path / name).spec.modalities, "DICOM images of modality CR or DX" in card))
    assert found == [((), False), (("CR", "DX"), True)]


def test_the_card_shows_no_results_of_another_network(
    cache: Cache,
    made: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Refused before anything is computed; results from before weights were told are known by name."""
    monkeypatch.setattr(bundle_writer, "write_bundle", lambda *_: pytest.fail("nothing is to be made"))
    theirs = made[0] / "evaluation"
    run, folder = make_run(tmp_path / "run", cache, "vit", seed=1), tmp_path / "results"
    content = json.loads((theirs / "results.json").read_text())
    for given, why in (
        (content, "of 'run' with other weights than 'run' has now"),
        ({**content, "weights": {}, "arm": "other"}, "it is of 'other', this is 'run'"),
        ({**content, "task": "classification"}, "it is of a classification, run is one for segmentation"),
        ({**content, "task": "frozen"}, "it judges an encoder as it is"),
        ([1, 2], "cannot be used"),
    ):
        folder.mkdir(exist_ok=True)
        (folder / "results.json").write_text(json.dumps(given))
        with pytest.raises(CheckpointError, match=why):
            export(run, tmp_path / "bundle", data=cache.path, evaluation=folder)
    shutil.move(folder, run / "evaluation")
    (run / "evaluation" / "results.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="other weights"):
        export(run, tmp_path / "bundle", data=cache.path)
    shutil.move(run / "evaluation", run / "evaluation_test")  # where studies have it
    with pytest.raises(CheckpointError, match=r"evaluation_test.*other weights"):
        export(run, tmp_path / "bundle", data=cache.path)
    assert not (tmp_path / "bundle").exists()
    shutil.rmtree(run / "evaluation_test")
    assert verb._results(None, run, load_run(run, PredictOptions())) is None
    assert "the model card has no numbers" in capsys.readouterr().out


@pytest.mark.parametrize("path", _CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_parses(path: Path) -> None:
    parsed = parse_verb("export", ["RUN", "--config", str(path), "--data", "CACHE", "--out", "OUT"])
    assert parsed["run"] == Path("RUN")


def test_words_that_yaml_takes_for_truths_stay_words():
    assert parse_verb("export", ["RUN", "--out", "O", "--operation.mirror", "off"])["operation"].mirror == "off"
