"""Check the arguments of classes that a configuration names, and build them."""

import difflib
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union

from medssl.imaging.errors import ConfigError
from medssl.models.component import Component, resolve


def check_component(option: str, component: Component, supplied: Sequence[str] = ()) -> list[str]:
    """Mistakes in a component: no such class, unknown or missing arguments, wrong types; one sentence each.

    Args:
        option: Name of the option, for the messages.
        component: Class and arguments.
        supplied: Arguments that the program gives itself.
    """
    try:
        parameters = _parameters(resolve(component.class_path))
    except ConfigError as error:
        return [f"{option}: {problem}" for problem in error.problems]
    name = component.class_path.rpartition(".")[2]
    problems = []
    for key, value in component.init_args.items():
        where = f"{option}.init_args.{key}"
        if key not in parameters:
            near = difflib.get_close_matches(key, parameters, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(parameters)}"
            problems.append(f"{where} is no argument of {name}; {hint}")
        elif not _fits(value, parameters[key].annotation):
            wanted = inspect.formatannotation(parameters[key].annotation)
            problems.append(f"{where} must be {wanted}, got {value!r}")
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and key not in component.init_args and key not in supplied
    ]
    return problems + [f"{option}.init_args.{key} is missing: {name} needs it" for key in missing]


def completed(option: str, component: Component, facts: Mapping[str, Any]) -> Component:
    """The component with the facts about the data filled in that its class asks for.

    Args:
        option: Name of the option, for the messages.
        component: Class and arguments.
        facts: For instance `spatial_dims`, `in_channels`, `image_size`.

    Raises:
        ConfigError: An argument contradicts a fact.
    """
    parameters = _parameters(resolve(component.class_path))
    asked = {key: value for key, value in facts.items() if key in parameters}
    problems = [
        f"{option}.init_args.{key} is {component.init_args[key]!r}, but the data and crops have {value!r}: leave it out"
        for key, value in asked.items()
        if key in component.init_args and _plain(component.init_args[key]) != _plain(value)
    ]
    if problems:
        raise ConfigError(problems)
    return Component(component.class_path, {**component.init_args, **asked})


def build_component(option: str, component: Component, *positional: Any, **extra: Any) -> Any:
    """Make the object; lists become tuples where the class wants tuples.

    Raises:
        ConfigError: The class refuses the values.
    """
    kind = resolve(component.class_path)
    parameters = _parameters(kind)
    arguments = {
        key: tuple(value)
        if isinstance(value, list) and typing.get_origin(parameters[key].annotation) is tuple
        else value
        for key, value in component.init_args.items()
    }
    try:
        return kind(*positional, **arguments, **extra)
    except (ValueError, TypeError) as error:
        raise ConfigError([f"{option}: {component.class_path}: {error}"]) from error


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Parameters of the constructor with their types resolved."""
    signature = inspect.signature(kind, eval_str=True)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: p for name, p in signature.parameters.items() if p.kind not in variable}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value (from YAML) can be meant for a type; unknown types are let through."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    if origin is Literal:
        return value in inner
    if hint is None or hint is types.NoneType:
        return value is None
    if hint in (int, float, str, bool):
        return _is_plain(value, hint)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        return _is_sequence(value, inner)
    return True


def _is_plain(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def _is_sequence(value: Any, inner: tuple[Any, ...]) -> bool:
    if not isinstance(value, list | tuple):
        return False
    if len(inner) == 1 or (len(inner) == 2 and inner[1] is Ellipsis):
        return all(_fits(item, inner[0]) for item in value)
    return not inner or (len(value) == len(inner) and all(map(_fits, value, inner)))


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
