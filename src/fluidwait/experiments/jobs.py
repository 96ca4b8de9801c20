"""What the workflow needs to know about an experiment: its policies, which are tuned, and keys that say when to re-run.

A key is a hash over everything besides files that decides a result: resolved configuration, code, package versions.
Rules carry it as a parameter, so a changed setting or a changed source file re-runs exactly what depends on it.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from fluidwait.artifacts.canonical import config_hash
from fluidwait.artifacts.code import code_fingerprint, imported_modules
from fluidwait.artifacts.environment import package_versions
from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import project_root
from fluidwait.experiments import audit, bisection, boundaries, draw, fluid_tables, parameters, summary, trace
from fluidwait.experiments import check as checks
from fluidwait.experiments import figures as kinds
from fluidwait.experiments.draw import boundary_sizes, described
from fluidwait.experiments.experiment import Experiment, load_experiment
from fluidwait.experiments.setting import check_requests, resolve
from fluidwait.experiments.sweep import code_of, identity


@cache
def experiment(name: str) -> Experiment:
    return load_experiment(name)


@cache
def _setting(name: str):
    return resolve(experiment(name))


def policies(name: str) -> list[str]:
    return list(experiment(name).policies)


def is_tuned(name: str, policy: str) -> bool:
    """Whether the policy's grid is searched."""
    return experiment(name).entry(policy).grid is not None


def tuned(name: str) -> list[str]:
    """The policies whose grid is searched."""
    return [policy for policy in policies(name) if is_tuned(name, policy)]


def tuned_keys(names: list[str]) -> list[str]:
    """Keys of all tuned policies of several experiments.

    Raises:
        ConfigError: a key stands for a tuned policy in one experiment and for an untuned one in another, so that the
            workflow could not tell by the key which rule makes its results.
    """
    found = {key: name for name in names for key in tuned(name)}
    for name in names:
        for key in policies(name):
            if key in found and not is_tuned(name, key):
                other = f"experiment {found[key]}"
                raise ConfigError(f"experiment {name}: policies.{key}: no grid here, but one in {other}; rename one")
    return list(found)


def is_audited(name: str, scale: str) -> bool:
    """Whether Vidur repeats runs of the experiment at this scale."""
    return experiment(name).scale(scale).audit_requests > 0 and experiment(name).audit_share > 0


def has_boundary(name: str, scale: str) -> bool:
    """Whether λ* of the experiment's policies is searched at this scale."""
    return bisection.is_searched(experiment(name), scale)


def traced(name: str) -> list[str]:
    """The policies whose memory is recorded against time."""
    return experiment(name).traced()


def figures(name: str) -> list[str]:
    """Kinds of the experiment's figures."""
    return list(experiment(name).figures)


def figure_inputs(name: str, scale: str) -> list[str]:
    """Tables that the experiment's figures read."""
    folder = f"results/{scale}/{name}"
    paths = [
        path.as_posix()
        for kind in figures(name)
        for path in kinds.inputs(kind, folder, described(experiment(name), scale, kind))
    ]
    return list(dict.fromkeys(paths))


def check(names: list[str], scale: str) -> None:
    """Find every mistake in the configuration before any job starts.

    Raises:
        ConfigError: one line; see :func:`fluidwait.experiments.setting.resolve` and
            :func:`fluidwait.experiments.check.check`. Also when results or figures cannot be written.
    """
    for name in names:
        experiment(name)  # a mistake in its own file names that file
        with checks.named(f"experiment {name}"):
            setting = _setting(name)
        if setting.experiment.id != name:
            raise ConfigError(
                f"config/experiments/{name}.yaml: id: must be the name of the file, found '{setting.experiment.id}' "
                f"(nearest valid value: '{name}')"
            )
        check_requests(setting, scale)
        checks.check(setting, scale)
    for top in ("results", "figures"):
        _check_writable(project_root() / top)


