"""The command line of a verb, made from its typed signature: options, YAML files, help, and all mistakes at once.

A verb is a function of its module's name in `medssl/commands/`; `POSITIONAL` in that module names the parameters given
without a dash. Later options win over earlier ones, files given with `--config` included.
"""

import contextlib
import dataclasses
import difflib
import importlib
import inspect
import itertools
import re
import reprlib
import tempfile
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jsonargparse
import yaml
from jsonargparse.typing import register_type

import medssl
from medssl.imaging.environment import running
from medssl.imaging.errors import ConfigError
from medssl.models.component import Component, Overrides

T = TypeVar("T")

_PACKAGE = Path(medssl.__file__).parent
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "tuple": "a list",
    "list": "a list",
    "dict": "names and values",
    "NoneType": "null",
}
_MAX_VALUES = 100_000
"""Values of a YAML file, aliases written out."""


def _component(value: Any) -> Component:
    """A component from `{class_path: ..., init_args: {...}}`; the class itself is looked up by the verb."""
    if isinstance(value, Component):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("class_path"), str):
        raise ValueError("class_path: package.module.Class, and init_args where it needs some, are expected")
    if set(value) - {"class_path", "init_args"} or not isinstance(value.get("init_args") or {}, dict):
        raise ValueError("init_args must map names to values, and nothing but class_path and init_args is expected")
    return Component(value["class_path"], dict(value.get("init_args") or {}))


def _overrides(value: Any) -> Overrides:
    if isinstance(value, Overrides):
        return value
    if not isinstance(value, dict):
        raise ValueError("a mapping of options is expected")
    return Overrides(value)


# jsonargparse takes any mapping with class_path for a subclass of the annotated class; a component is plain data
jsonargparse.set_parsing_settings(
    subclasses_enabled=[Component],
    instantiate_subclass_spec_in_any=False,
    docstring_parse_attribute_docstrings=True,
)
register_type(Component, Component.to_json, _component, fail_already_registered=False)
register_type(Overrides, lambda value: value.options, _overrides, fail_already_registered=False)


def resolve_folder(kind: str, name: Path) -> Path:
    """Folder or file `name`, or the one of that name built into the package below `kind` (`configs` or `apps`).

    Raises:
        ConfigError: Neither is there.
    """
    if name.exists():
        return name
    relative = Path(*name.parts[1:]) if name.parts[:1] == (kind,) else name
    roots = (_PACKAGE / kind, _PACKAGE.parent / kind)
    for root in roots:
        found = sorted(root.rglob(f"{relative}.yaml")) if relative.name == str(relative) else []
        for candidate in (root / relative, root / f"{relative}.yaml", *found):
            if relative.parts and candidate.exists():
                return candidate
    known = sorted({p.stem if kind == "configs" else p.parent.name for r in roots for p in r.rglob("*.yaml")})
    near = difflib.get_close_matches(name.stem, known)
    named = "" if name.suffix else f": there are {', '.join(known) or 'none'}"  # whoever names a file wants no list
    hint = f": did you mean {' or '.join(near)}?" if near else named
    raise ConfigError([f"{name} does not exist, and nothing of that name is built in{hint}"])


def run_verb(verb: str, argv: Sequence[str]) -> None:
    """Parse the arguments of a verb and run it.

    Raises:
        ConfigError: Every mistake in the arguments.
        SystemExit: After printing the help, when asked for.
    """
    module = importlib.import_module(f"medssl.commands.{verb}")
    function: Callable[..., None] = getattr(module, verb)
    parser = _parser(verb, function, module.POSITIONAL)
    for token in argv:
        if token in ("-h", "--help") or (token.startswith("--") and token.endswith(".help")):
            with contextlib.suppress(jsonargparse.ArgumentError):  # no such option, which is told below
                parser.parse_args([token])  # prints it and ends
    given = _collect(argv, _positional(function, module.POSITIONAL), _lists(function))
    values = _checked(parser, function, given, module.POSITIONAL)
    with running(verb, argv):
        function(**values)


def parse_verb(verb: str, argv: Sequence[str]) -> dict[str, Any]:
    """Arguments of a verb as they would be passed to it, without running it; for tests of configuration files."""
    module = importlib.import_module(f"medssl.commands.{verb}")
    function = getattr(module, verb)
    parser = _parser(verb, function, module.POSITIONAL)
    given = _collect(argv, _positional(function, module.POSITIONAL), _lists(function))
    return _checked(parser, function, given, module.POSITIONAL)


