"""Laws of the lengths: every model of a workload's ``lengths``."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from fluidwait.base.errors import LARGEST, ConfigError
from fluidwait.base.models import Strict
from fluidwait.base.paths import project_root
from fluidwait.base.tables import read_columns
from fluidwait.workload.prefixes import BLOCK, COLUMN, prompt_blocks
from fluidwait.workload.recording import SECONDS, wrong_unit
from fluidwait.workload.requests import Support
from fluidwait.workload.table import read_table

Tokens = Annotated[int, Field(strict=True, ge=1, le=LARGEST)]
Share = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FixedLengths(Strict):
    """Every request has the same lengths."""

    kind: Literal["fixed"]
    prompt: Tokens
    output: Tokens

    def support(self) -> Support:
        return Support(np.array([self.prompt]), np.array([self.output]), np.ones(1))


class RequestType(Strict):
    """One type of a mixture: its share of the arrivals and its lengths in tokens."""

    share: Share
    prompt: Tokens
    output: Tokens


class MixtureLengths(Strict):
    """Each request is independently of type j with probability share_j."""

    kind: Literal["mixture"]
    types: Annotated[tuple[RequestType, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> MixtureLengths:
        total = sum(t.share for t in self.types)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the shares of the types must sum to 1, found {total:.12g}")
        return self

    def support(self) -> Support:
        prompt, output = (np.array([getattr(t, name) for t in self.types]) for name in ("prompt", "output"))
        return Support(prompt, output, np.array([t.share for t in self.types]))


class TableLengths(Strict):
    """Lengths drawn from a joint histogram (:mod:`fluidwait.workload.table`), optionally cut at longest lengths."""

    kind: Literal["table"]
    file: str
    max_prompt: Tokens | None = None
    max_output: Tokens | None = None

    def support(self) -> Support:
        table = read_table(project_root() / self.file, self.max_prompt, self.max_output)
        return Support(table.prompt, table.output, table.count.astype(np.float64))


class TraceLengths(Strict):
    """A recorded list of requests: replayed in order, or resampled with replacement."""

    kind: Literal["trace"]
    file: str
    hash_tokens: Tokens | None = Field(
        None, description="tokens that a number in the column hash_ids stands for; without it, the column is not read"
    )

    def support(self) -> Support:
        columns = read_columns(project_root() / self.file, {"prompt": 1, "output": 1})
        pairs, count = np.unique(np.column_stack([columns["prompt"], columns["output"]]), axis=0, return_counts=True)
        return Support(pairs[:, 0], pairs[:, 1], count.astype(np.float64))

    @field_validator("hash_tokens")
    @classmethod
    def _whole_blocks(cls, tokens: int | None) -> int | None:
        if tokens is not None and tokens % BLOCK:
            nearest = max(BLOCK, BLOCK * round(tokens / BLOCK))
            raise ValueError(f"must be a multiple of {BLOCK}, found {tokens} (nearest valid value: {nearest})")
        return tokens

    def blocks(self) -> np.ndarray:
        """Numbers of the full blocks of every prompt, in the order of the file; see :mod:`.prefixes`.

        Raises:
            ConfigError: the column is missing or has a mistake.
        """
        if self.hash_tokens is None:
            return np.zeros(0, dtype=object)
        columns = read_columns(project_root() / self.file, {"prompt": 1}, text=(COLUMN,))
        return prompt_blocks(columns, self.hash_tokens)

    def recording(self, unit: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Arrivals (s, the first at 0), prompts and outputs (tokens) in the order of the file.

        Args:
            unit: of the file's arrivals, a key of :data:`SECONDS`; None: seconds, if they look like seconds.

        Raises:
            ConfigError: the file is unusable or has no ``arrival`` column, its arrivals go back in time, or they are
                not times in this unit by all appearances.
        """
        path = project_root() / self.file
        columns = read_columns(path, {"prompt": 1, "output": 1}, ("arrival",))
        arrival = columns["arrival"]
        back = np.flatnonzero(np.diff(arrival) < 0)
        if back.size:
            earlier, later = arrival[back[0]], arrival[back[0] + 1]
            raise ConfigError(f"{path}: column 'arrival' must not decrease, but {later} follows {earlier}")
        if fault := wrong_unit(arrival, unit):
            raise ConfigError(f"{path}: column 'arrival': {fault}")
        return (arrival - arrival[0]) * SECONDS[unit or "s"], columns["prompt"], columns["output"]


Lengths = Annotated[FixedLengths | MixtureLengths | TableLengths | TraceLengths, Field(discriminator="kind")]
