"""One run of Vidur: its configuration, and what comes of it."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import vidur.config as vidur_config
from vidur.simulator import Simulator

from fluidwait.device.timing import TimeModel
from fluidwait.engines.core import EngineError, Semantics
from fluidwait.engines.simulator import LOG_COLUMNS, Run
from fluidwait.engines.vidur.parts import GeneratorConfig, Predictor, PredictorConfig, Replay, SchedulerConfig, Wake
from fluidwait.engines.vidur.patches import register, reset_ids
from fluidwait.engines.vidur.scheduler import PolicyScheduler

register(PolicyScheduler, Replay, Predictor)


class Job:
    """What a run is given, and what our parts of it note down."""

    def __init__(self, requests, policy, knobs: Any, time_model: TimeModel, semantics: Semantics):
        self.requests, self.policy, self.knobs = requests, policy, knobs
        self.time_model, self.semantics = time_model, semantics
        self.replayed: list = []  # ReplayedRequest, by index
        self.rows: list[tuple] = []  # per iteration, LOG_COLUMNS
        self.resident: Any = {}  # of those in the KV cache, by request id, which is the index; empty without a log
        self.wake_at: Any = None  # (time, replica) -> None: ask the policy again then


def run(job: Job, native: bool, log: bool) -> Run:
    """Run the job.

    Raises:
        EngineError: requests were left behind.
    """
    reset_ids()
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulator(_configuration(job, native, folder))
        (scheduler,) = simulation.scheduler._replica_schedulers.values()
        job.resident = scheduler._allocation_map if log else {}
        job.wake_at = lambda time, replica: simulation._add_event(Wake(time, replica))
        try:
            simulation.run()
        except AssertionError as error:
            reason = str(error).partition(" [")[0]  # without the list of its request objects
            raise EngineError(f"vidur: {job.policy.name}: {reason or 'an assertion of Vidur failed'}") from error
    return _outcome(job, log)


def _outcome(job: Job, log: bool) -> Run:
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


def _configuration(job: Job, native: bool, folder: str):
    semantics = job.semantics
    longest = int((job.requests.prompt + job.requests.output).max())
    scheduler = _native_scheduler(job.policy, job.knobs) if native else SchedulerConfig()
    generator = GeneratorConfig(max_tokens=job.policy.reserved_tokens(job.knobs) or longest)
    predictor = PredictorConfig()
    for config in (SchedulerConfig, GeneratorConfig, PredictorConfig):
        config.job = job  # on the class: Vidur writes every instance attribute to a JSON file
    return vidur_config.SimulationConfig(
        log_level="error",
        cluster_config=vidur_config.ClusterConfig(
            replica_config=vidur_config.ReplicaConfig(
                model_name="meta-llama/Llama-2-7b-hf",
                num_pipeline_stages=1,
                tensor_parallel_size=1,
                device="a100",
                network_device="a100_dgx",
            ),
            cache_config=vidur_config.CacheConfig(
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
        metrics_config=vidur_config.MetricsConfig(
            write_metrics=False, enable_chrome_trace=False, store_plots=False, output_dir=folder
        ),
    )


def _native_scheduler(policy, knobs):
    """Vidur's own scheduler, by the policy's name: of these three Vidur has its own."""
    limits = policy.limits(knobs)
    return {
        "vllm_v0": lambda: vidur_config.VllmSchedulerConfig(
            batch_size_cap=limits.requests, max_tokens_in_batch=policy.longest_prompt(knobs)
        ),
        "sarathi": lambda: vidur_config.SarathiSchedulerConfig(
            batch_size_cap=limits.requests, chunk_size=limits.tokens
        ),
        "orca": lambda: vidur_config.OrcaSchedulerConfig(batch_size_cap=limits.requests),
    }[policy.name]()
