"""What ``fluidwait thresholds`` is asked, in a file of its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fluidwait.base.models import Strict


class ThresholdsFile(Strict):
    """What ``fluidwait thresholds`` reads when it is not given an experiment."""

    hardware: str
    workload: str
    rates: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(min_length=1, description="requests/s")
    segments: int | None = Field(None, ge=1, description="segments of Nested WAIT, equally likely")
    boundaries: list[int] | None = Field(None, description="or their ends, output tokens")
    chunk: int | None = Field(None, ge=1, description="prefill tokens per request and batch; whole prompts without")
    semantics: Literal["serving", "paper"] = "serving"
    token_budget: float = Field(float("inf"), gt=0, description="tokens of a batch at most")
    cap: float = Field(float("inf"), gt=0, description="requests in service at most")

    @model_validator(mode="after")
    def _one_division(self) -> ThresholdsFile:
        if self.segments is not None and self.boundaries is not None:
            raise ValueError("segments and boundaries both say how Nested WAIT is divided; give one of them")
        return self
