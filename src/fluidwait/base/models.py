"""Models of configuration: strict, and one clear line for every mistake.

Every user-facing setting is a field of a :class:`Strict` pydantic model, which is also the source of the JSON
Schemas under ``workflow/schemas``. :func:`parse` turns whatever pydantic finds wrong into one :class:`ConfigError`
line that names the file, the key, what is wrong and the nearest valid value.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from fluidwait.base.errors import LARGEST, ConfigError, nearest, short
from fluidwait.base.yaml_files import load_yaml


class Strict(BaseModel):
    """Base of every configuration model: unknown keys are errors, values are immutable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True)

    @field_validator("*", mode="after")
    @classmethod
    def _countable(cls, value: Any, info: ValidationInfo) -> Any:
        """Whole numbers are sizes and counts: beyond :data:`LARGEST` nothing can hold them. Seeds are only names."""
        wrong = next((n for n in _whole_numbers(value) if abs(n) > LARGEST), None)
        if wrong is not None and "seed" not in str(info.field_name):
            valid = LARGEST if wrong > 0 else -LARGEST
            raise ValueError(f"{wrong} is out of range (nearest valid value: {valid})")
        return value


def _whole_numbers(value: Any) -> Iterator[int]:
    """A whole number, or those in a list or in lists of lists."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _whole_numbers(part)


def one_line(words: str) -> str:
    """The words, if a figure or a table can print them."""
    if not words.isprintable() or not words.strip():
        raise ValueError("must be printable text on one line")
    return words


Words = Annotated[str, AfterValidator(one_line)]
"""What figures and tables call something."""


def of_one_policy(changes: dict[str, Any]) -> dict[str, Any]:
    """Changes of a policy's settings, if they leave it the policy that it is."""
    if "policy" in changes:
        raise ValueError("'policy' is no setting: another policy takes another file of config/policies under 'use'")
    return changes


Changes = Annotated[dict[str, Any], AfterValidator(of_one_policy)]
"""Settings of a policy that differ from those of its file."""

Model = TypeVar("Model", bound=BaseModel)


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


def _describe(error: ValidationError, model: type[BaseModel], data: dict[str, Any]) -> str:
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")  # a typo explains a missing key
    above = first["loc"][:-1]
    if first["type"].endswith("_type") and len(_keys(first["loc"], data, missing=False)) == len(
        _keys(above, data, False)
    ):
        # Of a member of a union: another member may have the right kind, and a mistake of its own.
        others = (e for e in error.errors() if e["loc"][: len(above)] == above and not e["type"].endswith("_type"))
        first = next(others, first)
    keys = _keys(first["loc"], data, first["type"] == "missing")
    kind, value, context = first["type"], first.get("input"), first.get("ctx", {})
    if kind.startswith("union_tag"):  # the mistake is in the key that chooses the member, or it is not there
        keys.append(context["discriminator"].strip("'"))
    key = ".".join(keys) or "(top level)"
    if kind == "extra_forbidden":
        valid = {name for candidate in _models_at(model, first["loc"][:-1]) for name in candidate.model_fields}
        return f"{key}: unknown key{nearest(keys[-1], list(valid))}"
    if kind == "missing":
        return f"{key}: required key is missing"
    if kind == "union_tag_not_found":
        tags = {tag for candidate in _models_at(model, first["loc"]) for tag in _tags(candidate, keys[-1])}
        return f"{key}: required key is missing{nearest('', list(tags))}"
    if kind in ("literal_error", "enum", "union_tag_invalid"):
        told = str(context.get("expected") or context.get("expected_tags") or "")
        names = [v.strip(" '") for v in told.replace(" or ", ", ").split(",") if v.strip(" '")]
        wrong = context.get("tag", value) if kind == "union_tag_invalid" else value
        return f"{key}: '{short(wrong)}' is not a valid value{nearest(str(wrong), names)}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    found = repr(value) if isinstance(value, int | float | bool | type(None)) else None
    if isinstance(value, str):
        found = f"'{short(value)}'"
    is_told = kind == "value_error" and found is not None and found in message  # by a validator of ours
    return f"{key}: {message}" + (f", found {found}" if found is not None and not is_told else "")


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
