"""A class named in a configuration, with its arguments; torch-free, so that help is at once."""

import importlib
import inspect
from collections.abc import Iterator
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


_TOLD_OR_FREE = {
    "spatial_dims", "in_channels", "width", "window", "pretrained_window", "drop_path", "pretrained", "image_size",
}  # fmt: skip
"""Arguments that shapes of weights tell of, or that may differ from those the weights were learned with."""


class Overrides:
    """Options of another verb as they were written, components in them included; that verb checks them.

    No dataclass: the command line would look for its fields in the file.

    Args:
        options: Names to values, nested.
    """

    def __init__(self, options: dict[str, Any] | None = None) -> None:
        self.options = dict(options or {})


def unlike_arguments(then: Component, now: Component) -> Iterator[str]:
    """What to say of each argument of one class that differs and of which no weight tells.

    Args:
        then: What the weights were learned with.
        now: What they are to be loaded into.
    """
    if then.class_path != now.class_path:
        return
    kind = resolve(now.class_path)
    parameters, filled = inspect.signature(kind).parameters, getattr(kind, "filled", dict)
    usual = {name: p.default for name, p in parameters.items() if p.default is not p.empty and p.default is not None}
    arguments = [filled({**usual, **one.init_args}) for one in (then, now)]
    for name in sorted({*arguments[0], *arguments[1]} - _TOLD_OR_FREE):
        before, here = (_plain(own.get(name)) for own in arguments)
        if None not in (before, here) and before != here:
            yield (
                f"was pretrained with {name} {before}, here {here}: its weights would fit and compute something else; "
                "take the arguments in encoder.json"
            )


def _plain(value: Any) -> Any:
    """As JSON, a number for a list of it alone: 8 is [8, 8]."""
    if not isinstance(value, list | tuple):
        return value
    parts = [_plain(part) for part in value]
    numbers = all(isinstance(part, int) for part in parts)
    return parts[0] if parts and numbers and len(set(parts)) == 1 else parts


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
