"""The Vidur engine: the real simulator, version 0.0.26, with our time model and our policies registered in it.

Vidur's own vLLM, Sarathi and Orca schedulers run unmodified (``native=True``); every fluidwait policy runs as a Vidur
replica scheduler that asks :func:`fluidwait.engines.core.decide`. Everything else, events, batches, request
bookkeeping, is Vidur's. Requests are handed over as they are, so no generator of Vidur's takes part.

One entity is repaired. ``Request.restart`` of Vidur 0.0.26 forgets to reset the tokens counted per pipeline stage, so
an eviction ends in a failed assertion, and it turns the unfinished rest of a half-prefilled prompt into output tokens.
:class:`ReplayedRequest` resets the counter and leaves the lengths of a half-prefilled prompt alone; it can also restart
from nothing, as the paper's model has it.
"""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from fluidwait.base.errors import ConfigError
from fluidwait.device.timing import TimeModel, iteration_time
from fluidwait.engines import core, simulator
from fluidwait.engines.core import EngineError, Semantics, admission_blocks, new_state
from fluidwait.engines.simulator import FRUITLESS, LOG_COLUMNS, Run, check_requests, reservation

VERSION = "0.0.26"
NATIVE = ("orca", "sarathi", "vllm_v0")
_KEY = "fluidwait"


def simulate_vidur(
    requests,
    policy,
    knobs: Any,
    time_model: TimeModel,
    semantics: Semantics,
    *,
    native: bool = False,
    log: bool = False,
) -> Run:
    """Run ``requests`` through real Vidur; the same arguments and outcome as :func:`simulator.simulate`.

    Args:
        native: use Vidur's own scheduler of that name (``orca``, ``sarathi``, ``vllm_v0``) instead of ours.

    Raises:
        ConfigError: Vidur is not installed, or cannot run these semantics or this policy natively.
        EngineError: requests were left behind.
    """
    parts = _vidur()
    if not semantics.prefill_emits:
        raise ConfigError("vidur: semantics: Vidur yields the first token with the prefill (nearest valid: 'serving')")
    own = native_policies(semantics)
    if native and policy.name not in own:
        raise ConfigError(f"vidur: policy: Vidur has no scheduler '{policy.name}' (valid: {', '.join(own)})")
    semantics = reservation(policy, knobs, semantics)
    check_requests(requests, policy, knobs, semantics)
    _reset_ids(parts)
    job = SimpleNamespace(requests=requests, policy=policy, knobs=knobs, semantics=semantics, time_model=time_model)
    job.replayed, job.rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        simulation = parts.Simulator(_configuration(parts, job, native, folder))
        (scheduler,) = simulation.scheduler._replica_schedulers.values()
        job.resident = scheduler._allocation_map if log else {}  # by request id, which is the index in our arrays
        job.wake_at = lambda time, replica: simulation._add_event(parts.Wake(time, replica))
        try:
            simulation.run()
        except AssertionError as error:
            reason = str(error).partition(" [")[0]  # without the list of its request objects
            raise EngineError(f"vidur: {policy.name}: {reason or 'an assertion of Vidur failed'}") from error
    return _outcome(job, log)


def native_policies(semantics: Semantics) -> tuple[str, ...]:
    """Policies for which Vidur has a scheduler of its own; of a prompt that came prefilled only its Sarathi knows."""
    return ("sarathi",) if semantics.remote_prefill else NATIVE


def _outcome(job, log: bool) -> Run:
    by_index = sorted(job.replayed, key=lambda request: request.index)
    if not all(request.completed for request in by_index):
        raise EngineError(f"vidur: {job.policy.name}: a request was left behind")
    rows = np.array(job.rows, dtype=float).reshape(-1, len(LOG_COLUMNS))
    return Run(
        np.array([request.prefill_completed_at for request in by_index], dtype=float),
        np.array([request.completed_at for request in by_index], dtype=float),
        np.array([request.num_restarts for request in by_index], dtype=np.int64),
        len(rows),
        float(rows[:, 1].sum()),
        -1,  # Vidur keeps no peak
        rows if log else None,
    )


