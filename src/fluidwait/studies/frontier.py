"""E12: the runs of the policies and of the static ones that they are compared with, load by load.

Arrival rates are shares of the usable bound (:mod:`fluidwait.fluid.usable`). All policies meet the same requests.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import polars as pl

from fluidwait.artifacts.canonical import canonical_json
from fluidwait.artifacts.step import Artifact, names
from fluidwait.base.errors import named
from fluidwait.base.models import parse
from fluidwait.engines import core
from fluidwait.engines.core import Semantics, context_of
from fluidwait.engines.feasibility import check_requests, reservation
from fluidwait.engines.presets import most_tokens
from fluidwait.engines.simulator import Run, simulate
from fluidwait.fluid.calibrated import calibrated_boundary
from fluidwait.fluid.usable import usable_boundary
from fluidwait.policies import Policy
from fluidwait.stats.saturation import carried_share
from fluidwait.studies.e12 import E12
from fluidwait.studies.loads import LoadCase, measured
from fluidwait.studies.study import table_product
from fluidwait.workload import LengthLaw, Requests, Workload, check_fits, check_offered, input_files


class Case(LoadCase):
    """A load on the calibrated device.

    Raises:
        ConfigError: a file is missing or wrong, or requests do not fit the memory.
    """

    study: E12

    def __init__(self, study: E12, load: str):
        super().__init__(study, load)
        preset = getattr(core, study.loads[load].semantics)
        self.semantics: Semantics = preset(self.blocks, self.hardware.block_size, self.hardware.watermark)
        where = f"{self.where}: workload {self.workload.name}"
        check_fits(self.law, most_tokens(self.semantics), where, self.hardware.max_model_len)

    @property
    def kind(self) -> Any:
        """The name by which the fluid model knows the semantics."""
        return self.study.loads[self.load].semantics

    @cached_property
    def bound(self) -> float:
        """requests/s, the usable bound."""
        return self.usable(self.law)

    @cached_property
    def fluid_bound(self) -> float:
        """requests/s of the calibrated fluid model with all of the memory."""
        capacity = float(self.semantics.blocks * self.semantics.block_size)
        return calibrated_boundary(self.law, self.times, capacity, semantics=self.kind).rate

    def usable(self, law: LengthLaw) -> float:
        """requests/s, the usable bound of other lengths on this machine."""
        memory = (self.semantics.blocks, self.semantics.block_size, self.semantics.watermark)
        return usable_boundary(law, self.times, *memory, self.kind).rate

    def told(self, key: str) -> Workload:
        """The load's workload, with the outputs that the policy is told, if any."""
        predictions = self.study.policies[key].predictions
        if predictions is None:
            return self.workload
        whole = self.workload.model_dump(exclude_none=True) | {"predictions": predictions.model_dump()}
        return parse(Workload, whole, f"study {self.study.id}: policies.{key}: workload {self.workload.name}")

    def knobs(self, policy: Policy, rate: float, workload: Workload | None = None) -> Any:
        """The knobs of a policy that knows the law of the lengths, the rate, and how good its predictions are."""
        error = (workload or self.workload).prediction_error
        return policy.prepare(context_of(self.law, rate, self.times, self.hardware.linear, self.semantics, error))

    def run(self, policy: Policy, knobs: Any, requests: Requests) -> Run:
        """A run of the policy."""
        return simulate(requests, policy, knobs, self.times, self.semantics)


def check(study: E12, scale: str) -> None:
    """Find what no run could serve, before any is made.

    Raises:
        ConfigError: one line: study, load, policy, what is wrong.
    """
    study = study.at(scale)
    for load in study.loads:
        case = Case(study, load)
        rates = [(case.rate(share), study.requests_at(load, scale)) for share in study.shares_at(scale)]
        highest, most = case.rate(study.overload.share), study.overload_requests(load, scale)
        with named(case.where):
            for rate, n in (*rates, (highest, most)):
                check_offered(case.workload, n, rate, f"rate {rate:g}")
            case.requests(rates[0][0], 0, most, scale)
        served = [(f"policies.{key}", case.policy(key), case.told(key)) for key in study.served(load)]
        served += [("envelope.grid", policy, case.workload) for _, policy in every_static(case)]
        for name, policy, workload in served:
            with named(f"study {study.id}: {name} on loads.{load}"):
                knobs, requests = (
                    case.knobs(policy, highest, workload),
                    case.requests(highest, 0, most, scale, workload),
                )
                check_requests(requests, policy, knobs, reservation(policy, knobs, case.semantics))


# --- of the policies ------------------------------------------------------------------------------------------------


