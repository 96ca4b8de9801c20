"""Mistakes in an experiment that its configuration alone reveals, found before any of its jobs starts."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from fluidwait.base.errors import ConfigError, named
from fluidwait.engines import rehearsal
from fluidwait.engines.feasibility import check_requests, reservation
from fluidwait.engines.learning import check_learns
from fluidwait.engines.v1.rules import Rules
from fluidwait.experiments import bisection
from fluidwait.experiments.experiment import KEY, Experiment
from fluidwait.experiments.kinds import figure_kinds, table_kinds
from fluidwait.experiments.setting import Setting
from fluidwait.policies import Policy
from fluidwait.workload import MixtureLengths, Requests

KINDS = {"figures": figure_kinds, "tables": table_kinds}
"""The kinds that an experiment asks for, by the key that lists them."""


def check(setting: Setting, scale: str) -> None:
    """Check one experiment at a scale.

    Raises:
        ConfigError: one line: file, key, what is wrong, nearest valid value.
    """
    experiment = setting.experiment
    with named(f"experiment {experiment.id}"):
        experiment.scale(scale)
        bisection.check(setting, scale)
        _check_labels(experiment)
        for listed in KINDS:
            check_kinds(setting, scale, listed)
        _check_traces(experiment, scale)
        drawn = _most_requests(setting, scale)
        _check_auditor(setting, scale)
        for key in experiment.policies:
            if not KEY.fullmatch(key):
                raise ConfigError(f"policies: '{key}': a key consists of letters, digits and _ . + -")
            check_policy(setting, key, scale, drawn)


def _check_labels(experiment: Experiment) -> None:
    from fluidwait.drawing import style  # takes long to import, and a job draws no labels

    style.check_words((entry.label for entry in experiment.policies.values()), "policies")


def check_kinds(setting: Setting, scale: str, listed: str) -> None:
    """The figures or the tables asked for: whether there are such, and whether the experiment has what they need.

    Raises:
        ConfigError: as of :func:`check`.
    """
    with named(f"experiment {setting.experiment.id}"), named(listed):
        for kind in KINDS[listed](setting.experiment):
            if hasattr(kind.module, "check"):
                kind.module.check(setting, scale)


def _check_auditor(setting: Setting, scale: str) -> None:
    """Under vLLM's rules the audit needs vLLM, which need not be installed."""
    audited = setting.experiment.scale(scale).audit_requests > 0 and setting.experiment.audit_share > 0
    if audited and isinstance(setting.semantics, Rules) and find_spec("vllm") is None:
        raise ConfigError(
            f"scales.{scale}.audit_requests: under '{setting.experiment.semantics}' the audit needs vLLM, which is not "
            "installed (./run.sh setup-vllm; nearest valid value: 0)"
        )


def _check_traces(experiment: Experiment, scale: str) -> None:
    """A tuned policy has winners at the rates of the sweep only."""
    rates = experiment.rates_at(scale)
    for key in experiment.traced():
        for rate in experiment.traces_of(key).rates if experiment.entry(key).grid else ():
            if rate not in rates:
                close = min(rates, key=lambda other: abs(other - rate))
                raise ConfigError(
                    f"traces.rates: {rate:g} is not a rate of the sweep, where '{key}' is tuned "
                    f"(nearest valid value: {close:g})"
                )


def _most_requests(setting: Setting, scale: str) -> Requests:
    """The requests of a run of the most that any asks for, at the highest rate: a recorded trace may have too few."""
    experiment = setting.experiment
    sizes = experiment.scale(scale)
    asked = {"requests": max(experiment.horizons_at(scale))}
    if any(entry.grid for entry in experiment.policies.values()):
        asked["tuning_requests"] = sizes.tuned_requests
    if bisection.is_searched(experiment, scale):
        asked["boundary.requests"] = experiment.boundary_requests_at(scale)
    name = max(asked, key=asked.__getitem__)
    with named(f"scales.{scale}.{name}"):
        return setting.requests(asked[name], experiment.rates_at(scale)[-1], experiment.seed_at(scale), 0)


def check_policy(setting: Setting, key: str, scale: str, drawn: Requests | None = None) -> None:
    """Its settings, the lengths that it takes, and, of a file of the user's, a rehearsal on the requests ``drawn``.

    Raises:
        ConfigError: as of :func:`check`.
    """
    rates = setting.experiment.rates_at(scale)
    with named(f"experiment {setting.experiment.id}"), named(f"policies.{key}"):
        combinations = setting.experiment.entry(key).combinations()
        _check_grid(setting, key, combinations[0])
        for rate in dict.fromkeys((rates[0], rates[-1])):
            policy, knobs = _feasible(setting, key, combinations, rate)
        if policy.file is not None:
            drawn = _most_requests(setting, scale) if drawn is None else drawn
            rehearsal.rehearse(drawn, policy, knobs, setting.time_model, setting.semantics)


def _check_grid(setting: Setting, key: str, first: dict[str, Any]) -> None:
    """A value that no setting may have is a mistake; a combination that the policy refuses is passed over."""
    for name, values in (setting.experiment.entry(key).grid or {}).items():
        for value in values:
            try:
                setting.policy(key, first | {name: value})
            except ConfigError as error:
                if f": {name}: " in str(error):
                    where = f"policies.{key}"
                    raise ConfigError(str(error).replace(where, f"{where}.grid", 1)) from error.__cause__


def _feasible(setting: Setting, key: str, combinations: list[dict[str, Any]], rate: float) -> tuple[Policy, Any]:
    """The first combination that serves every request, with its knobs; the reason of the first when none does."""
    reason: ConfigError | None = None
    for change in combinations:
        try:
            policy = setting.policy(key, change)
            if setting.experiment.entry(key).learns:
                check_learns(policy, setting.semantics)
            knobs = policy.prepare(setting.context(rate))
            semantics = reservation(policy, knobs, setting.semantics)
            check_requests(_every_length(setting), policy, knobs, semantics)
            return policy, knobs
        except ConfigError as error:
            reason = reason or error
    raise reason or ConfigError(f"policies.{key}: no combination of settings")


def _every_length(setting: Setting) -> Requests:
    """A request of every kind and length that can come, at time 0."""
    prompt, output = (getattr(setting.law, name).astype(np.int64) for name in ("prompt", "output"))
    each = np.arange(len(prompt)) if isinstance(setting.workload.lengths, MixtureLengths) else np.zeros_like(prompt)
    return Requests(np.zeros(len(prompt)), prompt, output, each)