def _configuration(parts, job, native: bool, folder: str):
    semantics, knobs = job.semantics, job.knobs
    longest = int((job.requests.prompt + job.requests.output).max())
    if native:
        scheduler = {
            "vllm_v0": lambda: parts.config.VllmSchedulerConfig(
                batch_size_cap=knobs.max_requests, max_tokens_in_batch=knobs.token_cap
            ),
            "sarathi": lambda: parts.config.SarathiSchedulerConfig(
                batch_size_cap=knobs.max_requests, chunk_size=knobs.token_budget
            ),
            "orca": lambda: parts.config.OrcaSchedulerConfig(batch_size_cap=knobs.max_requests),
        }[job.policy.name]()
    else:
        scheduler = parts.SchedulerConfig()
    generator = parts.GeneratorConfig(max_tokens=job.policy.reserved_tokens(knobs) or longest)
    predictor = parts.PredictorConfig()
    for config in (parts.SchedulerConfig, parts.GeneratorConfig, parts.PredictorConfig):
        config.job = job  # on the class: Vidur writes every instance attribute to a JSON file
    return parts.config.SimulationConfig(
        log_level="error",
        cluster_config=parts.config.ClusterConfig(
            replica_config=parts.config.ReplicaConfig(
                model_name="meta-llama/Llama-2-7b-hf",
                num_pipeline_stages=1,
                tensor_parallel_size=1,
                device="a100",
                network_device="a100_dgx",
            ),
            cache_config=parts.config.CacheConfig(
                block_size=semantics.block_size,
                num_blocks=semantics.blocks,
                # Vidur truncates fraction * blocks; the half keeps rounding from taking a block away
                watermark_blocks_fraction=(semantics.watermark + 0.5) / semantics.blocks,
                memory_margin_fraction=0.0,
            ),
            replica_scheduler_config=scheduler,
        ),
        request_generator_config=generator,
        execution_time_predictor_config=predictor,
        metrics_config=parts.config.MetricsConfig(
            write_metrics=False, enable_chrome_trace=False, store_plots=False, output_dir=folder
        ),
    )


def _reset_ids(parts) -> None:
    """Vidur numbers its entities and events in class attributes; start every run from the beginning."""
    for entity in parts.entities:
        if "_id" in vars(entity):
            del entity._id
    parts.BaseEvent._id = 0


