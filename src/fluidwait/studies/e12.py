"""E12, the configuration: how close to what a server can carry each policy comes, and how fast it is below that."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from fluidwait.base.models import Strict
from fluidwait.experiments.experiment import Grid, PolicyEntry
from fluidwait.studies.served import FEWEST, Entry, Load, Served, ServedScale
from fluidwait.workload import Positive


class FrontierLoad(Load):
    """Requests of one workload, and the memory that they meet."""

    semantics: Literal["serving", "decode"] = Field("serving", description="decode: prompts come prefilled")


class Predictions(Strict):
    """What a policy is told of the output lengths."""

    error: float = Field(ge=0, allow_inf_nan=False, description="sd of the log of predicted / true length; 0: known")


class Curve(Entry):
    """One policy."""

    predictions: Predictions | None = Field(None, description="outputs that it is told; without it, none")

    @property
    def lengths(self) -> Literal["known", "predicted", "unknown"]:
        """What it knows of the outputs of single requests."""
        if self.predictions is None:
            return "unknown"
        return "predicted" if self.predictions.error > 0 else "known"


class Overload(Strict):
    """The runs that tell λ*."""

    share: float = Field(
        default=1.2, gt=1, allow_inf_nan=False, description="arrival rate, as a share of the usable bound"
    )
    requests: Positive = Field(default=2.0, description="times the requests of the load")


class Envelope(PolicyEntry):
    """The static policies of which the best one at every rate is the envelope."""

    grid: Grid = Field(description="settings to try in all combinations at every rate")
    first: float = Field(0.5, gt=0, le=1, description="share of the requests in the first pass, a run of each")
    kept: PositiveInt = Field(8, description="of the best of the first pass, all replications are run")


class Drawn(Strict):
    """What the figure of the envelope shows."""

    loads: list[str] = Field(min_length=1, description="keys, a panel each")
    policies: list[str] = Field(min_length=1, description="keys")


class E12Scale(ServedScale):
    """How much of E12 to run."""

    loads: list[str] | None = Field(None, min_length=1, description="keys of the loads; all without it")
    policies: list[str] | None = Field(None, min_length=1, description="keys of the policies; all without it")
    grid: Grid | None = Field(None, description="instead of the envelope's")


class E12(Served):
    """See config/README.md for every key."""

    id: Literal["e12"]
    loads: dict[str, FrontierLoad] = Field(min_length=1)
    policies: dict[str, Curve] = Field(min_length=1)
    overload: Overload = Overload()
    envelope: Envelope
    compared: Positive = Field(0.85, description="the one of the shares at which the table names the change of latency")
    drawn: Drawn
    scales: dict[str, E12Scale]

    @model_validator(mode="after")
    def _scales_fit(self) -> E12:
        for kind in ("loads", "policies"):
            for key in getattr(self.drawn, kind):
                self.check_key(f"drawn.{kind}", key, kind)
        for name, scale in self.scales.items():
            for kind in ("loads", "policies"):
                for key in getattr(scale, kind) or []:
                    self.check_key(f"scales.{name}.{kind}", key, kind)
            if self.baseline not in (scale.policies or [self.baseline]):
                raise ValueError(f"scales.{name}.policies: the baseline, '{self.baseline}', is missing")
            shares = scale.shares or self.shares
            if self.compared not in shares:
                close = min(shares, key=lambda share: abs(share - self.compared))
                raise ValueError(
                    f"compared: {self.compared:g} is none of the shares of scale '{name}' "
                    f"(nearest valid value: {close:g})"
                )
        return self

    def at(self, scale: str) -> E12:
        """The study with the loads, the policies and the grid of a scale, and nothing else."""
        sizes: E12Scale = self.scale(scale)
        changes: dict[str, Any] = {}
        for kind in ("loads", "policies"):
            chosen = getattr(sizes, kind)
            if chosen is not None:
                changes[kind] = {key: entry for key, entry in getattr(self, kind).items() if key in chosen}
        if sizes.grid is not None:
            changes["envelope"] = self.envelope.model_copy(update={"grid": sizes.grid})
        return self.model_copy(update=changes)

    def overload_requests(self, load: str, scale: str) -> int:
        """Requests of a run that tells λ*."""
        return max(FEWEST, round(self.requests_at(load, scale) * self.overload.requests))

    def first_requests(self, load: str, scale: str) -> int:
        """Requests of a run of the envelope's first pass."""
        return max(FEWEST, round(self.requests_at(load, scale) * self.envelope.first))

    def envelope_identity(self, load: str, scale: str) -> dict[str, Any]:
        """Everything in the configuration that decides the static runs of a load."""
        envelope = self.envelope.model_dump(mode="json", exclude={"label"})
        return self.identity(load, scale) | {"policies": {}, "envelope": envelope}
