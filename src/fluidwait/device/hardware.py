"""One device running one model: what fits in its memory, and how long an iteration takes on it.

A hardware file (``data/hardware/<name>.yaml``) holds sizes and measured times. Every capacity is derived from them.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from fluidwait.base.errors import ConfigError
from fluidwait.base.models import Strict, parse
from fluidwait.base.paths import project_root, stamp_of
from fluidwait.base.yaml_files import load_yaml
from fluidwait.device.timing import BatchSums, TimeModel, in_python, iteration_time, linear

GIB = 2**30
MOST_TOKENS = 10_000_000  # of a batch in a table of times, which has an entry for each number up to its last


class ModelShape(Strict):
    """Sizes of a decoder-only transformer, as in its published configuration."""

    name: str
    layers: int = Field(ge=1)
    hidden: int = Field(ge=1, description="width of the residual stream")
    query_heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1, description="heads that are cached; fewer than query_heads in grouped-query attention")
    head_dim: int = Field(ge=1)
    mlp_hidden: int = Field(ge=1)
    gated_mlp: bool = True
    bytes_per_weight: int = Field(2, ge=1)
    bytes_per_kv: int = Field(2, ge=1, description="bytes of one cached number")

    @property
    def weights(self) -> int:
        """Numbers in the attention and MLP matrices. Embeddings and norms are left out, as Vidur's planner does."""
        attention = self.hidden * self.head_dim * 2 * (self.query_heads + self.kv_heads)  # Wq, Wo and Wk, Wv
        mlp = (3 if self.gated_mlp else 2) * self.hidden * self.mlp_hidden
        return self.layers * (attention + mlp)

    @property
    def weight_bytes(self) -> int:
        return self.weights * self.bytes_per_weight

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes one cached token takes: a key and a value for every cached head of every layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.bytes_per_kv


class LinearTiming(Strict):
    """The paper's two numbers, per iteration: tau = d0 + d1 * KV."""

    d0: float = Field(gt=0, allow_inf_nan=False, description="s per iteration")
    d1: float = Field(ge=0, allow_inf_nan=False, description="s per KV token of the batch")
    note: str = ""


class Alone(Strict):
    """Attention of batches that only decode, as measured; straight lines in between (see TimeModel)."""

    decodes: list[int] = Field(description="numbers of decodes, increasing, from 1 up")
    lengths: list[int] = Field(min_length=2, description="KV tokens that each decode reads, increasing")
    seconds: list[list[float]] = Field(description="for each number of decodes, s by length")
    uneven: list[float] = Field(description="for each number of decodes, s per token that the longest exceeds the mean")

    @model_validator(mode="after")
    def _table(self) -> Self:
        _check_table("decodes", self.decodes, "uneven", self.uneven)
        if len(self.seconds) != len(self.decodes):
            raise ValueError(f"decodes has {len(self.decodes)} entries and seconds {len(self.seconds)} rows")
        for row in self.seconds:
            _check_table("lengths", self.lengths, "a row of seconds", row)
        return self

    def table(self) -> np.ndarray:
        """f8[last number + 1, lengths]."""
        return by_count(self.decodes, np.array(self.seconds).T)


class Beside(Strict):
    """Coefficients of the attention of batches that prefill, by the number of decodes beside; lines in between."""

    decodes: list[int] = Field(description="numbers of decodes, increasing, from 0 up")
    launch: list[float] = Field(description="s")
    prefill_token: list[float] = Field(description="s per token of a prefill chunk")
    prefill_square: list[float] = Field(description="s per (token of a chunk)^2")
    prefill_context: list[float] = Field(description="s per (token of a chunk x token already cached)")
    longest: list[float] = Field(description="s per KV token of the longest request")
    decode_context: list[float] = Field(description="s per KV token that the decodes read")

    def columns(self) -> dict[str, list[float]]:
        return {name: getattr(self, name) for name in type(self).model_fields if name != "decodes"}

    @model_validator(mode="after")
    def _table(self) -> Self:
        for name, values in self.columns().items():
            _check_table("decodes", self.decodes, name, values, least=0)
        return self

    def table(self) -> np.ndarray:
        """f8[last number + 1, 6]."""
        return by_count(self.decodes, list(self.columns().values()))


class Attention(Strict):
    """Measured attention, in place of the coefficients that do not depend on the number of decodes."""

    alone: Alone
    beside: Beside

    def tables(self) -> dict[str, np.ndarray]:
        """As :class:`TimeModel` holds them, for the same numbers of decodes; beyond those measured the nearest."""
        alone, uneven, beside = (
            self.alone.table(),
            by_count(self.alone.decodes, [self.alone.uneven]),
            self.beside.table(),
        )
        most = max(len(alone), len(beside))
        alone, uneven, beside = (np.pad(t, ((0, most - len(t)), (0, 0)), mode="edge") for t in (alone, uneven, beside))
        lengths = np.array(self.alone.lengths, dtype=float)
        return {"alone": alone, "alone_lengths": lengths, "alone_uneven": uneven[:, 0].copy(), "beside": beside}


