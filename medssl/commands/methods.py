"""List the self-supervised methods with paper, family, dimensions and backbones."""

import importlib
import inspect
import pkgutil

from medssl.commands.console import say

POSITIONAL: tuple[str, ...] = ()


def methods() -> None:
    """List the self-supervised methods: how a configuration names them, on what they run, and where they come from."""
    import medssl.methods
    from medssl.methods.base import Method

    found: dict[str, type[Method]] = {}
    for module in pkgutil.iter_modules(medssl.methods.__path__):
        for value in vars(importlib.import_module(f"medssl.methods.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Method) and not inspect.isabstract(value):
                found[module.name] = value
    for name, method in sorted(found.items(), key=lambda item: (item[1].card.family, item[0])):
        card = method.card
        dimensions = (" with " if method.mixed else " and ").join(f"{dims}D" for dims in card.spatial_dims)
        say(f"{name:<16}{card.family:<18}{dimensions:<11}{', '.join(card.backbones):<42}{card.paper}, {card.link}")
        say(f"{'':<16}class_path: {method.__module__}.{method.__qualname__}")
