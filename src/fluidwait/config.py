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
        ConfigError: the file is missing, unreadable, not YAML, not a mapping, or gives a key twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{_nearest(path.name, _siblings(path))}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    try:
        data = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{path}: not valid YAML{where}: {getattr(error, 'problem', None) or 'syntax error'}"
        ) from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {found}")
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


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # the compiled parser is ten times faster
    """YAML's own safe loader keeps the last of two equal keys without a word; this one refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' again", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


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
    if first["type"].endswith(
        "_type"
    ):  # of one member of a union, while another has the right kind and a mistake inside
        inside = [e for e in error.errors() if e["loc"][:-1] != first["loc"][:-1]]
        first = next((e for e in inside if e["loc"][: len(first["loc"]) - 1] == first["loc"][:-1]), first)
    keys = _keys(first["loc"], data, first["type"] == "missing")
    kind, value, context = first["type"], first.get("input"), first.get("ctx", {})
    if kind.startswith("union_tag"):  # the mistake is in the key that chooses the member, or it is not there
        keys.append(context["discriminator"].strip("'"))
    key = ".".join(keys) or "(top level)"
    if kind == "extra_forbidden":
        valid = {name for candidate in _models_at(model, first["loc"][:-1]) for name in candidate.model_fields}
        return f"{key}: unknown key{_nearest(keys[-1], list(valid))}"
    if kind == "missing":
        return f"{key}: required key is missing"
    if kind == "union_tag_not_found":
        tags = {tag for candidate in _models_at(model, first["loc"]) for tag in _tags(candidate, keys[-1])}
        return f"{key}: required key is missing{_nearest('', list(tags))}"
    if kind in ("literal_error", "enum", "union_tag_invalid"):
        valid = str(context.get("expected") or context.get("expected_tags") or "")
        names = [v.strip(" '") for v in valid.replace(" or ", ", ").split(",") if v.strip(" '")]
        wrong = context.get("tag", value) if kind == "union_tag_invalid" else value
        return f"{key}: '{wrong}' is not a valid value{_nearest(str(wrong), names)}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    shown = repr(value) if isinstance(value, str | int | float | bool | type(None)) else None
    told = kind == "value_error" and shown is not None and shown in message  # by a validator of ours
    return f"{key}: {message}" + (f", found {shown}" if shown is not None and not told else "")


def _keys(location: tuple[str | int, ...], data: Any, missing: bool) -> list[str]:
    """The location as the keys that stand in the file: without the tags that pydantic adds for members of a union.

    ``missing``: the last of them does not stand there.
    """
    keys = []
    for index, part in enumerate(location):
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            if index < len(location) - 1 or not missing:
                continue
        keys.append(str(part))
    return keys


def _models_at(model: type[BaseModel], location: tuple) -> list[type[BaseModel]]:
    """The models possible at ``location``, following nested models, lists, mappings and tagged unions."""
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
                tagged = [c for c in candidates if part in _tags(c)]  # not found: the key of a mapping
                following += tagged or [candidate]
        candidates = list(dict.fromkeys(following)) or candidates
    return candidates


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in getattr(annotation, "__args__", ()) for m in _models_in(arg)]


def _tags(model: type[BaseModel], field: str | None = None) -> set[str]:
    """The words that literal fields of a model (or the one of that name) may hold."""
    fields = [f for name, f in model.model_fields.items() if field in (None, name)]
    return {a for f in fields for a in getattr(f.annotation, "__args__", ()) if isinstance(a, str)}
