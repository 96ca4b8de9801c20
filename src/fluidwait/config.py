"""Reading configuration: strict models, and one clear line for every mistake.

Every user-facing setting is a field of a :class:`Strict` pydantic model, which is also the source of the JSON
Schemas under ``workflow/schemas``. :func:`parse` turns whatever pydantic finds wrong into one :class:`ConfigError`
line that names the file, the key, what is wrong and the nearest valid value.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class FluidwaitError(Exception):
    """A mistake of the user or of the input, told in one line. The command line prints it without a traceback."""


class ConfigError(FluidwaitError):
    """A configuration file or an input file that cannot be used as it is."""


class Strict(BaseModel):
    """Base of every configuration model: unknown keys are errors, values are immutable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True)


Model = TypeVar("Model", bound=BaseModel)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, unreadable, not YAML, or not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{_nearest(path.name, _siblings(path))}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}: not valid YAML{where}: {getattr(error, 'problem', None) or 'syntax error'}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {type(data).__name__}")
    return data


def parse(model: type[Model], data: dict[str, Any], source: str | Path) -> Model:
    """Validate ``data`` against ``model``.

    Raises:
        ConfigError: one line for the first mistake: ``source: key: what is wrong (nearest valid value)``.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_describe(error, model, data)}") from None


def load(model: type[Model], path: str | Path) -> Model:
    """Read a YAML file into ``model``; see :func:`load_yaml` and :func:`parse` for the errors."""
    return parse(model, load_yaml(path), path)


def nearest(word: str, valid: list[str] | tuple[str, ...]) -> str:
    """`` (did you mean 'x'?)``, or the valid names when none is near; empty when there are none."""
    return _nearest(word, list(valid))


def _nearest(word: str, valid: list[str]) -> str:
    if not valid:
        return ""
    close = difflib.get_close_matches(str(word), valid, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else f" (valid: {', '.join(sorted(valid))})"


def _siblings(path: Path) -> list[str]:
    if not path.parent.is_dir():
        return []
    near = [p.name for p in path.parent.glob(f"*{path.suffix}")]
    return difflib.get_close_matches(path.name, near, n=1, cutoff=0.5)


def _describe(error: ValidationError, model: type[BaseModel], data: dict[str, Any]) -> str:
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")  # a typo explains a missing key
    key = ".".join(str(part) for part in first["loc"]) or "(top level)"
    kind, value = first["type"], first.get("input")
    if kind == "extra_forbidden":
        valid = _fields_at(model, data, first["loc"][:-1])
        return f"{key}: unknown key{_nearest(str(first['loc'][-1]), valid)}"
    if kind == "missing":
        return f"{key}: required key is missing"
    if kind in ("literal_error", "enum", "union_tag_invalid"):
        context = first.get("ctx", {})
        valid = str(context.get("expected") or context.get("expected_tags") or "")
        names = [v.strip(" '") for v in valid.replace(" or ", ", ").split(",") if v.strip(" '")]
        wrong = context.get("tag", value) if kind == "union_tag_invalid" else value
        return f"{key}: '{wrong}' is not a valid value{_nearest(str(wrong), names)}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    shown = repr(value) if isinstance(value, str | int | float | bool | type(None)) else None
    return f"{key}: {message}" + (f", found {shown}" if shown is not None and shown not in message else "")


def _fields_at(model: type[BaseModel], data: Any, location: tuple) -> list[str]:
    """Names of the fields valid at ``location``, following nested models, lists and tagged unions."""
    candidates: list[type[BaseModel]] = [model]
    for part in location:
        following: list[type[BaseModel]] = []
        for candidate in candidates:
            field = candidate.model_fields.get(part) if isinstance(part, str) else None
            if field is not None:
                following += _models_in(field.annotation)
            elif isinstance(part, int):
                following.append(candidate)
            else:  # the tag of a discriminated union: keep only the member that carries it
                tagged = [c for c in candidates if part in _tags(c)]
                following += tagged or [candidate]
        candidates = list(dict.fromkeys(following)) or candidates
    return sorted({name for candidate in candidates for name in candidate.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in getattr(annotation, "__args__", ()) for m in _models_in(arg)]


def _tags(model: type[BaseModel]) -> set[str]:
    return {str(a) for f in model.model_fields.values() for a in getattr(f.annotation, "__args__", ()) if isinstance(a, str)}
