"""Load a server over HTTP and record every request in the schema of all engines."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.records import REQUESTS, RecordWriter
from fluidwait.artifacts.sidecar import write_artifact
from fluidwait.engines.vllm.load import generator as loadgen
from fluidwait.engines.vllm.load import http as loadgen_http
from fluidwait.workload import Requests, check_fits, check_offered, generate, input_files, load_workload


def load_server(
    url: str, workload: str, rate: float, n: int, seed: int, model: str | None, vocabulary: int, out: Path
) -> str:
    """Send ``n`` requests at ``rate`` requests/s; returns a summary in words.

    Raises:
        ConfigError: the workload is wrong or too long for the model, or no server answers at ``url``.
        LoadError: a request was lost.
    """
    law = load_workload(workload)
    requests = generate(law, n=n, rate=rate, seed=seed)
    check_offered(law, n, rate, f"workload {law.name}")
    answers, preempted = asyncio.run(_offer(url, model, requests, vocabulary, seed))
    late = loadgen.drift(requests, answers)
    # A server tells its preemptions in all; by request they are known only when there were none.
    evictions = np.zeros(n, dtype=np.int64) if preempted == 0 else None
    columns = loadgen.columns_of(requests, answers, evictions)
    asked = {"rate": rate, "requests": n, "seed": seed, "vocabulary": vocabulary}
    measured = {f"drift_{name}": value for name, value in late._asdict().items()} | {"evictions": preempted}

    def write(path: Path, key: str) -> None:
        with RecordWriter(path, REQUESTS, engine="http", policy="unknown", config_hash=key) as writer:
            writer.append("run", columns, config_hash=key, parameters=asked | measured)

    write_artifact(
        out,
        write,
        config=asked | {"workload": law},
        inputs=input_files(law),
        code=imported_modules(__name__),
        rule="fluidwait real load",
    )
    latency = answers.completion - requests.arrival
    return (
        f"{n} requests, mean latency {latency.mean():.4g} s, 99 % {np.percentile(latency, 99):.4g} s; "
        f"sent {1e3 * late.mean:.2g} ms late on average, {1e3 * late.largest:.2g} ms at most; "
        f"preemptions: {'not told by the server' if preempted is None else preempted}"
    )


async def _offer(url: str, model: str | None, requests: Requests, vocabulary: int, seed: int):
    async with loadgen_http.http_sender(url, model) as send:
        longest = await loadgen_http.max_model_len(url, model)
        if longest is not None:
            check_fits(requests, np.inf, f"workload, of {url}", longest)
        before = await loadgen_http.preemptions(url)
        answers = await loadgen.offer(requests, send, vocabulary=vocabulary, seed=seed)
        after = await loadgen_http.preemptions(url)
    return answers, None if before is None or after is None else after - before
