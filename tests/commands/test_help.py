"""Every option is explained, and a mistake in one is told in words."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import medssl.commands
from medssl.__main__ import main
from medssl.imaging.errors import ConfigError

_VERBS = [
    module.name
    for module in pkgutil.iter_modules(medssl.commands.__path__)
    if hasattr(importlib.import_module(f"medssl.commands.{module.name}"), "POSITIONAL")
]


@pytest.mark.parametrize("verb", _VERBS)
def test_help_explains_every_option(verb: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main([verb.replace("_", "-"), "--help"])
    assert ended.value.code == 0
    told = re.split(r"\n(?=  -)", capsys.readouterr().out)
    silent = [part.split()[0] for part in told[1:] if not re.search(r"\w{2,}", _explanation(part))]
    assert silent == []


def _explanation(part: str) -> str:
    """What stands behind the name and the values of an option, without its type and default."""
    told = " ".join(part.split("\n\n", maxsplit=1)[0].split()).partition(" ")[2]
    return re.sub(r"^(\{[^}]*\}|\[ITEM,\.\.\.\]|[A-Z_0-9]+)|\((required, )?type: .*", "", told)


def test_a_nested_group_has_a_help_of_its_own(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", "--views.second.help"])
    assert ended.value.code == 0
    assert "--views.second.rotation_deg" in capsys.readouterr().out
    assert main(["pretrain", "--nonsense.help"]) == 2
    assert "option nonsense is unknown" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--preprocess.spacing_mm", "4"], "spacing_mm = 4: expected a list or null: write [4]"),
        (["--channels", "T1,T2"], "channels = 'T1,T2': expected a list"),
        (["--workers", "many"], "workers = 'many': expected a whole number"),
        (["--config", "mr1mm"], "did you mean mr_1mm?"),
        (["--config", "nowhere/mine.yaml"], "mine.yaml does not exist, and nothing of that name is built in"),
        (["--bogus", "1"], "known: channels, ignore_label, label_map, labels, manifest, out, preprocess, resample"),
    ],
)
def test_mistakes_are_told_in_words(given: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert main(["prepare", *given]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert words in told
    assert "manifest is missing: give MANIFEST" in told or "--config" in given
    assert "class '" not in told


def test_an_unknown_application_names_those_there_are():
    from medssl.commands.app import app

    with pytest.raises(ConfigError, match=r"there are .*hippocampus_mr|did you mean"):
        app("run", Path("nowhere"), Path("data"), Path("out"))
