"""Our parts of a Vidur simulation besides the scheduler: requests, wake-ups, iteration times, and their settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import vidur.config
from vidur.events.replica_schedule_event import ReplicaScheduleEvent
from vidur.request_generator.base_request_generator import BaseRequestGenerator

from fluidwait.device.timing import BatchSums, iteration_time
from fluidwait.engines.vidur.patches import KEY, PREDICTOR, ReplayedRequest


class Replay(BaseRequestGenerator):
    """Hands over the requests of the job."""

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
        job, sums = self._job, batch_sums(batch)
        seconds = iteration_time(job.time_model, sums)
        held = sums.tokens + sum(job.replayed[i].cached for i in job.resident)
        evictions = sum(request.num_restarts for request in job.replayed) if job.resident else 0
        job.rows.append((batch.scheduled_at, seconds, sums.tokens, batch.size, held, evictions))
        return SimpleNamespace(total_time=seconds, model_time=seconds, model_time_ms=seconds * 1e3)


def batch_sums(batch) -> BatchSums:
    """The sums over a Vidur batch.

    Cached tokens come from the requests: Vidur's Orca leaves new requests out of the batch's own list of KV lengths.
    """
    tokens = kv = prefills = chunks = squares = context = decodes = decode_context = longest = 0
    for request, q in zip(batch.requests, batch.num_q_tokens, strict=True):
        processed = request.num_processed_tokens
        tokens += q
        before = kv
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
        longest = max(longest, kv - before)
    return BatchSums(tokens, kv, prefills, chunks, squares, context, decodes, decode_context, longest)


@dataclass
class SchedulerConfig(vidur.config.BaseReplicaSchedulerConfig):
    """Of :class:`~fluidwait.engines.vidur.scheduler.PolicyScheduler`."""

    batch_size_cap: int = field(default=2**31)

    @staticmethod
    def get_type():
        return KEY


@dataclass
class GeneratorConfig(vidur.config.BaseRequestGeneratorConfig):
    """Of :class:`Replay`."""

    @staticmethod
    def get_type():
        return KEY


@dataclass
class PredictorConfig(vidur.config.BaseExecutionTimePredictorConfig):
    """Of :class:`Predictor`."""

    @staticmethod
    def get_type():
        return PREDICTOR
