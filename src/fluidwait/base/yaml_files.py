"""YAML files, without what YAML can say and no setting holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fluidwait.base.errors import LARGEST, ConfigError
from fluidwait.base.text_files import read_text

DEEPEST, MOST_VALUES = 100, 1_000_000
"""Of a YAML file; aliases count as often as they are used."""


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
    todo: list[tuple[tuple[str | int, ...], Any]] = [((), data)]
    seen = 0
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


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the compiled parser is ten times faster


class _Loader(_SafeLoader):
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
