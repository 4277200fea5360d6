"""YAML, overlays and `--set a.b=c` -> `Config`, and back. Errors name the file or key, and the nearest name."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from codecctl.config.schema import Config
from codecctl.errors import ConfigError
from codecctl.parsing import parse_yaml, shorten
from codecctl.text import did_you_mean

_PACKAGE = Path(__file__).resolve().parents[1]
_EXPECTED = {"model_type": "expected a section of keys", "tuple_type": "expected a list, such as [a, b]"}  # of pydantic


def configs_folder() -> Path:
    """Where the shipped YAML files lie: inside the wheel, or beside the package in a checkout."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def load_config(name: str | Path = "production", *, gpu: str | None = None, overrides: Sequence[str] = ()) -> Config:
    """The config of that name or path, the card's profile laid over it, then each `a.b=c` of `overrides`.

    The section `production` of a profile sizes the production run for the card. In another config it adds only what
    that does not say itself. Raises `ConfigError` for a missing file, an unknown key or a wrong type.
    """
    path = find_config(name)
    values = read_yaml(path)
    if gpu is not None:
        profile = read_yaml(find_config(gpu, folder="gpu"))
        if isinstance(of_production := profile.get("production"), dict):
            del profile["production"]
            if path.resolve() == (configs_folder() / "production.yaml").resolve():
                merge(values, of_production)
            else:
                merge(of_production, values)
                values = of_production
        merge(values, profile)
    for override in overrides:
        merge(values, _read_override(override))
    return parse_config(values, source=str(name))


def override_config(config: Config, overrides: Sequence[str]) -> Config:
    """A config, such as a checkpoint's, with each `a.b=c` of `overrides` laid over it. Raises `ConfigError`."""
    values = config.model_dump(mode="json", by_alias=True)
    for override in overrides:
        merge(values, _read_override(override))
    return parse_config(values, source="--set")


def with_data(config: Config, path: str | Path) -> Config:
    """The config with another `data.path`, taken as it is: no YAML, any character."""
    return config.model_copy(update={"data": config.data.model_copy(update={"path": str(path)})})


def parse_config(values: Mapping[str, Any], *, source: str) -> Config:
    """A nested mapping, as YAML or a checkpoint holds it, checked against the schema. `source` is named in errors."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {first_problem(error, Config)}") from None


def dump_config(config: Config) -> str:
    """The resolved config as YAML; `parse_config(yaml) == config`."""
    return yaml.safe_dump(
        config.model_dump(mode="json", by_alias=True), sort_keys=False, default_flow_style=None, width=120
    )


def find_config(name: str | Path, *, folder: str = "") -> Path:
    """A path as it stands, else a shipped config of that name. Raises `ConfigError` that lists what there is."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = configs_folder() / folder
    if path.name == str(name) and (shipped / f"{name}.yaml").is_file():
        return shipped / f"{name}.yaml"
    names = sorted(entry.stem for entry in shipped.glob("*.yaml"))
    kind = f"{folder} profile" if folder else "config"
    raise ConfigError(
        f"no {kind} '{name}': neither a file nor one of {', '.join(names)}{did_you_mean(str(name), names)}"
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a YAML file, every scalar as text. Raises `ConfigError` that names file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error})") from None
    return parse_yaml(text, str(path))


def _read_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {shorten(text)}: expected a.b=c, such as train.batch_size=8")
    source = f"--set {shorten(key)}"
    values = parse_yaml(f"value: {value}", source)
    if len(values) > 1:
        raise ConfigError(f"{source}: expected one value; a section is written {{a: 1, b: 2}}")
    *sections, last = key.strip().split(".")
    values = {last: values["value"]}
    for section in reversed(sections):
        values = {section: values}
    return values


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Lay `over` upon `base`: sections merge, anything else is replaced, as is a section of another kind."""
    for key, value in over.items():
        below = base.get(key)
        if isinstance(value, Mapping) and isinstance(below, dict):
            kind = below.get("kind", "strided")  # the default of model.front
            if value.get("kind", kind) == kind:
                merge(below, value)
                continue
        base[key] = value


def first_problem(error: ValidationError, root: type[BaseModel]) -> str:
    """What is wrong with the values of `root`, on one line: the first problem, by its dotted key, and their number."""
    problems = error.errors(include_url=False)
    # A mistyped key is also a missing one: the mistype says more.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    parts, section = _walk(first["loc"], root)
    key = ".".join(parts) or root.__name__.lower()
    if first["type"] == "extra_forbidden":
        names = [field.alias or name for name, field in section.model_fields.items()]
        message = f"unknown key {shorten(key)}{did_you_mean(str(first['loc'][-1]), names)}"
    elif first["type"] == "missing":
        message = f"{key} is missing"
    elif first["type"] == "value_error" and not parts:  # of the whole config: it names the key
        message = first["msg"].removeprefix("Value error, ")
    else:
        said = _EXPECTED.get(first["type"], first["msg"].removeprefix("Value error, "))
        got = "" if first["type"] == "value_error" else f", got {shorten(first['input'])}"
        message = f"{key}: {said[:1].lower()}{said[1:]}{got}"
    return message + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _walk(location: Sequence[int | str], section: type[BaseModel]) -> tuple[list[str], type[BaseModel]]:
    """The keys of an error's location, without the tags of unions, and the innermost section on the way to its last."""
    keys: list[str] = []
    choices: dict[str, type[BaseModel]] = {}  # the sections of the union that the last key holds, by kind
    for n, part in enumerate(location):
        if part in choices:
            section, choices = choices[str(part)], {}
            continue
        keys.append(str(part))
        field = {field.alias or name: field for name, field in section.model_fields.items()}.get(str(part))
        if field is None or n + 1 == len(location):
            continue
        sections = [kind for kind in _kinds(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        choices = {
            tag: each
            for each in sections
            if "kind" in each.model_fields
            for tag in typing.get_args(each.model_fields["kind"].annotation)
        }
        section = sections[0] if sections else section
    return keys, section


def _kinds(annotation: Any) -> Iterator[Any]:
    """A type, and the members of a union, without what `Annotated` adds."""
    yield annotation
    for part in typing.get_args(annotation):
        yield from _kinds(part)
