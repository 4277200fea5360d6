"""JSON and YAML from outside, within limits of length, depth and size of numbers, and as the type that is expected."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from reprlib import Repr
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from codecctl.errors import CodecctlError, ConfigError

T = TypeVar("T")

LONGEST_JSON = 2**23  # bytes, of a file or a line
_LONGEST_YAML = 2**15  # characters; the parser needs a third of a second for them
_DEEPEST = 32  # sections in sections
_MOST_DIGITS = 19  # of an integer: 64 bits

_REPR = Repr()
_REPR.maxstring = _REPR.maxother = 80  # characters


def shorten(value: object) -> str:
    """`repr` of about 80 characters: on one line, without characters that a terminal obeys."""
    return _REPR.repr(value)


def parse_json(text: bytes | str, where: str) -> dict[str, Any]:
    """The object in a JSON text; all its numbers are finite. Raises `CodecctlError` that starts with `where`."""
    try:
        if len(text) > LONGEST_JSON:
            raise ValueError(f"longer than {LONGEST_JSON / 2**20:.0f} MiB")
        value = _JSON.decode(text if isinstance(text, str) else text.decode("utf-8-sig"))
        _check_depth(value)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        problem = f"{error.msg.removesuffix(' at')} at {line}column {error.colno}"
    except UnicodeDecodeError as error:
        problem = f"no UTF-8 at byte {error.start}"
    except RecursionError:
        problem = f"more than {_DEEPEST} brackets within one another"
    except ValueError as error:
        problem = str(error)
    else:
        if isinstance(value, dict):
            return value
        raise CodecctlError(f"{where}: expected a JSON object")
    raise CodecctlError(f"{where}: not valid JSON ({problem})")


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The keys of a YAML text, every scalar as text. Raises `ConfigError` that starts with `where` and the line."""
    if len(text) > _LONGEST_YAML:
        raise ConfigError(f"{where}: longer than the {_LONGEST_YAML} characters that a config may have")
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{where}{line}: not valid YAML: {problem}") from None
    if values is None or values == "":
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected keys and values at the top, got {type(values).__name__}")
    return values


def as_type(kind: type[T], value: object, where: str) -> T:
    """A parsed value as this type, such as a dataclass. Raises `CodecctlError` that names the first wrong key."""
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        said = f"{first['msg'][:1].lower()}{first['msg'][1:]} (it is {shorten(first['input'])})"
        said = "is missing" if first["type"] == "missing" else said
        raise CodecctlError(f"{where}: {shorten('.'.join(map(str, first['loc'])))}: {said}") from None


def load_json(path: Path, kind: type[T], *, missing: str, hint: str) -> T:
    """The object in a JSON file as a `kind`, see `as_type`.

    Raises `CodecctlError`: `missing` if there is no such file; one that ends with `hint` if it is damaged.
    """
    try:
        return as_type(kind, parse_json(path.read_bytes(), str(path)), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise CodecctlError(missing) from None
    except OSError as error:
        raise CodecctlError(f"{path}: cannot be read ({error.strerror})") from None
    except CodecctlError as error:
        raise CodecctlError(f"{error}; {hint}") from None


def read_json(path: Path, kind: type[T]) -> T | None:
    """As `load_json`; None if there is no such file or it is damaged."""
    try:
        return load_json(path, kind, missing="", hint="")
    except CodecctlError:
        return None


# Making one takes a thousand times as long as using it.
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def _parse_int(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _parse_float(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"the number {shorten(digits)} is too large")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


_JSON = json.JSONDecoder(parse_int=_parse_int, parse_float=_parse_float, parse_constant=_refuse_constant)


def _check_depth(value: object) -> None:
    """Raises `RecursionError`."""
    level = [value]
    for _ in range(_DEEPEST + 1):
        inner = (e for e in level for e in (e.values() if isinstance(e, dict) else e if isinstance(e, list) else ()))
        level = [item for item in inner if isinstance(item, dict | list)]
        if not level:
            return
    raise RecursionError


class _Loader(yaml.BaseLoader):
    """Every scalar stays text, so that the schema's type decides (`1e-4` is a number, `no` a word where a word is
    asked for). A key written twice is an error, as are aliases: nine lines of them stand for millions of values."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self._refuse("an alias (*name); write the value out", event.start_mark)
        if self._depth > _DEEPEST:
            self._refuse(f"more than {_DEEPEST} sections within one another", event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._refuse("a key that is a list or a section; expected a name", key.start_mark)
            if key.value in seen:
                self._refuse(f"key {shorten(key.value)} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def _refuse(self, problem: str, mark: Any) -> NoReturn:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