def runs(study: E12, load: str, scale: str) -> Artifact:
    """The runs of one load: a row for each policy, rate and replication, and for each run under overload.

    ``recomputed`` is the share of the computed tokens that had been computed before. ``carried`` is what an overloaded
    server carries, as a share of the usable bound (:func:`~fluidwait.stats.saturation.carried_share`); empty elsewhere.
    ``fluid_bound`` and ``usable_bound`` are requests/s.

    Args:
        study: at the scale.
    """
    case = Case(study, load)
    policies = [case.policy(key) for key in study.served(load)]
    told = {key: case.told(key).model_dump(mode="json") for key in study.served(load)}
    own = {"overload": study.overload.model_dump(), "overloaded": study.overload_requests(load, scale), "told": told}
    return table_product(
        lambda: _rows(case, scale),
        identity=study.identity(load, scale) | own | _resolved(case, scale, policies),
        module=__name__,
        rule="study_runs",
        inputs=names(input_files(case.workload)),
    )


def _resolved(case: Case, scale: str, policies: list[Policy]) -> dict[str, Any]:
    return case.identity(scale, policies) | {"semantics": case.semantics._asdict()}


def _rows(case: Case, scale: str) -> pl.DataFrame:
    study, load, found = case.study, case.load, []
    bounds = {"fluid_bound": case.fluid_bound, "usable_bound": case.bound}
    sizes = dict.fromkeys(study.shares_at(scale), study.requests_at(load, scale))
    for key in study.served(load):
        policy, workload = case.policy(key), case.told(key)
        for share, n in (*sizes.items(), (study.overload.share, study.overload_requests(load, scale))):
            knobs = case.knobs(policy, case.rate(share), workload)
            for replication in range(study.scale(scale).replications):
                requests = case.requests(case.rate(share), replication, n, scale, workload)
                row = {"workload": load, "share": share, "policy": key, "replication": replication}
                found.append(row | _run(case, policy, knobs, share, requests, tells=share not in sizes) | bounds)
    return pl.DataFrame(found, schema_overrides={"carried": pl.Float64})


def _run(case: Case, policy: Policy, knobs: Any, share: float, requests: Requests, tells: bool) -> dict[str, Any]:
    """What is measured of a run; of one that tells λ*, also what is carried."""
    run = case.run(policy, knobs, requests)
    row: dict[str, Any] = {"rate": case.rate(share), "requests": len(requests.arrival)}
    row |= measured(requests, run, case.study.window)
    row |= {"evictions": float(run.evictions.mean()), "recomputed": recomputed_share(requests, run, case.semantics)}
    return row | {"carried": carried_share(requests, run.completion, case.usable) if tells else None}


def recomputed_share(requests: Requests, run: Run, semantics: Semantics) -> float:
    """Of the tokens computed, the share that had been computed before and was dropped in an eviction."""
    assert run.recomputed is not None  # the simulator tells
    again, needed = int(run.recomputed.sum()), int(requests.output.sum())
    if not semantics.remote_prefill:
        needed += int(requests.prompt.sum()) - len(requests.output) * semantics.prefill_emits
    return again / (again + needed)


# --- of the static policies -----------------------------------------------------------------------------------------


def statics(study: E12, load: str, scale: str) -> Artifact:
    """The runs of the static policies of one load: a row for each setting, rate and replication.

    In the first pass every setting serves the first requests of one replication at every rate. All replications are run
    of the best of them, by mean latency; of settings that agree in the first pass to the last bit, of the first.

    Args:
        study: at the scale.
    """
    case = Case(study, load)
    policies = [policy for _, policy in every_static(case)]
    return table_product(
        lambda: _static_rows(case, scale),
        identity=study.envelope_identity(load, scale) | _resolved(case, scale, policies),
        module=__name__,
        rule="study_statics",
        inputs=names(input_files(case.workload)),
    )


def every_static(case: Case) -> list[tuple[str, Policy]]:
    """The static policies, each with its settings as text."""
    entry = case.study.envelope
    loaded = ((change, case.loaded(entry, "envelope.grid", change)) for change in entry.combinations())
    return [(canonical_json(change), policy) for change, policy in loaded]


def _static_rows(case: Case, scale: str) -> pl.DataFrame:
    rows = [row for share in case.study.shares_at(scale) for row in _static_rows_at(case, share, scale)]
    return pl.DataFrame(rows).drop("carried")


def _static_rows_at(case: Case, share: float, scale: str) -> list[dict[str, Any]]:
    """First a run of every setting, then all replications of the best."""
    study, rate = case.study, case.rate(share)
    known = {settings: (policy, case.knobs(policy, rate)) for settings, policy in every_static(case)}

    def run(settings: str, replication: int, n: int, final: bool) -> dict[str, Any]:
        requests = case.requests(rate, replication, n, scale)
        row = {"workload": case.load, "share": share, "settings": settings, "replication": replication, "final": final}
        return row | _run(case, *known[settings], share, requests, tells=False)

    n, first = study.requests_at(case.load, scale), study.first_requests(case.load, scale)
    tried = [run(settings, 0, first, final=False) for settings in known]
    distinct = {row["mean"]: row["settings"] for row in reversed(tried)}
    best = [distinct[mean] for mean in sorted(distinct)[: study.envelope.kept]]
    replications = range(study.scale(scale).replications)
    return tried + [run(settings, replication, n, final=True) for settings in best for replication in replications]
