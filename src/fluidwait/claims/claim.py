"""What a claim is: a statement, and checks that decide whether it reproduces; read from one YAML file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from fluidwait.base.models import Strict, load
from fluidwait.base.paths import project_root

NAME = re.compile(r"\b([a-z]\w*)\.[a-z]\w*")  # policy.column in an SQL expression


class Expect(Strict):
    """What the paper leads one to expect of a value: exactly one of the kinds below.

    The first four hold unless the 95 % interval contradicts them, so that a value at the edge of its tolerance is not
    judged by the luck of its seeds. ``below`` and ``above`` must be shown: the whole interval lies on that side.
    """

    near: float | None = Field(None, description="the paper's value, met up to `within`")
    within: float | None = Field(None, ge=0, description="the tolerance of `near`")
    between: tuple[float, float] | None = Field(None, description="the paper's range")
    at_least: float | None = None
    at_most: float | None = None
    below: float | None = Field(None, description="the whole interval lies below")
    above: float | None = Field(None, description="the whole interval lies above")
    exactly: float | None = Field(None, description="every single run has this value")

    @model_validator(mode="after")
    def _one_kind(self):
        kinds = [name for name in type(self).model_fields if name != "within" and getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError("give exactly one of near, between, at_least, at_most, below, above, exactly")
        if (self.near is None) != (self.within is None):
            raise ValueError("near and within go together")
        if self.between and self.between[0] > self.between[1]:
            raise ValueError("between: the smaller bound comes first")
        return self

    @property
    def kind(self) -> str:
        return next(n for n in type(self).model_fields if n != "within" and getattr(self, n) is not None)

    def band(self) -> tuple[float, float]:
        """Lowest and highest value that the paper allows."""
        infinity = float("inf")
        if self.near is not None and self.within is not None:
            return self.near - self.within, self.near + self.within
        if self.between is not None:
            return self.between
        if self.exactly is not None:
            return self.exactly, self.exactly
        low = self.at_least if self.at_least is not None else self.above
        high = self.at_most if self.at_most is not None else self.below
        return (-infinity if low is None else low), (infinity if high is None else high)


class Change(Strict):
    """The difference between two points of a sweep, within each replication: value at `to` less value at `from`."""

    over: Literal["rate", "requests"]
    start: float = Field(alias="from")
    stop: float = Field(alias="to")


class Check(Strict):
    """One number of a claim: how to compute it, from which artifact, and what is expected of it."""

    quantity: str = Field(description="what is measured, in neutral words")
    unit: str = ""
    value: str = Field(description="SQL expression; policy.column is a column of the policy's table of runs")
    runs: Literal["metrics", "boundary"] = Field("metrics", description="which tables of runs: one row per replication")
    table: str | None = Field(None, description="a table of the experiment, or a file of data/, instead of runs")
    where: str | None = Field(None, description="SQL condition on the rows")
    least: str | None = Field(None, description="judge only the row in which this column is least")
    each: str | None = Field(None, description="must hold at every value of this column")
    change: Change | None = Field(None, description="judge the change of the value between two points")
    low: str | None = Field(None, description="SQL expressions of the interval, for a table that carries its own")
    high: str | None = None
    experiment: str | None = Field(None, description="instead of the claim's")
    expect: Expect
    why: str = Field(description="where the expectation and its tolerance come from")

    @model_validator(mode="after")
    def _source(self):
        if self.table is None and not self.policies:
            raise ValueError("value names no policy (as in wait.mean_latency), and there is no table")
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high go together")
        if self.each and self.change:
            raise ValueError("each and change exclude one another")
        return self

    @property
    def policies(self) -> list[str]:
        """Policies that the value compares, in order of appearance."""
        return [] if self.table else list(dict.fromkeys(NAME.findall(self.value)))


class Remedy(Strict):
    """Another setting under which the checks of a claim are tried again."""

    setting: str = Field(description="the setting, in words")
    experiments: dict[str, str] = Field(default_factory=dict, description="experiments instead of the checks' own")
    policies: dict[str, str] = Field(default_factory=dict, description="policies instead of the checks' own")

    @model_validator(mode="after")
    def _something(self):
        if not self.experiments and not self.policies:
            raise ValueError("a remedy replaces experiments, policies or both")
        return self

    def applied(self, check: Check, experiment: str) -> Check | None:
        """The check under this setting; None for one that the setting leaves as it is."""
        own = check.experiment or experiment
        changed = {"experiment": self.experiments.get(own, own)}
        for text in ("value", "where", "low", "high", "least"):
            if getattr(check, text):
                changed[text] = self._renamed(getattr(check, text))
        again = check.model_copy(update=changed)
        same = again == check.model_copy(update={"experiment": own})
        return None if same or (self.experiments and own not in self.experiments) else again

    def _renamed(self, text: str) -> str:
        """All names at once: one after the other, a swap of two would end with both the same."""
        if not self.policies:
            return text
        old = "|".join(map(re.escape, self.policies))
        return re.sub(rf"(?<![\w.])(?:{old})(?=\.)|(?<=')(?:{old})(?=')", lambda m: self.policies[m.group()], text)


class Claim(Strict):
    """A statement of the paper in our own words and the checks that decide about it, the headline first."""

    id: str = Field(pattern=r"^C\d+$")
    statement: str
    experiment: str
    recording: str | None = Field(None, description="pattern of the folder in data/gpu that the checks' tables lie in")
    checks: list[Check] = Field(min_length=1)
    remedies: list[Remedy] = []


class ClaimFile(Strict):
    """``paper/claims.yaml``."""

    claims: list[Claim] = Field(min_length=1)

    @field_validator("claims")
    @classmethod
    def _unique(cls, claims):
        names = [claim.id for claim in claims]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{twice[0]} is there twice")
        return claims


def claims_path() -> Path:
    """``paper/claims.yaml`` of the project."""
    return project_root() / "paper" / "claims.yaml"


def load_claims(path: Path | None = None) -> list[Claim]:
    """Every claim, in the order of the file."""
    return load(ClaimFile, path or claims_path()).claims
