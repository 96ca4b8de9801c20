"""What E10 and E12 share in their configuration: loads at shares of a bound, and the policies that serve them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from fluidwait.base.errors import nearest
from fluidwait.base.models import Changes, Strict, Words
from fluidwait.experiments.experiment import KEY, MOST_REPLICATIONS
from fluidwait.studies.study import Study
from fluidwait.workload import Positive

FEWEST = 40
"""Requests of a run, at least."""


def _increasing(shares: list[float]) -> list[float]:
    if sorted(set(shares)) != shares:
        raise ValueError(f"must increase, found {shares}")
    return shares


Shares = Annotated[list[Positive], Field(min_length=1), AfterValidator(_increasing)]


class Load(Strict):
    """Requests of one workload, and the memory that they meet."""

    label: Words = Field(description="name in figures and tables")
    workload: str = Field(description="file in config/workloads, by name")
    requests: int = Field(ge=FEWEST, description="requests of a run")
    kv_blocks: PositiveInt | None = Field(None, description="KV blocks of the engine; without it, the hardware's")


class Entry(Strict):
    """One policy."""

    label: Words = Field(description="name in figures and tables")
    use: str = Field(description="name of a file in config/policies")
    settings: Changes = Field(default_factory=dict, description="settings that differ from that file")
    loads: list[str] | None = Field(None, min_length=1, description="keys of the loads that it serves; all without it")


class ServedScale(Strict):
    """How much to run."""

    replications: int = Field(ge=2, le=MOST_REPLICATIONS)
    requests: float = Field(1.0, gt=0, le=1, description="share of the requests of every load")
    shares: Shares | None = Field(None, description="instead of the study's shares")


class Served(Study):
    """A study of policies that serve loads; each adds its own loads, policies and scales."""

    hardware: str = Field(description="file in data/hardware, by name")
    seed: int = Field(1, ge=0)
    window: float = Field(0.5, gt=0, le=1, description="share of the requests, in the middle, that is measured")
    shares: Shares = Field(description="arrival rates as shares of what the calibrated fluid model carries")
    loads: dict[str, Any] = Field(min_length=1)
    policies: dict[str, Any] = Field(min_length=1)
    baseline: str = Field(description="key of the policy that the others are compared with")

    @model_validator(mode="after")
    def _named(self) -> Served:
        self.check_key("baseline", self.baseline, "policies")
        for key, entry in self.policies.items():
            for load in entry.loads or []:
                self.check_key(f"policies.{key}.loads", load, "loads")
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
        for key, entry in self.policies.items():
            yield f"policies.{key}.use", "config/policies", entry.use

    def check_key(self, where: str, key: str, kind: str) -> None:
        """Whether ``loads`` or ``policies`` (``kind``) have this key, which stands at ``where``.

        Raises:
            ValueError: they have not; with the nearest.
        """
        known = getattr(self, kind)
        if key not in known:
            one = {"loads": "load", "policies": "policy"}[kind]
            raise ValueError(f"{where}: no {one} '{key}'{nearest(key, list(known))}")

    def shares_at(self, scale: str) -> list[float]:
        """Shares of the bound at a scale."""
        return self.scale(scale).shares or self.shares

    def requests_at(self, load: str, scale: str) -> int:
        """Requests of a run."""
        return max(FEWEST, round(self.loads[load].requests * self.scale(scale).requests))

    def served(self, load: str) -> list[str]:
        """Keys of the policies that serve a load."""
        return [key for key, entry in self.policies.items() if entry.loads is None or load in entry.loads]

    def identity(self, load: str, scale: str, *also: str) -> dict[str, Any]:
        """Everything in the configuration that decides the runs of a load; ``also`` names keys of the study's own."""
        whole = self.model_dump(mode="json", include={"id", "hardware", "window", "loads", "policies", *also})
        policies = {
            key: {k: v for k, v in whole["policies"][key].items() if k not in ("label", "loads")}
            for key in self.served(load)
        }
        return whole | {
            "loads": {load: {k: v for k, v in whole["loads"][load].items() if k != "label"}},
            "policies": policies,
            "shares": self.shares_at(scale),
            "requests": self.requests_at(load, scale),
            "replications": self.scale(scale).replications,
        }

    @property
    def labels(self) -> dict[str, str]:
        """Names of the policies, by key."""
        return {key: entry.label for key, entry in self.policies.items()}

    @property
    def load_labels(self) -> dict[str, str]:
        """Names of the loads, by key."""
        return {key: load.label for key, load in self.loads.items()}