def _check_writable(folder: Path) -> None:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        raise ConfigError(f"{folder}: cannot be written ({existing} is a file, not a folder)")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder}: cannot be written (no permission to write in {existing})")


@cache
def policy_key(name: str, policy: str, scale: str) -> str:
    """Key of a policy's runs."""
    setting = _setting(name)
    entry = setting.experiment.entry(policy).model_dump(mode="json", exclude={"label"})
    return _key(code_of(setting, policy), [identity(setting, policy, scale), entry])


@cache
def sweep_key(name: str, policy: str, scale: str) -> str:
    """Key of a policy's tuning, sweep, metrics and λ*."""
    setting = _setting(name)
    code = (*imported_modules("fluidwait.experiments.summary"), *bisection.code(setting, policy))
    searched = bisection.search_identity(setting, policy, scale)
    return _key(code, [policy_key(name, policy, scale), experiment(name).window, searched])


@cache
def trace_key(name: str, scale: str) -> str:
    """Key of an experiment's traces."""
    keys = [policy_key(name, policy, scale) for policy in traced(name)]
    return _key(imported_modules(trace.__name__), [keys, experiment(name).traces.model_dump(mode="json")])


@cache
def audit_key(name: str, scale: str) -> str:
    """Key of an experiment's audit."""
    keys = [policy_key(name, policy, scale) for policy in policies(name)]
    return _key(imported_modules(audit.__name__), [keys, audit.audit_identity(_setting(name), scale)])


@cache
def shared_key(name: str, scale: str, *modules: str) -> str:
    """Key of what ``modules`` compute for a whole experiment whatever its policies' settings: tables and figures."""
    whole = experiment(name).model_dump(mode="json", exclude={"policies", "audit_share"})
    labels = {key: entry.label for key, entry in experiment(name).policies.items()}
    sizes = experiment(name).scale(scale).model_dump(mode="json", exclude={"audit_requests"})
    seed = experiment(name).seed_at(scale)
    return _key(imported_modules(*modules), [whole | {"scales": sizes, "seed": seed, "labels": labels}])


@cache
def figures_key(name: str, scale: str) -> str:
    """Key of the experiment's figures."""
    return shared_key(name, scale, draw.__name__, *[f"fluidwait.experiments.figures.{kind}" for kind in figures(name)])


@cache
def bounds_key(names: tuple[str, ...]) -> str:
    """Key of the fluid bounds of several experiments."""
    bounds = {name: boundaries.bound_identity(_setting(name)) for name in names}
    return _key(imported_modules(boundaries.__name__), [bounds])


@cache
def boundaries_figure_key(names: tuple[str, ...], scale: str) -> str:
    """Key of the figure of all searched boundaries."""
    sizes = [boundary_sizes(experiment(name), scale) for name in names]
    return _key(imported_modules(draw.__name__, "fluidwait.experiments.figures.boundaries"), [sizes])


@cache
def summary_key(name: str, scale: str) -> str:
    """Key of the summary and of the stability boundaries, whose prediction asks every policy for its limits."""
    entries = experiment(name).model_dump(mode="json", include={"policies"})
    return _key(boundaries.code(_setting(name)), [entries, shared_key(name, scale, summary.__name__)])


@cache
def thresholds_key(names: tuple[str, ...], scale: str) -> str:
    """Key of the fluid model's tables of several experiments."""
    identities = [fluid_tables.fluid_identity(_setting(name), scale) for name in names]
    return _key(imported_modules(fluid_tables.__name__), identities)


@cache
def parameters_key(names: tuple[str, ...], scale: str) -> str:
    """Key of the table of all settings."""
    settings = [_setting(name) for name in names]
    return _key(parameters.code(settings), [parameters.settings_identity(setting, scale) for setting in settings])


def _key(modules: tuple[str, ...], parts: list) -> str:
    return config_hash({"parts": parts, "code": code_fingerprint(modules), "packages": package_versions()})[:16]
