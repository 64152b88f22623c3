"""A bundle that passes every check of `verify`: the tiny one, with a licence and the card that `export` writes."""

from dataclasses import replace
from pathlib import Path

from tiny_bundle import write_bundle

from medssl.export.model_card import model_card
from medssl.imaging.files import write_json, write_text
from medssl.runtime.bundle import Bundle, write_sums


def complete_bundle(folder: Path) -> Path:
    """Write it."""
    return finish(write_bundle(folder))


def finish(folder: Path) -> Path:
    """Give a bundle what `verify` asks for."""
    text = {"licence": "CC-BY 4.0", "intended_use": "Tests.", "modalities": ("CT",)}
    spec = replace(Bundle.open(folder).spec, **text, parity={"max_logit_difference": {}})
    write_json(folder / "bundle.json", spec.to_json())
    write_text(folder / "MODEL_CARD.md", model_card(spec, None))
    write_sums(folder)
    return folder


def rewrite(folder: Path, **changes: object) -> None:
    """Change entries of bundle.json; the hashes are right again."""
    write_json(folder / "bundle.json", replace(Bundle.open(folder).spec, **changes).to_json())
    write_sums(folder)
