"""The engine of a recording as the simulator sees it."""

from __future__ import annotations

import numpy as np
import polars as pl

from fluidwait.device.timing import SUMS, BatchSums, iteration_time, scaled
from fluidwait.engines.core import context_of, serving
from fluidwait.engines.simulator import Run as Simulated
from fluidwait.engines.simulator import simulate
from fluidwait.policies import load_policy
from fluidwait.policies.contract import Limits
from fluidwait.real.bundle import Bundle
from fluidwait.real.target import Target, workload_of
from fluidwait.workload import Requests


class Simulator:
    """The engine of a bundle as the simulator sees it."""

    def __init__(self, bundle: Bundle) -> None:
        self.target: Target = bundle.target
        self.hardware = bundle.hardware()
        self.time_model = self.hardware.time_model()

    def run(self, requests: Requests, variant: str, key: str, rate: float, speed: float = 1.0) -> Simulated:
        """The same requests under the same policy with the same settings; iterations take ``speed`` times as long."""
        semantics = self.target.semantics(variant, key)
        workload, law = workload_of(self.target, variant)
        engine, policy = self.target.engine, self.target.policy(key)
        memory = serving(self.target.blocks(variant), engine.block_size)
        context = context_of(law, rate, self.time_model, self.hardware.linear, memory, workload.prediction_error)
        most = Limits(engine.max_num_seqs, engine.max_num_batched_tokens)
        knobs = policy.prepare_at_most(context, most)
        return simulate(requests, policy, knobs, scaled(self.time_model, speed), semantics)

    def predicted(self, batches: pl.DataFrame) -> float:
        """Seconds that these batches take by the time model."""
        return sum(self.seconds_of(batches))

    def seconds(self, sums: BatchSums) -> float:
        """Seconds that a batch takes by the time model."""
        return iteration_time(self.time_model, sums)

    def seconds_of(self, batches: pl.DataFrame) -> list[float]:
        """Seconds that each of these batches takes by the time model; a column per sum."""
        return [self.seconds(BatchSums(*row)) for row in batches.select(SUMS).iter_rows()]

    def generation(self, batch: int) -> float:
        """Seconds that a batch of equal requests takes, all at once on an idle engine."""
        whole, engine = self.target.generation, self.target.engine
        lengths = np.full(batch, whole.prompt), np.full(batch, whole.output)
        requests = Requests(np.zeros(batch), *lengths, np.zeros(batch, dtype=np.int64))
        limits = {"policy": "vllm_v1", "token_budget": engine.max_num_batched_tokens, "max_requests": max(batch, 1)}
        policy = load_policy(limits)
        semantics = serving(engine.kv_blocks, engine.block_size, 0.0)
        return float(simulate(requests, policy, policy.prepare(None), self.time_model, semantics).completion.max())
