"""E10, the configuration: loads at shares of what vLLM carries, and the policies that serve them in its scheduler."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from fluidwait.base.models import Strict
from fluidwait.studies.served import Entry, Load, Served, ServedScale


class Curve(Entry):
    """One policy."""

    learns: bool = Field(False, description="the plug-in's auto mode: limits from its own estimates of the traffic")


class Audit(Strict):
    """How much is repeated in vLLM's real scheduler."""

    share: float = Field(default=0.02, ge=0, le=1, description="share of the runs of each policy")
    requests: PositiveInt = Field(default=400, description="first requests of a run that are repeated")


class E10(Served):
    """See config/README.md for every key."""

    id: Literal["e10"]
    semantics: Literal["vllm", "vllm_sync"] = Field("vllm", description="with asynchronous scheduling, or without")
    loads: dict[str, Load] = Field(min_length=1)
    policies: dict[str, Curve] = Field(min_length=1)
    audit: Audit = Audit()
    scales: dict[str, ServedScale]
