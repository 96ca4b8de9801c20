"""Scheduling policies, one file each, behind the contract of :mod:`fluidwait.policies.contract`.

A policy file defines ``Settings`` (a pydantic model) and ``plan`` (a Numba function). It may also define

* ``prepare(settings, context) -> knobs`` when the knobs are not the settings themselves (thresholds from the fluid
  model, say); knobs are a named tuple of numbers and arrays,
* ``memory_size(knobs) -> int`` when the policy keeps anything between calls,
* ``reserved_tokens(knobs) -> int`` when it reserves memory for a whole sequence at admission,
* ``longest_prompt(knobs) -> int`` when it cannot admit a longer one,
* ``longest_output(knobs, kind) -> int64[N]`` when it knows no stage beyond that output for requests of that type,
* ``queue_depth(knobs) -> int`` when it runs in vLLM: waiting requests that an engine need show it, from the first on,
* ``engine_limits(knobs, block_size) -> (tokens, blocks)`` when its rule is vLLM's own but for the tokens of a batch and
  the KV blocks that admissions leave free: vLLM then schedules by itself within these limits.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from fluidwait.config import ConfigError, load_yaml, nearest, parse
from fluidwait.paths import project_root
from fluidwait.policies.contract import Context, PolicySettings

_NOT_POLICIES = {"contract"}


class Policy(NamedTuple):
    """A policy with its settings, ready to be prepared for a workload."""

    name: str
    module: ModuleType
    settings: PolicySettings

    def prepare(self, context: Context) -> Any:
        """The knobs for a workload, a rate and a machine; see ``prepare`` in the policy's file for the errors."""
        if hasattr(self.module, "prepare"):
            return self.module.prepare(self.settings, context)
        return _knobs_type(self.module)(**self.settings.model_dump())


def names() -> list[str]:
    """The policies that ship with fluidwait: every file of this folder but the contract."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_POLICIES)


def load_policy(spec: str | Path | dict[str, Any], source: str = "policy") -> Policy:
    """A policy from a mapping ``{policy: name or path.py, ...settings}``, a YAML file, or the name of one.

    A name without a folder means ``config/policies/<name>.yaml``; a path in ``policy:`` is relative to the project
    root.

    Raises:
        ConfigError: unknown policy or setting, value out of range, missing file.
    """
    if not isinstance(spec, dict):
        path = Path(spec)
        if path.suffix != ".yaml":
            path = project_root() / "config" / "policies" / f"{spec}.yaml"
        return load_policy(load_yaml(path), str(path))
    settings = dict(spec)
    name = settings.pop("policy", None)
    if not isinstance(name, str):
        raise ConfigError(f"{source}: policy: required key is missing (valid: {', '.join(names())})")
    module = _module(name, source)
    return Policy(Path(name).stem, module, parse(module.Settings, settings, source))


def _module(name: str, source: str) -> ModuleType:
    if not name.endswith(".py"):
        if name not in names():
            raise ConfigError(f"{source}: policy: '{name}' is not a policy{nearest(name, names())}")
        return importlib.import_module(f"{__name__}.{name}")
    path = (project_root() / name).resolve()
    if not path.is_file():
        raise ConfigError(f"{source}: policy: no such file {path}")
    qualified = f"fluidwait_policy_{path.stem}"
    loaded = sys.modules.get(qualified)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(qualified, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[qualified] = module
    try:
        spec.loader.exec_module(module)
        missing = [part for part in ("Settings", "plan") if not hasattr(module, part)]
        if missing:
            raise ConfigError(f"{source}: policy: {path} defines no '{missing[0]}'")
    except Exception as error:
        del sys.modules[qualified]
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{source}: policy: {path}: {type(error).__name__}: {error}") from error
    return module


def _knobs_type(module: ModuleType) -> type:
    """A named tuple with the settings' fields, kept in the module so that compiled code can find it again."""
    if not hasattr(module, "Knobs"):
        module.Knobs = namedtuple("Knobs", list(module.Settings.model_fields), module=module.__name__)
    return module.Knobs
