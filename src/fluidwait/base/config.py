"""Reading configuration: strict models, and one clear line for every mistake.

Every user-facing setting is a field of a :class:`Strict` pydantic model, which is also the source of the JSON
Schemas under ``workflow/schemas``. :func:`parse` turns whatever pydantic finds wrong into one :class:`ConfigError`
line that names the file, the key, what is wrong and the nearest valid value.
"""

from __future__ import annotations

import csv
import difflib
import json
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

LARGEST = 1_000_000_000
"""Of any whole number that is read: sums and products of lengths then stay exact, and sizes can be counted up to."""

MOST_NAMES = 60
"""That a message lists."""

DEEPEST, MOST_VALUES = 100, 1_000_000
"""Of a YAML file; aliases count as often as they are used."""


class FluidwaitError(Exception):
    """A mistake of the user or of the input, told in one line. The command line prints it without a traceback."""


class ConfigError(FluidwaitError):
    """A configuration file or an input file that cannot be used as it is."""


class Strict(BaseModel):
    """Base of every configuration model: unknown keys are errors, values are immutable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True)

    @field_validator("*", mode="after")
    @classmethod
    def _countable(cls, value: Any, info: ValidationInfo) -> Any:
        """Whole numbers are sizes and counts: beyond :data:`LARGEST` nothing can hold them. Seeds are only names."""
        wrong = next((n for n in _whole_numbers(value) if abs(n) > LARGEST), None)
        if wrong is not None and "seed" not in info.field_name:
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


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, unreadable, not YAML, not a mapping, or gives a key twice.
    """
    data = parse_yaml(read_text(path), path)
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {found}")
    return data


def parse_yaml(text: str, source: str | Path) -> Any:
    """The value of a YAML text. A date stays the text that it is written as.

    Raises:
        ConfigError: not YAML, a key twice, aliases or depth without end, a number or character that no setting holds.
    """
    try:
        data = yaml.load(text, _Loader)
        _check_values(data, source)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "syntax error"
        raise ConfigError(f"{source}: not valid YAML{where}: {problem}") from None
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # a tag such as !!int before what is none
        raise ConfigError(f"{source}: not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{source}: not valid YAML: nested too deeply (at most {DEEPEST} levels)") from None
    return data


def _check_values(data: Any, source: str | Path) -> None:
    """Refuse what YAML can say and nothing here can use; the message names the key."""
    todo, seen = [((), data)], 0
    while todo:
        keys, value = todo.pop()
        seen += 1
        where = f"{source}: {'.'.join(map(str, keys)) or '(top level)'}"
        if len(keys) > DEEPEST or seen > MOST_VALUES:
            raise ConfigError(
                f"{source}: {keys[0]}: nested too deeply, or aliases without end (at most {DEEPEST} levels)"
            )
        if isinstance(value, dict):
            todo += [((*keys, _shown(key)), part) for key, part in value.items()]
            todo += [((*keys, _shown(key)), key) for key in value if isinstance(key, str)]
        elif isinstance(value, list):
            todo += [((*keys, i), part) for i, part in enumerate(value)]
        elif isinstance(value, int) and abs(value) >= 2**63:
            raise ConfigError(f"{where}: a whole number beyond 64 bits (nearest valid value: {LARGEST})")
        elif isinstance(value, str) and (wrong := next(filter(_is_control, value), None)) is not None:
            raise ConfigError(f"{where}: holds the character U+{ord(wrong):04X}, which is no text")


def _shown(key: Any) -> str:
    return "".join("?" if _is_control(c) else c for c in str(key))[:60]


def _is_control(character: str) -> bool:
    """NUL and the like, and halves of surrogate pairs, which neither files nor screens can be given."""
    return (character < " " and character not in "\n\t\r") or "\ud800" <= character <= "\udfff"


# --- text files ------------------------------------------------------------------------------------------------------

_LOOKS_LIKE = {
    b"\x1f\x8b": "compressed with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"PAR1": "Parquet",
    b"ARROW1": "an Arrow file",
    b"%PDF": "PDF",
    b"\x89PNG": "PNG",
    b"\x89HDF": "HDF5",
    b"SQLite": "an SQLite database",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}