def parse_options(verb: str, argv: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a verb that will be given these options in a file, beside others; nothing is run.

    Raises:
        ConfigError: Every mistake in them.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "options.yaml"
        path.write_text(yaml.safe_dump(options), encoding="utf-8")
        return parse_verb(verb, [*argv, "--config", str(path)])


def read_options(kind: Callable[..., T], path: Path) -> T:
    """An object of typed options from a YAML file.

    Args:
        kind: A dataclass.
        path: The file.

    Raises:
        ConfigError: Every mistake in it.
    """
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    return kind(**_checked(parser, kind, read_yaml(str(path))))


def read_yaml(name: str) -> dict[str, Any]:
    """Options in a YAML file, or in the built-in configuration of that name.

    Raises:
        ConfigError: No such file, or it holds no options.
    """
    problems: list[str] = []
    given = _read_yaml(name, problems)
    if problems:
        raise ConfigError(problems)
    return given


@cache
def _parser(verb: str, function: Callable[..., None], positional: tuple[str, ...]) -> jsonargparse.ArgumentParser:
    description = inspect.cleandoc(function.__doc__ or "").split("\n\nArgs:")[0]
    shown = verb.replace("_", "-")
    usage = " ".join(name.upper() + ("..." if _is_list(function, name) else "") for name in positional)
    parser = jsonargparse.ArgumentParser(
        prog=f"medssl {shown}",
        usage=f"medssl {shown} {usage}{' ' if usage else ''}[--config FILE.yaml] [--option VALUE ...]",
        description=description,
        epilog="Not a medical device: for research only.",
        exit_on_error=False,
    )
    parser.add_function_arguments(function, as_group=False)
    return parser


def _positional(function: Callable[..., None], names: Sequence[str]) -> list[tuple[str, bool]]:
    return [(name, _is_list(function, name)) for name in names]


def _is_list(function: Callable[..., None], name: str) -> bool:
    return typing.get_origin(typing.get_type_hints(function)[name]) in (list, tuple)


def _lists(function: Callable[..., None]) -> set[str]:
    """Options that take all values up to the next option."""
    return {name for name, hint in typing.get_type_hints(function).items() if typing.get_origin(hint) is list}


def _collect(argv: Sequence[str], positional: list[tuple[str, bool]], lists: set[str]) -> dict[str, Any]:
    """Nested dictionary of everything given, YAML files merged in at their place."""
    given: dict[str, Any] = {}
    free: list[str] = []
    problems: list[str] = []
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        if not token.startswith("--"):
            free.append(token)
            continue
        name, equals, value = token[2:].partition("=")
        if not equals and tokens and not tokens[0].startswith("--"):
            equals, value = "=", tokens.pop(0)
        if name == "config":
            _merge(given, _read_yaml(value, problems))
        elif name.replace("-", "_") in lists and equals and not isinstance(_scalar(value), list):
            further = list(itertools.takewhile(lambda other: not other.startswith("--"), tokens))
            del tokens[: len(further)]
            given[name.replace("-", "_")] = [value, *further]
        else:
            _merge(given, _nested(name.replace("-", "_"), _scalar(value) if equals else True))
    _place(free, positional, given, problems)
    if problems:
        raise ConfigError(problems)
    return given


def _place(free: list[str], positional: list[tuple[str, bool]], given: dict[str, Any], problems: list[str]) -> None:
    for name, is_list in positional:
        if not free:
            continue  # named with --name instead, or reported as missing
        given[name] = free[:] if is_list else free[0]
        del free[: len(free) if is_list else 1]
    problems.extend(f"argument {token!r} is not expected" for token in free)


def _read_yaml(name: str, problems: list[str]) -> dict[str, Any]:
    try:
        path = resolve_folder("configs", Path(name))
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if _expanded(content, {}) > _MAX_VALUES:
            raise ValueError(f"its aliases stand for more than {_MAX_VALUES} values")
    except ConfigError as error:
        problems.extend(f"--config: {problem}" for problem in error.problems)
        return {}
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:  # a number too long is a ValueError
        problems.append(f"--config {name}: no readable YAML ({' '.join(str(error).split())[:300]})")
        return {}
    if not isinstance(content, dict | None):
        problems.append(f"--config {name}: a mapping of options is expected, got {type(content).__name__}")
        return {}
    return content or {}


def _expanded(content: Any, known: dict[int, float]) -> float:
    """How many values a YAML file stands for once its aliases are written out; infinite where one holds itself."""
    if not isinstance(content, dict | list):
        return 1
    if id(content) not in known:
        known[id(content)] = float("inf")
        inner = [*content.keys(), *content.values()] if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(_expanded(value, known) for value in inner)
    return known[id(content)]


def _scalar(text: str) -> Any:
    """Value of an option as YAML 1.2 has it: 1e-3 is a number and `off` a word, where 1.1 has a text and a truth."""
    if text.lower() in ("on", "off", "yes", "no"):
        return text
    if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", text):
        return float(text)
    try:
        return yaml.safe_load(text) if text else text
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _nested(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return typing.cast(dict[str, Any], value)


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _checked(
    parser: jsonargparse.ArgumentParser,
    function: Callable[..., Any],
    given: dict[str, Any],
    positional: Sequence[str] = (),
) -> dict[str, Any]:
    hints = {name: hint for name, hint in typing.get_type_hints(function).items() if name != "return"}
    problems = list(_unknown(given, hints, ""))
    required = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is inspect.Parameter.empty
    ]
    wanted = {name: name.upper() if name in positional else f"--{name.replace('_', '-')} VALUE" for name in required}
    problems += [f"{name} is missing: give {how}" for name, how in wanted.items() if name not in given]
    values = _convert(parser, hints, given, problems)
    if problems:
        raise ConfigError(problems)
    return values


def _unknown(given: dict[str, Any], hints: dict[str, Any], prefix: str) -> Iterator[str]:
    """A sentence for each name that the signature does not have; the name is removed from `given`."""
    for key in list(given):
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            known = f"; known: {', '.join(sorted(hints))}" if hints else "; there are none"
            hint = f"; did you mean {prefix}{near[0]}?" if near else known
            yield f"option {prefix}{key} is unknown{hint}"
            del given[key]
        elif (group := _dataclass_of(hints[key])) and isinstance(given[key], dict):
            yield from _unknown(given[key], typing.get_type_hints(group), f"{prefix}{key}.")


def _dataclass_of(hint: Any) -> type | None:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)), None)


