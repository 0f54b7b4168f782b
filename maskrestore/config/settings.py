"""Settings as words `key=value` and YAML: checks that report every mistake with its remedy."""

import ast
import difflib
import inspect
import re
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from maskrestore.utils.errors import ConfigError
from maskrestore.utils.file_names import as_it_lies

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


class Section(BaseModel):
    """Settings that cannot change after they were checked; an unknown name is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )


Settings = TypeVar("Settings", bound=Section)


def parse(schema: type[Settings], arguments: Sequence[str]) -> Settings:
    """Settings from words `config=NAME` and `a.b=value`; ConfigError lists every mistake.

    `config=NAME` overlays configs/NAME.yaml, or the file NAME if it ends in .yaml.
    """
    return validate(schema, *read_words(schema, arguments))


def read_words(schema: type[Section], arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The unchecked values that words describe, for `validate`, and the mistakes among the words.

    ConfigError if the file of `config=NAME` cannot be read.
    """
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    for word in arguments:
        key, equals, value = word.partition("=")
        if not equals or not key:
            mistakes.append(f"{word}: write key=value, such as {next(iter(schema.model_fields))}=…")
        elif key == "config":
            values = merge(values, read_yaml(find_config(value)))
    for word in arguments:
        key, equals, value = word.partition("=")
        if equals and key and key != "config":
            try:
                values = merge(values, nest(key, _value(schema, key, value)))
            except ConfigError as error:
                mistakes.append(str(error))
    return values, mistakes


def validate(
    schema: type[Settings], values: Mapping[str, Any], mistakes: Iterable[str] = ()
) -> Settings:
    """Checked settings; ConfigError lists `mistakes` and every further one with its remedy."""
    messages = list(mistakes)
    try:
        settings = schema.model_validate(values)
    except ValidationError as error:
        messages += [_explain(schema, detail) for detail in error.errors()]
    if messages:
        raise ConfigError("\n".join(messages))
    return settings


def find_config(name: str, folder: Path = CONFIGS) -> Path:
    """The file of `config=name`; ConfigError lists those that there are."""
    is_file = name.endswith((".yaml", ".yml"))
    path = as_it_lies(Path(name)) if is_file else folder / f"{name}.yaml"
    if path.is_file():
        return path
    known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
    raise ConfigError(f"config={name}: no file {path}; there are: {known}, or give a .yaml file")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; ConfigError names the file and line of a mistake."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path}: must hold `key: value` lines, got {type(values).__name__}")
    return values


def to_yaml(settings: Section) -> str:
    """The complete settings, a valid `config=` file."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def nest(dotted_key: str, value: Any) -> dict[str, Any]:
    """`a.b`, 1 -> {"a": {"b": 1}}."""
    for name in reversed(dotted_key.split(".")):
        value = {name: value}
    return dict(value)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, section by section; ConfigError where a section meets a value."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            merged[key] = merge(old, value)
        elif isinstance(old, Mapping):
            raise ConfigError(f"{key}={value}: {key} is a section; write {key}.NAME=VALUE")
        else:
            merged[key] = value
    return merged


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def paths_in(settings: Section) -> Iterator[Path]:
    """Every path that the settings name."""
    for _, value in settings:
        if isinstance(value, Section):
            yield from paths_in(value)
        elif isinstance(value, Path):
            yield value


def describe(schema: type[Section], prefix: str = "", hidden: Collection[str] = ()) -> str:
    """The schema as the text of --help: dotted key, type, default, meaning with its unit.

    hidden: names at the top that are left out."""
    lines: list[str] = []
    for name, field in schema.model_fields.items():
        if name in hidden:
            continue
        default = field.default
        if isinstance(default, Section):
            heading = " ".join(docstring(type(default)).split())
            lines += ["", f"{prefix}{name}: {heading}", describe(type(default), f"{prefix}{name}.")]
            continue
        choices = get_args(field.annotation) if _is_literal(field.annotation) else ()
        kind = "|".join(str(choice) for choice in choices)
        shown = "" if field.is_required() else f" = {_shown(default)}"
        lines.append(f"  {prefix}{name}{shown}" + (f"  ({kind})" if kind else ""))
        lines.append("      " + " ".join((field.description or "").split()))
    return "\n".join(lines)


def docstring(documented: ModuleType | type) -> str:
    """Of a module or class. `python -OO` drops them, but --help is made of them."""
    if documented.__doc__:
        return documented.__doc__
    node: Any = ast.parse(textwrap.dedent(inspect.getsource(documented)))
    return ast.get_docstring(node if isinstance(documented, ModuleType) else node.body[0]) or ""


def _is_literal(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is Literal


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ",".join(map(str, value)) + "]"
    return "none" if value is None else str(value)


def _value(schema: type[Section], key: str, text: str) -> Any:
    """A word's value as YAML reads it, but texts and paths as they stand, and 1e6 as a number."""
    field: Any = None
    for name in key.split("."):
        field = schema.model_fields.get(name)
        schema = type(field.default) if field and isinstance(field.default, Section) else Section
    if field and field.annotation is str:
        return text
    if not text:
        raise ConfigError(f"{key}=: write a value behind it")
    if field and Path in (field.annotation, *get_args(field.annotation)):
        if text in ("none", "null"):
            return None
        found = as_it_lies(Path(text))
        return text if found == Path(text) else str(found)  # a URL is no path
    if re.fullmatch(r"[+-]?[\d.]+e[+-]?\d+", text, re.IGNORECASE):
        return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _explain(schema: type[Section], detail: Any) -> str:
    """One line of pydantic's findings in the user's words."""
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location) or "settings"
    if detail["type"] == "extra_forbidden":
        section: Any = schema
        for part in location[:-1]:
            section = type(section.model_fields[part].default)
        known = list(section.model_fields)
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.6)
        remedy = f"did you mean {near[0]}?" if near else "there are: " + ", ".join(known)
        return f"{key}: no such setting; {remedy}"
    message = detail["msg"].removeprefix("Value error, ")
    if not location:
        return str(message)
    if detail["type"] == "missing":
        return f"{key}: must be given, as {key}=VALUE"
    return f"{key}: {message[0].lower()}{message[1:]}, got {detail['input']!r}"
