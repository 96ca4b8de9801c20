"""What the scheduler tells the outside: a status file, read by the API server, and from there vLLM's /metrics.

The scheduler runs in the engine's process, /metrics in the API server's. vLLM's own channel between them carries a
fixed record, so the scheduler writes a small file once a second, named after the engine, and a statistics plug-in of
vLLM (entry point ``vllm.stat_logger_plugins``) reads it in when it is scraped.

Several API servers (``--api-server-count``, by default one per data-parallel rank) answer /metrics from a folder in
which Prometheus's client keeps the numbers of every process. There the engine's process puts them itself.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from prometheus_client import REGISTRY, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
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


class Status:
    """What an engine tells: a file, written whole or not at all, by a thread of its own, so that the engine does not
    wait; and the folder of several API servers, where there is one."""

    def __init__(self, path: Path, engine_index: int):
        self.path = path
        self._writer = ThreadPoolExecutor(1, "fluidwait-status")
        self._shared = SharedMetrics(engine_index) if "PROMETHEUS_MULTIPROC_DIR" in os.environ else None
        path.parent.mkdir(mode=0o700, exist_ok=True)

    def write(self, status: dict) -> Future:
        return self._writer.submit(self._write, status)

    def _write(self, status: dict) -> None:
        part = self.path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(status))
        part.replace(self.path)
        if self._shared:
            self._shared.publish(status)

    def remove(self) -> None:
        self._writer.shutdown()
        self.path.unlink(missing_ok=True)


def read_status(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def families(statuses: dict[int, dict]) -> Iterator[Metric]:
    """The metrics of engines with these statuses."""
    for own, kind in ((GAUGES, GaugeMetricFamily), (COUNTERS, CounterMetricFamily)):
        for name, text in own.items():
            family = kind(f"fluidwait_{name}", text, labels=["engine"])
            for engine, status in statuses.items():
                if status.get(name) is not None:
                    family.add_metric([str(engine)], status[name])
            yield family
    held = CounterMetricFamily("fluidwait_held_steps", "steps that let nobody in", labels=["engine", "reason"])
    limits = GaugeMetricFamily("fluidwait_threshold", "threshold in force", labels=["engine", "segment"])
    written = GaugeMetricFamily("fluidwait_status_time_seconds", "when these were the numbers", labels=["engine"])
    for engine, status in statuses.items():
        for reason in REASONS:
            held.add_metric([str(engine), reason], status["held_steps"][reason])
        for segment, threshold in enumerate(status["thresholds"], start=1):
            limits.add_metric([str(engine), str(segment)], threshold)
        written.add_metric([str(engine)], status["time"])
    yield from (held, limits, written)


class Collector:
    """Reads the status files of the engines when Prometheus asks."""

    def __init__(self):
        self.files: dict[int, Path] = {}

    def collect(self) -> Iterator[Metric]:
        statuses = {engine: read_status(path) for engine, path in self.files.items()}
        return families({engine: status for engine, status in statuses.items() if status})


class SharedMetrics:
    """The metrics of one engine in the folder from which several API servers answer."""

    def __init__(self, engine_index: int):
        self._engine = engine_index
        self._metrics: dict[str, Gauge | Counter] = {}
        self._counts: dict[Counter, float] = {}  # what each has been brought to
        self._gauges: set[Gauge] = set()

    def publish(self, status: dict) -> None:
        """Bring the folder up to date; a gauge that ``status`` no longer has becomes NaN."""
        left = set(self._gauges)
        for family in families({self._engine: status}):
            for sample in family.samples:
                metric = self._metric(family, list(sample.labels)).labels(**sample.labels)
                if family.type == "counter":
                    metric.inc(sample.value - self._counts.get(metric, 0.0))
                    self._counts[metric] = sample.value
                else:
                    metric.set(sample.value)
                    self._gauges.add(metric)
                    left.discard(metric)
        for metric in left:
            metric.set(math.nan)

    def _metric(self, family: Metric, labels: list[str]) -> Gauge | Counter:
        if family.name not in self._metrics:
            about = {"name": family.name, "documentation": family.documentation, "labelnames": labels, "registry": None}
            self._metrics[family.name] = (
                Counter(**about) if family.type == "counter" else Gauge(**about, multiprocess_mode="mostrecent")
            )
        return self._metrics[family.name]


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