"""First bytes of what is taken for text by mistake."""


def read_text(path: str | Path, kind: str = "text") -> str:
    """The text of a UTF-8 file, without a byte order mark. The only place where text files are read.

    Args:
        kind: what the text should be, for the message.

    Raises:
        ConfigError: the file is missing, unreadable, or not UTF-8; says what it looks like instead.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):  # /dev/zero never ends
            raise ConfigError(f"{path}: cannot be read as {kind} (a device, not a file)")
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{_nearest(path.name, _siblings(path))}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigError(f"{path}: cannot be read as {kind} ({getattr(error, 'strerror', None) or error})") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read as {kind} ({_not_text(content, error)})") from None


def _not_text(content: bytes, error: UnicodeDecodeError) -> str:
    for start, kind in _LOOKS_LIKE.items():
        if content.startswith(start):
            return f"it looks like {kind}; UTF-8 text is needed"
    line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
    kind = "binary data" if b"\0" in content else "text in another encoding"
    return f"line {line}: byte 0x{byte:02x} is not UTF-8; it looks like {kind}"


def read_json(path: str | Path) -> Any:
    """The value of a JSON file.

    Raises:
        ConfigError: what :func:`read_text` raises, or it is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from None


def csv_lines(path: str | Path) -> Iterator[str]:
    """Lines of a CSV file as they are, one at a time; the errors of :func:`read_text`."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            yield from file
    except (OSError, ValueError):  # a UnicodeDecodeError is a ValueError
        read_text(path, "CSV text")  # says what is wrong
        raise


def csv_records(path: str | Path, above: int = 0, **dialect: Any) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every record of a CSV file below its first ``above`` lines.

    Raises:
        ConfigError: what :func:`read_text` raises, or a quote without end.
    """
    reader, line = csv.reader(islice(csv_lines(path), above, None), **dialect), above + 1
    try:
        for record in reader:
            yield line, record
            line = above + 1 + reader.line_num
    except csv.Error as error:
        told = f"{error}: a quote without end?" if "field larger" in str(error) else str(error)
        raise ConfigError(f"{path}: line {line}: cannot be read as CSV text ({told})") from None


# --- models ----------------------------------------------------------------------------------------------------------


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
    """YAML's own safe loader keeps the last of two equal keys without a word; this one refuses them.

    It also makes dates of what looks like one, which no setting is, and fails at the 30th of February.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' again", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _whole(loader: yaml.SafeLoader, node: yaml.Node) -> int:
    try:
        return loader.construct_yaml_int(node)
    except ValueError:  # Python reads no more than 4,300 digits
        problem = f"not a whole number that can be read (nearest valid value: {LARGEST})"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


_Loader.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)


def short(value: Any) -> str:
    """A wrong value for a message: on one line, and not longer than tells what it is."""
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(word: str, valid: list[str] | tuple[str, ...]) -> str:
    """`` (did you mean 'x'?)``, or the valid names when none is near; empty when there are none."""
    return _nearest(word, list(valid))


def _nearest(word: str, valid: list[str]) -> str:
    if not valid:
        return ""
    close = difflib.get_close_matches(str(word), valid, n=1, cutoff=0.5)
    if close:
        return f" (did you mean '{short(close[0])}'?)"
    listed = ", ".join(map(short, sorted(valid)[:MOST_NAMES]))
    return f" (valid: {listed}{', ...' if len(valid) > MOST_NAMES else ''})"


def _siblings(path: Path) -> list[str]:
    try:
        near = [p.name for p in path.parent.iterdir()]
    except OSError:
        return []
    return difflib.get_close_matches(path.name, near, n=1, cutoff=0.5)


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
        return f"{key}: '{short(wrong)}' is not a valid value{_nearest(str(wrong), names)}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    found = repr(value) if isinstance(value, int | float | bool | type(None)) else None
    if isinstance(value, str):
        found = f"'{short(value)}'"
    told = kind == "value_error" and found is not None and found in message  # by a validator of ours
    return f"{key}: {message}" + (f", found {found}" if found is not None and not told else "")


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