def by_count(counts: list[int], columns: Any) -> np.ndarray:
    """f8[last count + 1, columns]: straight lines between the counts, and below the first its values."""
    at = np.arange(counts[-1] + 1)
    return np.column_stack([np.interp(at, counts, column) for column in columns])


class PerSequence(Strict):
    """Output head and sampler, by the number of requests in the batch; straight lines in between."""

    requests: list[int] = Field(description="numbers of requests, increasing, from 1 up")
    seconds: list[float]

    @model_validator(mode="after")
    def _table(self) -> Self:
        _check_table("requests", self.requests, "seconds", self.seconds)
        return self

    def table(self) -> np.ndarray:
        """f8[last number + 1]; without requests it is 0."""
        return np.interp(np.arange(self.requests[-1] + 1), [0, *self.requests], [0.0, *self.seconds])


def _check_table(key: str, counts: list[int], name: str, values: list[float], least: int = 1) -> None:
    if not counts or len(counts) != len(values):
        raise ValueError(f"{key} has {len(counts)} entries and {name} {len(values)}; at least one each is needed")
    if any(b <= a for a, b in zip([least - 1, *counts], counts, strict=False)):
        raise ValueError(f"{key} must increase from at least {least}")
    if counts[-1] > MOST_TOKENS:
        raise ValueError(f"{key}: no batch has {counts[-1]} (nearest valid value: {MOST_TOKENS})")
    if not all(0 <= v < np.inf for v in values):
        raise ValueError(f"{name} must be finite and not negative")


class ProfileTiming(Strict):
    """Measured iteration time: a table of compute time against tokens, and attention coefficients (see TimeModel)."""

    between: Literal["step", "linear"] = Field(
        "step",
        description="time between two table entries: that of the next larger entry (kernels pad to whole tiles), "
        "or a straight line",
    )
    base: float = Field(0.0, ge=0, allow_inf_nan=False)
    per_kv: float = Field(0.0, ge=0, allow_inf_nan=False)
    compute_slope: float = Field(ge=0, allow_inf_nan=False, description="s per token beyond the table")
    prefill_launch: float = Field(0.0, ge=0, allow_inf_nan=False)
    prefill_request: float = Field(0.0, ge=0, allow_inf_nan=False)
    prefill_token: float = Field(0.0, ge=0, allow_inf_nan=False)
    prefill_square: float = Field(0.0, ge=0, allow_inf_nan=False)
    prefill_context: float = Field(0.0, ge=0, allow_inf_nan=False)
    decode_launch: float = Field(0.0, ge=0, allow_inf_nan=False)
    decode_request: float = Field(0.0, ge=0, allow_inf_nan=False)
    decode_context: float = Field(0.0, ge=0, allow_inf_nan=False)
    attention: Attention | None = None
    per_sequence: PerSequence | None = None
    tokens: list[int] = Field(default_factory=list, description="tokens computed in the batch, increasing, from 1 up")
    seconds: list[float] = Field(default_factory=list, description="seconds that many tokens take, attention apart")

    @model_validator(mode="after")
    def _table(self) -> Self:
        if len(self.tokens) != len(self.seconds):
            raise ValueError(f"tokens has {len(self.tokens)} entries and seconds {len(self.seconds)}")
        if any(b <= a for a, b in zip([0, *self.tokens], self.tokens, strict=False)):
            raise ValueError("tokens must increase from at least 1")
        if self.tokens and self.tokens[-1] > MOST_TOKENS:
            raise ValueError(f"tokens: no batch has {self.tokens[-1]} (nearest valid value: {MOST_TOKENS})")
        if not all(0 <= s < np.inf for s in self.seconds):
            raise ValueError("seconds must be finite and not negative")
        model = self.time_model()
        decode = BatchSums(1, 2, decodes=1, decode_context=2, longest=2)
        one = {"prefill": BatchSums(1, 1, 1, 1, 1, longest=1), "decode": decode}
        for phase, sums in one.items():
            if not in_python(iteration_time)(model, sums) > 0:
                raise ValueError(f"a batch of one {phase} token takes no time, and time would stand still")
        return self

    def compute(self) -> np.ndarray:
        """f8[last table entry + 1]: seconds for q = 0, 1, ... tokens; the first is 0."""
        if not self.tokens:
            return np.zeros(1)
        q = np.arange(self.tokens[-1] + 1)
        if self.between == "linear":
            return np.interp(q, [0, *self.tokens], [0.0, *self.seconds])
        table = np.asarray(self.seconds)[np.searchsorted(self.tokens, q)]
        table[0] = 0.0
        return table

    def time_model(self) -> TimeModel:
        coefficients = [f for f in TimeModel._fields if isinstance(getattr(self, f, None), float)]
        fields: dict[str, Any] = {f: getattr(self, f) for f in coefficients}
        fields["compute"] = self.compute()
        if self.attention is not None:
            fields |= self.attention.tables()
        if self.per_sequence is not None:
            fields["sequences"] = self.per_sequence.table()
        return TimeModel(**fields)


