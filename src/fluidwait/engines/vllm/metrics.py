"""What the scheduler tells the outside: a status file, read by the API server, and from there vLLM's /metrics.

The scheduler runs in the engine's process, /metrics in the API server's. vLLM's own channel between them carries a
fixed record, so the scheduler writes a small file once a second, named after the engine, and a statistics plug-in of
vLLM (entry point ``vllm.stat_logger_plugins``) reads it in when it is scraped.
"""

from __future__ import annotations

import getpass
import json
import os
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from vllm.v1.metrics.loggers import StatLoggerBase

PERIOD = 1.0  # s between two writes

GAUGES = {
    "active": "1 while the policy decides, 0 while the engine is first come, first served",
    "waiting_held": "requests kept in the queue by the policy in the last step",
    "resident_paused": "running requests paused by the policy in the last step",
    "resident": "running requests in the last step",
    "in_service_limit": "requests in service at most",
    "batch_tokens_limit": "tokens of a batch that prefills may fill up to",
    "arrival_rate": "requests per second over the rate window",
    "fluid_load": "arrival rate over the stability boundary of the calibrated fluid model",
}
COUNTERS = {
    "steps": "steps planned by the policy",
    "empty_steps": "steps in which it held everything back",
    "admitted": "requests that it let in",
    "pauses": "times that a running request sat out a step",
    "threshold_changes": "times that the thresholds moved",
}
REASONS = ("gate", "cap", "memory", "engine")
"""Why a step let nobody in though requests waited: below the quota, at the cap, no KV blocks, left waiting by vLLM."""


def status_path(vllm_config, engine_index: int) -> Path:
    """The status file of an engine (its data-parallel rank); the same in every process that knows the configuration."""
    folder = Path(tempfile.gettempdir()) / f"fluidwait-{getpass.getuser()}"
    return folder / f"{vllm_config.instance_id}-{engine_index}.json"


class StatusFile:
    """Written whole or not at all, at most once per ``PERIOD``, by a thread of its own: the engine does not wait."""

    def __init__(self, path: Path):
        self.path = path
        self._next = 0.0
        self._writer = ThreadPoolExecutor(1, "fluidwait-status")
        path.parent.mkdir(mode=0o700, exist_ok=True)

    def due(self, now: float) -> bool:
        if now < self._next:
            return False
        self._next = now + PERIOD
        return True

    def write(self, status: dict) -> Future:
        return self._writer.submit(self._write, status)

    def _write(self, status: dict) -> None:
        part = self.path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(status))
        part.replace(self.path)

    def remove(self) -> None:
        self._writer.shutdown()
        self.path.unlink(missing_ok=True)


def read_status(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


class Collector:
    """Turns the status files of the engines into Prometheus metrics when it is asked."""

    def __init__(self):
        self.files: dict[int, Path] = {}

    def collect(self):
        statuses = {engine: read_status(path) for engine, path in self.files.items()}
        statuses = {engine: status for engine, status in statuses.items() if status}
        for families, kind in ((GAUGES, GaugeMetricFamily), (COUNTERS, CounterMetricFamily)):
            for name, text in families.items():
                yield self._family(kind(f"fluidwait_{name}", text, labels=["engine"]), statuses, name)
        held = CounterMetricFamily("fluidwait_held_steps", "steps that let nobody in", labels=["engine", "reason"])
        limits = GaugeMetricFamily("fluidwait_threshold", "threshold in force", labels=["engine", "segment"])
        age = GaugeMetricFamily("fluidwait_status_age_seconds", "age of these numbers", labels=["engine"])
        for engine, status in statuses.items():
            for reason in REASONS:
                held.add_metric([str(engine), reason], status["held_steps"][reason])
            for segment, threshold in enumerate(status["thresholds"], start=1):
                limits.add_metric([str(engine), str(segment)], threshold)
            age.add_metric([str(engine)], max(time.time() - status["time"], 0.0))
        yield from (held, limits, age)

    @staticmethod
    def _family(family, statuses: dict[int, dict], name: str):
        for engine, status in statuses.items():
            if status.get(name) is not None:
                family.add_metric([str(engine)], status[name])
        return family


_COLLECTOR = Collector()


class WaitMetrics(StatLoggerBase):
    """vLLM's hook: one per engine, in the API server. Does nothing unless the engine runs our scheduler."""

    def __init__(self, vllm_config, engine_index: int = 0):
        if not uses_our_scheduler(vllm_config):
            return
        if not _COLLECTOR.files:
            REGISTRY.register(_COLLECTOR)
        _COLLECTOR.files[engine_index] = status_path(vllm_config, engine_index)

    def record(self, *args, **kwargs) -> None:
        """Nothing to do per step: the status file is read when /metrics is."""

    def log_engine_initialized(self) -> None:
        """vLLM's own logger says enough."""


def uses_our_scheduler(vllm_config) -> bool:
    chosen = vllm_config.scheduler_config.scheduler_cls
    if isinstance(chosen, str):
        return chosen.startswith("fluidwait.")
    return chosen is not None and chosen.__module__.startswith("fluidwait.")
