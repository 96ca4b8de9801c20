"""E10, the configuration: loads at shares of what vLLM carries, and the policies that serve them in its scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from fluidwait.base.errors import nearest
from fluidwait.base.models import Changes, Strict, Words
from fluidwait.experiments.experiment import KEY, MOST_REPLICATIONS
from fluidwait.studies.study import Study
from fluidwait.workload import Positive


def _increasing(shares: list[float]) -> list[float]:
    if sorted(set(shares)) != shares:
        raise ValueError(f"must increase, found {shares}")
    return shares


Shares = Annotated[list[Positive], Field(min_length=1)]


class Load(Strict):
    """Requests of one workload, and the memory that they meet."""

    label: Words = Field(description="name in figures and tables")
    workload: str = Field(description="file in config/workloads, by name")
    requests: int = Field(ge=40, description="requests of a run")
    kv_blocks: PositiveInt | None = Field(None, description="KV blocks of the engine; without it, the hardware's")


class Curve(Strict):
    """One policy."""

    label: Words = Field(description="name in figures and tables")
    use: str = Field(description="name of a file in config/policies")
    settings: Changes = Field(default_factory=dict, description="settings that differ from that file")
    learns: bool = Field(False, description="the plug-in's auto mode: limits from its own estimates of the traffic")
    loads: list[str] | None = Field(None, min_length=1, description="keys of the loads that it serves; all without it")


class Audit(Strict):
    """How much is repeated in vLLM's real scheduler."""

    share: float = Field(default=0.02, ge=0, le=1, description="share of the runs of each policy")
    requests: PositiveInt = Field(default=400, description="first requests of a run that are repeated")


class E10Scale(Strict):
    """How much of E10 to run."""

    replications: int = Field(ge=2, le=MOST_REPLICATIONS)
    requests: float = Field(1.0, gt=0, le=1, description="share of the requests of every load")
    shares: Shares | None = Field(None, description="instead of the study's shares")


class E10(Study):
    """See config/README.md for every key."""

    id: Literal["e10"]
    hardware: str = Field(description="file in data/hardware, by name")
    semantics: Literal["vllm", "vllm_sync"] = Field("vllm", description="with asynchronous scheduling, or without")
    seed: int = Field(1, ge=0)
    window: float = Field(0.5, gt=0, le=1, description="share of the requests, in the middle, that is measured")
    shares: Shares = Field(description="arrival rates as shares of what the calibrated fluid model carries")
    loads: dict[str, Load] = Field(min_length=1)
    policies: dict[str, Curve] = Field(min_length=1)
    baseline: str = Field(description="key of the policy that the others are compared with")
    audit: Audit = Audit()
    scales: dict[str, E10Scale]

    @model_validator(mode="after")
    def _named(self) -> E10:
        _increasing(self.shares)
        for name, scale in self.scales.items():
            if scale.shares is not None:
                try:
                    _increasing(scale.shares)
                except ValueError as error:
                    raise ValueError(f"scales.{name}.shares: {error}") from None
        if self.baseline not in self.policies:
            raise ValueError(f"baseline: no policy '{self.baseline}'{nearest(self.baseline, list(self.policies))}")
        for key, curve in self.policies.items():
            for load in curve.loads or []:
                if load not in self.loads:
                    raise ValueError(f"policies.{key}.loads: no load '{load}'{nearest(load, list(self.loads))}")
        if self.policies[self.baseline].loads is not None:
            raise ValueError(f"policies.{self.baseline}.loads: the baseline serves every load; leave the key out")
        for kind, entries in (("loads", self.loads), ("policies", self.policies)):
            labels = [entry.label for entry in entries.values()]
            if twice := [label for label in labels if labels.count(label) > 1]:
                raise ValueError(f"{kind}: two have the same label, '{twice[0]}'")
        for key in (*self.loads, *self.policies):
            if not KEY.fullmatch(key):
                raise ValueError(f"'{key}': a key consists of letters, digits and _ . + -")
        return self

    def named_files(self) -> Iterator[tuple[str, str, str]]:
        yield "hardware", "data/hardware", self.hardware
        for key, load in self.loads.items():
            yield f"loads.{key}.workload", "config/workloads", load.workload
        for key, curve in self.policies.items():
            yield f"policies.{key}.use", "config/policies", curve.use

    def shares_at(self, scale: str) -> list[float]:
        """Shares of the boundary's rate at a scale."""
        return self.scale(scale).shares or self.shares

    def requests_at(self, load: str, scale: str) -> int:
        """Requests of a run."""
        return max(40, round(self.loads[load].requests * self.scale(scale).requests))

    def served(self, load: str) -> list[str]:
        """Keys of the policies that serve a load."""
        return [key for key, curve in self.policies.items() if curve.loads is None or load in curve.loads]

    def identity(self, load: str, scale: str) -> dict[str, Any]:
        """Everything in the configuration that decides the runs of a load."""
        whole = self.model_dump(mode="json", include={"id", "hardware", "semantics", "window", "loads", "policies"})
        curves = {key: whole["policies"][key] for key in self.served(load)}
        policies = {
            key: {k: v for k, v in curve.items() if k not in ("label", "loads")} for key, curve in curves.items()
        }
        return whole | {
            "loads": {load: {k: v for k, v in whole["loads"][load].items() if k != "label"}},
            "policies": policies,
            "shares": self.shares_at(scale),
            "requests": self.requests_at(load, scale),
            "replications": self.scale(scale).replications,
        }