@cache
def _vidur():
    """Import Vidur once, register our parts, and return what a run needs."""
    os.environ.setdefault("WANDB_MODE", "disabled")
    try:
        import vidur.config
        from vidur.entities import Batch, Request
        from vidur.entities.base_entity import BaseEntity
        from vidur.events import BaseEvent
        from vidur.events.replica_schedule_event import ReplicaScheduleEvent
        from vidur.execution_time_predictor import ExecutionTimePredictorRegistry
        from vidur.request_generator import RequestGeneratorRegistry
        from vidur.request_generator.base_request_generator import BaseRequestGenerator
        from vidur.scheduler.replica_scheduler.base_replica_scheduler import BaseReplicaScheduler
        from vidur.scheduler.replica_scheduler.replica_scheduler_registry import ReplicaSchedulerRegistry
        from vidur.simulator import Simulator
        from vidur.types import ExecutionTimePredictorType
    except ImportError as error:
        raise ConfigError(
            f"vidur: the engine needs vidur=={VERSION} (pip install 'fluidwait[vidur]'): {error}"
        ) from None
    logging.getLogger("vidur").setLevel(logging.ERROR)

    class ReplayedRequest(Request):
        """A Vidur request that knows its place in our arrays, with ``restart`` repaired (see the module's text)."""

        def __init__(self, index: int, arrived_at: float, prompt: int, output: int, semantics: Semantics):
            super().__init__(arrived_at, prompt, output)
            self.index, self._original, self._recompute = index, (prompt, output), semantics.recompute
            if semantics.remote_prefill:
                self._num_processed_tokens = self._num_stage_processed_tokens = prompt - 1

        @property
        def came_prefilled(self) -> bool:
            """Whether the next token is the first one after a prefill on another machine: computed like a decode."""
            return 0 < self.num_processed_tokens == self.num_prefill_tokens - 1 and self.num_processed_iterations == 0

        def restart(self) -> None:
            half_prefilled = not self.is_prefill_complete
            lengths = self._num_prefill_tokens, self._num_decode_tokens
            super().restart()
            if not self._recompute:
                lengths = self._original
                self._prefill_completed_at = 0
            if half_prefilled or not self._recompute:
                self._num_prefill_tokens, self._num_decode_tokens = lengths
            self._num_stage_processed_tokens = 0
            self._is_prefill_stage_complete = False

    class Replay(BaseRequestGenerator):
        def generate_requests(self):
            job = self.config.job
            requests = job.requests
            job.replayed += [
                ReplayedRequest(i, float(a), int(p), int(o), job.semantics)
                for i, (a, p, o) in enumerate(zip(requests.arrival, requests.prompt, requests.output, strict=True))
            ]
            return list(job.replayed)

    class Wake(ReplicaScheduleEvent):
        """Schedules one event later: after the arrivals at the same time, which were queued before it."""

        def handle_event(self, scheduler, metrics_store):
            return [ReplicaScheduleEvent(self.time, self._replica_id)]

    class Predictor:
        """Iteration times from our time model, summed as Vidur's batches come."""

        def __init__(self, predictor_config, replica_config, cache_config):
            self._job = predictor_config.job

        def get_execution_time(self, batch, pipeline_stage):
            sums = _batch_sums(batch)
            seconds = iteration_time(self._job.time_model, *sums)
            held = sums[0] + sum(_cached(self._job.replayed[i]) for i in self._job.resident)
            evictions = sum(request.num_restarts for request in self._job.replayed) if self._job.resident else 0
            self._job.rows.append((batch.scheduled_at, seconds, sums[0], batch.size, held, evictions))
            return SimpleNamespace(total_time=seconds, model_time=seconds, model_time_ms=seconds * 1e3)

    class PolicyScheduler(BaseReplicaScheduler):
        """A fluidwait policy as a Vidur replica scheduler."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._job = self._config.job
            self._state = new_state(self._job.requests, self._job.semantics)
            self._memory = np.zeros(self._job.policy.memory_size(self._job.knobs), dtype=np.int64)
            self._decide = decide_for(self._job.policy.module)
            self._head = self._tail = self._residents = 0
            self._wakes: set[float] = set()
            self._fruitless, self._most_fruitless = 0, core.most_fruitless(self._state)

        @property
        def num_pending_requests(self) -> int:
            return self._tail - self._head

        def get_pending_requests(self):
            return [self._job.replayed[i] for i in self._state.waiting[self._head : self._tail]]

        def add_request(self, request) -> None:
            self._state.waiting[self._tail] = request.index
            self._tail += 1
            self._fruitless = 0

        def on_batch_end(self, batch) -> None:
            super().on_batch_end(batch)
            state, kept = self._state, 0
            for request in batch.requests:
                r, processed = request.index, request.num_processed_tokens
                state.cached[r] = _cached(request)
                state.generated[r] = max(processed, request.num_prefill_tokens) - state.prompt[r]
                state.service[r] = request.execution_time
                if request.completed:
                    self.free(request.id)
                    state.held[r] = 0
                    self._fruitless = 0
            for k in range(self._residents):
                r = state.resident[k]
                if not self._job.replayed[r].completed:
                    state.resident[kept] = r
                    kept += 1
            self._residents = kept

        def _get_next_batch(self, time):
            state, semantics, before = self._state, self._job.semantics, self._residents
            free = semantics.blocks - self._num_allocated_blocks
            draining = self._tail == len(state.arrival)
            admitted, wake, free, self._head, self._residents = self._decide(
                self._job.knobs,
                self._memory,
                state,
                semantics,
                float(time),
                draining,
                free,
                self._head,
                self._tail,
                self._residents,
            )
            if admitted < 0:
                raise EngineError(simulator.explain(simulator.BAD_PLAN, -1, time, self._job.policy.name, state))
            for r in state.waiting[self._head : self._head + before - self._residents]:
                self._job.replayed[r].restart()
                self.free(self._job.replayed[r].id)
            served = self._reserve(semantics) + self._admit(admitted, semantics)
            self._fruitless += not served or self._residents - admitted < before
            if self._fruitless > self._most_fruitless:
                where = simulator.first(state, self._head, self._tail, self._residents)
                raise EngineError("vidur: " + simulator.explain(FRUITLESS, where, time, self._job.policy.name, state))
            if served:
                requests = [self._job.replayed[r] for r, _ in served]
                tokens = [int(q) for _, q in served]
                cached = [request.num_processed_tokens for request in requests]
                return Batch(self._replica_id, requests, tokens, [c + q for c, q in zip(cached, tokens, strict=True)])
            if time < wake < np.inf and wake not in self._wakes:
                self._wakes.add(wake)
                self._job.wake_at(wake, self._replica_id)
            return None

        def _reserve(self, semantics):
            state, served = self._state, []
            for k in range(self._residents):
                r = state.resident[k]
                if state.tokens[k] == 0:
                    continue
                if state.cached[r] >= state.held[r] * semantics.block_size:
                    self.allocate(self._job.replayed[r].id, 1)
                    state.held[r] += 1
                served.append((r, state.tokens[k]))
            return served

        def _admit(self, admitted, semantics):
            state, served = self._state, []
            for i in range(admitted):
                r = state.waiting[self._head + state.admit[i]]
                state.held[r] = admission_blocks(semantics, state.goal[r])
                self.allocate(self._job.replayed[r].id, int(state.held[r]))
                state.resident[self._residents] = r
                self._residents += 1
                served.append((r, state.chunk[i]))
            simulator.close_gaps(state, admitted, self._head)
            self._head += admitted
            return served

    @dataclass
    class SchedulerConfig(vidur.config.BaseReplicaSchedulerConfig):
        batch_size_cap: int = field(default=2**31)

        @staticmethod
        def get_type():
            return _KEY

    @dataclass
    class GeneratorConfig(vidur.config.BaseRequestGeneratorConfig):
        @staticmethod
        def get_type():
            return _KEY

    @dataclass
    class PredictorConfig(vidur.config.BaseExecutionTimePredictorConfig):
        @staticmethod
        def get_type():
            return ExecutionTimePredictorType.DUMMY

    ReplicaSchedulerRegistry.register(_KEY, PolicyScheduler)
    RequestGeneratorRegistry.register(_KEY, Replay)
    ExecutionTimePredictorRegistry.register(ExecutionTimePredictorType.DUMMY, Predictor)
    return SimpleNamespace(
        config=vidur.config,
        Simulator=Simulator,
        Wake=Wake,
        BaseEvent=BaseEvent,
        SchedulerConfig=SchedulerConfig,
        GeneratorConfig=GeneratorConfig,
        PredictorConfig=PredictorConfig,
        entities=_subclasses(BaseEntity),
    )


def _subclasses(cls) -> list[type]:
    return [s for child in cls.__subclasses__() for s in [child, *_subclasses(child)]]


def _cached(request) -> int:
    """Tokens in the KV cache: Vidur counts the token that was generated last, cached only by the next decode."""
    return request.num_processed_tokens - int(request.is_prefill_complete)


def _batch_sums(batch) -> tuple[int, ...]:
    """The arguments of ``iteration_time`` after the model, from a Vidur batch.

    Cached tokens come from the requests: Vidur's Orca leaves new requests out of the batch's own list of KV lengths.
    """
    tokens = kv = prefills = chunks = squares = context = decodes = decode_context = 0
    for request, q in zip(batch.requests, batch.num_q_tokens, strict=True):
        processed = request.num_processed_tokens
        tokens += q
        if request.is_prefill_complete:  # the token generated last counts as processed but is cached only now
            kv += processed
            decodes += 1
            decode_context += processed
        elif request.came_prefilled:
            kv += processed + 1
            decodes += 1
            decode_context += processed + 1
        else:
            kv += processed + q
            prefills += 1
            chunks += q
            squares += q * q
            context += q * processed
    return tokens, kv, prefills, chunks, squares, context, decodes, decode_context


@cache
def decide_for(module):
    """:func:`core.decide` compiled for one policy, callable from Python."""
    return core.specialise(_decide, module, [core, simulator])


def _decide(knobs, memory, state, semantics, now, draining, free, head, tail, residents):
    return decide(knobs, memory, state, semantics, now, draining, free, head, tail, residents)  # noqa: F821
