"""A class named in a configuration, with its arguments; torch-free, so that help is at once."""

import importlib
from dataclasses import dataclass, field
from typing import Any

from medssl.imaging.errors import ConfigError


@dataclass(frozen=True)
class Component:
    """A class to build: `class_path` names it, `init_args` are its arguments."""

    class_path: str
    """Full name of the class, for instance `medssl.models.vit.ViT`."""

    init_args: dict[str, Any] = field(default_factory=dict)
    """Arguments of its constructor."""

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for run.json, encoder.json and model.json."""
        return {"class_path": self.class_path, "init_args": self.init_args}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Component":
        """Inverse of `to_json`."""
        return cls(str(content["class_path"]), dict(content["init_args"]))


class Overrides:
    """Options of another verb as they were written, components in them included; that verb checks them.

    No dataclass: the command line would look for its fields in the file.

    Args:
        options: Names to values, nested.
    """

    def __init__(self, options: dict[str, Any] | None = None) -> None:
        self.options = dict(options or {})


def resolve(class_path: str, trusted_only: bool = False) -> type:
    """Import the class that `class_path` names.

    Args:
        class_path: `package.module.Class`.
        trusted_only: Refuse anything outside medssl: for names read from files that others made.

    Raises:
        ConfigError: No such module or class, or an untrusted one.
    """
    module_name, _, class_name = class_path.rpartition(".")
    if trusted_only and not class_path.startswith("medssl."):
        raise ConfigError([f"class_path {class_path!r} is not part of medssl and comes from a file: refused"])
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError([f"class_path {class_path!r} names no importable class ({error})"]) from error
    if not isinstance(found, type):
        raise ConfigError([f"class_path {class_path!r} is not a class"])
    return found
