"""Scheduling policies, one file each, behind the contract of :mod:`fluidwait.policies.contract`.

A policy file defines ``Settings`` (a pydantic model) and ``plan`` (a Numba function). It may also define

* ``prepare(settings, context) -> knobs`` when the knobs are not the settings themselves (thresholds from the fluid
  model, say); knobs are a named tuple of numbers and arrays,
* ``victim(view, knobs, out)``, a Numba function too, when memory shortage hits others than the newest,
* any function of :class:`fluidwait.policies.contract.Defaults` whose default is not right for it.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from fluidwait.base.errors import ConfigError, FluidwaitError, nearest
from fluidwait.base.models import parse
from fluidwait.base.paths import is_file, project_root
from fluidwait.base.yaml_files import load_yaml
from fluidwait.policies import file as policy_file
from fluidwait.policies.contract import PolicySettings
from fluidwait.policies.policy import Policy

_NOT_POLICIES = {"contract", "file", "policy", "tools"}


def names() -> list[str]:
    """The policies that ship with fluidwait: every file of this folder but those of the contract."""
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
        raise ConfigError(f"{source}: {policy_file.raised(Path(str(module.__file__)), error)}") from error


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