class Timing(Strict):
    linear: LinearTiming | None = None
    profile: ProfileTiming | None = None


class Hardware(Strict):
    """A device, a model on it, and its measured times. Memory sizes in GiB, tokens and blocks of tokens."""

    name: str
    device: str
    model: ModelShape
    memory_gib: float = Field(gt=0, allow_inf_nan=False)
    memory_margin: float = Field(0.01, ge=0, lt=1, description="share of the memory kept free")
    block_size: int = Field(16, ge=1, description="tokens per KV block")
    watermark: float = Field(0.01, ge=0, lt=1, description="share of the blocks kept free when a request is admitted")
    max_model_len: int = Field(ge=1, description="longest prompt + output, tokens")
    round_to_max_model_len: bool = Field(
        True, description="count blocks for whole requests of max_model_len only, as Vidur's scheduler does"
    )
    source: dict[str, str] = Field(default_factory=dict, description="where the measurements come from")
    timing: Timing = Timing()
    fit: dict[str, dict[str, float | int | str]] = Field(default_factory=dict, description="residuals of the fit")

    @model_validator(mode="after")
    def _something_fits(self) -> Self:
        least = self.max_model_len if self.round_to_max_model_len else self.block_size
        if self.kv_capacity_tokens < least:
            raise ValueError(
                f"{self.memory_gib:g} GiB with margin {self.memory_margin:g} leaves room for "
                f"{max(self.kv_capacity_tokens, 0)} KV tokens beside the weights of {self.model.name}; "
                f"at least {least} are needed"
            )
        if self.kv_blocks < 1:
            raise ValueError(
                f"block_size: no block of {self.block_size} tokens is within max_model_len = {self.max_model_len} "
                f"(nearest valid value: {self.max_model_len})"
            )
        return self

    @property
    def kv_bytes_per_token(self) -> int:
        return self.model.kv_bytes_per_token

    @property
    def kv_capacity_tokens(self) -> int:
        """C: tokens that fit in (memory x (1 - margin) - weights), the rule of Vidur 0.0.26's memory planner."""
        free = self.memory_gib * GIB * (1 - self.memory_margin) - self.model.weight_bytes
        return int(free // self.kv_bytes_per_token)

    @property
    def kv_blocks_unrounded(self) -> int:
        """Whole blocks in the capacity."""
        return self.kv_capacity_tokens // self.block_size

    @property
    def kv_blocks(self) -> int:
        """Blocks the engine may hand out; rounded down to whole ``max_model_len`` slots if so configured."""
        if not self.round_to_max_model_len:
            return self.kv_blocks_unrounded
        slots = self.kv_capacity_tokens // self.max_model_len
        return slots * (self.max_model_len // self.block_size)

    @property
    def linear(self) -> tuple[float, float]:
        """The paper's (d0 s, d1 s/token); nan when the file has none, which the policies that ask refuse."""
        linear = self.timing.linear
        return (linear.d0, linear.d1) if linear else (np.nan, np.nan)

    def with_margin(self, margin: float) -> Hardware:
        """The same hardware with another share of its memory kept free.

        Raises:
            ConfigError: the margin is not in [0, 1) or leaves no room for the KV cache.
        """
        return parse(Hardware, self.model_dump() | {"memory_margin": margin}, self.name)

    def time_model(self, which: Literal["profile", "linear"] = "profile") -> TimeModel:
        """The iteration time as measured (``profile``) or in the paper's two numbers (``linear``).

        Raises:
            ConfigError: the hardware file has no such timing.
        """
        measured, two_numbers = self.timing.profile, self.timing.linear
        if which == "linear" and two_numbers is not None:
            return linear(two_numbers.d0, two_numbers.d1)
        if which == "profile" and measured is not None:
            return measured.time_model()
        have = [name for name in ("linear", "profile") if getattr(self.timing, name) is not None]
        raise ConfigError(
            f"{self.name}: timing.{which}: not in this hardware file (it has: {', '.join(have) or 'none'})"
        )


def load_hardware(path_or_name: str | Path) -> Hardware:
    """Read a hardware file, by path or by its name in ``data/hardware``.

    Raises:
        ConfigError: no such file, or a key or value in it is wrong.
    """
    path = Path(path_or_name)
    if path.suffix not in (".yaml", ".yml") and path.parent == Path():
        path = project_root() / "data" / "hardware" / f"{path_or_name}.yaml"
    return _read_hardware(path, stamp_of(path))


@lru_cache(maxsize=16)
def _read_hardware(path: Path, stamp: Any) -> Hardware:
    """The file as it is at this stamp: all experiments name the same few files, whose tables are long."""
    return parse(Hardware, load_yaml(path), path)
