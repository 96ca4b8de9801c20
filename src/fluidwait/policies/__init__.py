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
import pkgutil
from collections import namedtuple
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from fluidwait.base.errors import ConfigError, FluidwaitError, nearest
from fluidwait.base.models import parse
from fluidwait.base.paths import is_file, project_root
from fluidwait.base.yaml_files import load_yaml
from fluidwait.policies import file as policy_file
from fluidwait.policies.contract import Context, PolicySettings

_NOT_POLICIES = {"contract", "file"}


class Policy(NamedTuple):
    """A policy with its settings, ready to be prepared for a workload."""

    name: str
    module: ModuleType
    settings: PolicySettings

    def prepare(self, context: Context) -> Any:
        """The knobs for a workload, a rate and a machine; see ``prepare`` in the policy's file for the errors."""
        if hasattr(self.module, "prepare"):
            knobs = self.module.prepare(self.settings, context)
        else:
            knobs = _knobs_type(self.module)(**self.settings.model_dump())
        if self.file is not None:
            policy_file.check_knobs(knobs, self.file)
        return knobs

    @property
    def file(self) -> Path | None:
        """The file of a policy that does not ship with fluidwait."""
        return None if self.module.__name__.startswith(f"{__name__}.") else Path(self.module.__file__)

    @property
    def use(self) -> str:
        """What stands after ``policy:``: the name of a policy that ships, or a path from the project's root."""
        return self.name if self.file is None else policy_file.shown(self.file)

    @property
    def code(self) -> str:
        """The module, or the file; :func:`~fluidwait.artifacts.code.imported_modules` finds what it imports."""
        return self.module.__name__ if self.file is None else self.use


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
    module = find_module(name, source)
    return Policy(Path(name).stem, module, _settings(module, settings, source))


def _settings(module: ModuleType, settings: dict[str, Any], source: str) -> PolicySettings:
    """The settings; what goes wrong in a validator of the user's is a mistake in that file."""
    try:
        return parse(module.Settings, settings, source)
    except FluidwaitError:
        raise
    except Exception as error:
        if module.__name__.startswith(f"{__name__}."):
            raise
        raise ConfigError(f"{source}: {policy_file.raised(Path(module.__file__), error)}") from error


def find_module(name: str, source: str) -> ModuleType:
    """The module of a policy by what stands after ``policy:``, a name or a path; ``source`` is where it stands.

    Raises:
        ConfigError: there is no such policy, or a mistake in its file.
    """
    if not name.endswith(".py"):
        if name not in names():
            raise ConfigError(f"{source}: policy: '{name}' is not a policy{nearest(name, names())}")
        return importlib.import_module(f"{__name__}.{name}")
    path = (project_root() / name).resolve()
    if not is_file(path):
        near = sorted(policy_file.shown(other) for other in path.parent.glob("*.py"))
        raise ConfigError(f"{source}: policy: no such file {path}{nearest(name, near)}")
    if path.stem in names():  # figures, tables and Vidur tell policies by this name
        raise ConfigError(f"{source}: policy: {name}: '{path.stem}' is a policy that ships; give the file another name")
    try:
        return policy_file.load_module(path)
    except ConfigError as error:
        raise ConfigError(f"{source}: policy: {error}") from error.__cause__


def _knobs_type(module: ModuleType) -> type:
    """A named tuple with the settings' fields, kept in the module so that compiled code can find it again."""
    if not hasattr(module, "Knobs"):
        module.Knobs = namedtuple("Knobs", list(module.Settings.model_fields), module=module.__name__)
    return module.Knobs