def _convert(
    parser: jsonargparse.ArgumentParser, hints: dict[str, Any], given: dict[str, Any], problems: list[str]
) -> dict[str, Any]:
    """Typed values; each wrong one is told, then left out so that the next one is found."""
    while True:
        try:
            parsed = parser.parse_object(given, _skip_validation=bool(problems))
            values = dict(parser.instantiate(parsed).items(branches=True))
            return {} if problems else values
        except ConfigError as error:  # a group of options refuses its values: leave it out, look at the others
            problems.extend(error.problems)
            groups = {problem.split(".")[0] for problem in error.problems} & given.keys()
            if not groups:
                return {}
            for group in groups:
                del given[group]
        except (jsonargparse.ArgumentError, TypeError, ValueError, KeyError) as error:
            message = " ".join(str(error).split())
            found = re.search(r'(?:Parser key|[Kk]ey) ["\']([\w.]+)["\']', message)
            if problems and ("required" in message or found is None):
                return {}
            problems.append(_wrong_value(found.group(1) if found else "", message, given))
            if found is None or not _remove(given, found.group(1).split(".")):
                return {}


def _wrong_value(key: str, message: str, given: dict[str, Any]) -> str:
    value: Any = given
    for part in key.split(".") if key else []:
        value = value.get(part) if isinstance(value, dict) else None
    reason = message.split(": ", 1)[-1] if key else message
    shown = reprlib.repr(value) if isinstance(value, (dict, list)) else repr(value)  # aliases may stand for any number
    return f"option {key} = {shown[:300]}: {_plainly(reason, value)[:1000]}" if key else reason[:1000]


def _plainly(reason: str, value: Any) -> str:
    """What is expected, in words, where the parser names types of Python."""
    found = re.findall(r"Expected an? <class '(?:\w+\.)*(\w+)'>", reason)
    if not found or not set(found) <= _WORDS.keys():
        return reason
    expected = " or ".join(dict.fromkeys(_WORDS[kind] for kind in found))
    is_scalar = not isinstance(value, list | dict | None)
    return f"expected {expected}{f': write [{value}]' if is_scalar and {'tuple', 'list'} & set(found) else ''}"


def _remove(given: dict[str, Any], path: list[str]) -> bool:
    for part in path[:-1]:
        if not isinstance(given.get(part), dict):
            return given.pop(part, None) is not None
        given = given[part]
    return given.pop(path[-1], None) is not None
