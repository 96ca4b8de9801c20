"""An experiment with everything that it names: hardware, workload, policies, semantics, loaded and checked."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fluidwait.config import load_yaml
from fluidwait.engines import core
from fluidwait.engines.core import Semantics
from fluidwait.experiments.experiment import Experiment
from fluidwait.hardware import Hardware, load_hardware
from fluidwait.paths import project_root
from fluidwait.policies import Policy, load_policy
from fluidwait.policies.contract import Context
from fluidwait.timing import TimeModel
from fluidwait.workload import LengthLaw, Requests, Workload, check_fits, generate, length_law, load_workload


class Setting(NamedTuple):
    """Everything about an experiment that its policies share, resolved."""

    experiment: Experiment
    hardware: Hardware
    workload: Workload
    law: LengthLaw
    time_model: TimeModel
    semantics: Semantics

    def requests(self, n: int, rate: float, seed: int, replication: int) -> Requests:
        """The same requests for every policy and engine."""
        return generate(self.workload, n=n, rate=rate, seed=seed, replication=replication)

    def context(self, rate: float) -> Context:
        """What policies derive their knobs from."""
        linear = self.hardware.timing.linear
        d0, d1 = (linear.d0, linear.d1) if linear else (np.nan, np.nan)  # refused by the policies that ask
        capacity = self.semantics.blocks * self.semantics.block_size
        rules = self.semantics
        return Context(self.law, rate, self.time_model, (d0, d1), capacity, rules.prefill_emits, rules.remote_prefill)

    def policy(self, key: str, change: dict[str, Any] | None = None) -> Policy:
        """The policy of an entry with its settings and, for a tuned one, the chosen combination."""
        entry = self.experiment.entry(key)
        base = load_yaml(project_root() / "config" / "policies" / f"{entry.use}.yaml")
        source = f"experiment {self.experiment.id}: policies.{key}"
        return load_policy(base | entry.settings | (change or {}), source)

    def own_policies(self) -> tuple[str, ...]:
        """Files of the user's that define policies of the experiment, from the project's root."""
        used = (self.policy(key, entry.combinations()[0]) for key, entry in self.experiment.policies.items())
        return tuple(sorted({policy.code for policy in used if policy.file is not None}))


def resolve(experiment: Experiment) -> Setting:
    """Load and check what the experiment names.

    Raises:
        ConfigError: a file is missing or wrong, or requests do not fit the KV memory.
    """
    hardware = load_hardware(experiment.hardware)
    if experiment.memory_margin is not None:
        hardware = hardware.with_margin(experiment.memory_margin)
    workload = load_workload(experiment.workload)
    if experiment.arrivals not in (None, workload.arrivals.process):
        workload = Workload.model_validate(
            workload.model_dump(mode="json") | {"arrivals": {"process": experiment.arrivals}}
        )
    law = length_law(workload)
    semantics = _semantics(experiment, hardware)
    usable = (semantics.blocks - semantics.watermark) * semantics.block_size
    check_fits(law, usable, f"experiment {experiment.id}: workload {workload.name}")
    return Setting(experiment, hardware, workload, law, hardware.time_model(experiment.time_model), semantics)


def _semantics(experiment: Experiment, hardware: Hardware) -> Semantics:
    if experiment.semantics == "paper":
        semantics = core.paper(hardware.kv_capacity_tokens, hardware.watermark)
    else:
        preset = core.decode if experiment.semantics == "decode" else core.serving
        semantics = preset(hardware.kv_blocks, hardware.block_size, hardware.watermark)
    if experiment.eviction is not None:
        semantics = semantics._replace(recompute=experiment.eviction == "recompute")
    return semantics
