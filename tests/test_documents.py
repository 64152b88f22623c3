"""The documents say what is true: commands parse, links lead somewhere, configurations run as they are."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from medssl.commands.app import STAGES, read_application
from medssl.commands.methods import methods
from medssl.commands.parsing import parse_verb, read_options
from medssl.evaluation.benchmark_plan import BenchmarkPlan
from medssl.evaluation.study_plan import StudyPlan

_ROOT = Path(__file__).parents[1]
_CONFIGS = sorted(p for p in (_ROOT / "configs").rglob("*.yaml"))
_REQUIRED = {
    "prepare": ["m.csv", "--out", "O"],
    "pretrain": ["--data", "C", "--out", "O"],
    "finetune": ["--data", "C", "--out", "O"],
    "evaluate": ["R", "--data", "C", "--out", "O"],
    "export": ["R", "--out", "O"],
    "serve": ["B", "--data", "D"],
    "cluster": ["--data", "C", "--out", "O", "--config", "mae_vit3d_gpu"],
}


_PLANS = {"benchmark": BenchmarkPlan, "curve": StudyPlan}


def _commands() -> list[str]:
    text = (_ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("medssl ")]


@pytest.mark.parametrize("command", _commands())
def test_every_command_of_the_readme_parses(command: str):
    verb, *arguments = shlex.split(command)[1:]
    if verb == "app":
        assert read_application(_ROOT / arguments[1], "10min").profile == "10min"
    assert parse_verb(verb, arguments)


def test_the_readme_has_the_whole_line():
    verbs = [shlex.split(command)[1] for command in _commands()]
    assert verbs[:7] == ["index", "prepare", "pretrain", "finetune", "evaluate", "export", "predict"]


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_lead_to_files(document: str):
    text = (_ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (_ROOT / target).exists(), target


def test_every_method_has_a_page_configurations_and_a_place_in_the_comparison(capsys: pytest.CaptureFixture[str]):
    methods()
    names = re.findall(r"^(\w+) ", capsys.readouterr().out, re.MULTILINE)
    assert len(names) > 20
    listed = [(_ROOT / document).read_text(encoding="utf-8") for document in ("README.md", "docs/methods/README.md")]
    stems = [path.stem for path in _CONFIGS if path.parent.name == "pretrain"]
    compared = {
        m.name for m in read_options(BenchmarkPlan, _ROOT / "configs" / "benchmark" / "methods_small.yaml").methods
    }
    for name in names:
        assert (_ROOT / "docs" / "methods" / f"{name}.md").is_file(), name
        assert all(f"`{name}`" in text for text in listed), name
        own = [stem for stem in stems if re.fullmatch(rf"{name}_[a-z]+([23]d|_mixed)(_gpu)?", stem)]
        mixed = any("_mixed" in stem for stem in own)
        assert {stem[-2:] for stem in own} >= ({"ed", "pu"} if mixed else {"2d", "3d", "pu"}), name
        assert mixed or name in compared


@pytest.mark.parametrize("path", _CONFIGS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_configuration_parses_and_says_what_it_is_for(path: Path):
    assert path.read_text(encoding="utf-8").startswith("# ")
    folder = path.parent.name
    if folder in _PLANS:
        assert read_options(_PLANS[folder], path)
    else:
        verb = "pretrain" if folder == "cluster" else folder
        assert parse_verb(verb, [*_REQUIRED[folder], "--config", str(path)])


@pytest.mark.parametrize("folder", sorted(p.parent for p in (_ROOT / "apps").glob("*/app.yaml")), ids=lambda p: p.name)
def test_every_application_is_complete_and_its_stages_parse(folder: Path, tmp_path: Path):
    content = yaml.safe_load((folder / "app.yaml").read_text(encoding="utf-8"))
    assert content["name"] == folder.name
    assert "Not a medical device" in (folder / "README.md").read_text(encoding="utf-8")
    for profile in content.get("profiles", {"": None}):
        application = read_application(folder, profile)
        for stage in STAGES:
            if stage in application.stages:
                file = tmp_path / "stage.yaml"
                file.write_text(yaml.safe_dump(application.stages[stage]))
                verb = "finetune" if stage == "baseline" else stage
                assert parse_verb(verb, [*_REQUIRED[verb], "--config", str(file)])


@pytest.mark.parametrize("path", sorted((_ROOT / "docs" / "evidence").rglob("*.json")), ids=lambda p: p.parent.name)
def test_evidence_names_no_path_of_the_machine_that_made_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r'[" ](/|[A-Za-z]:\\)', text)
