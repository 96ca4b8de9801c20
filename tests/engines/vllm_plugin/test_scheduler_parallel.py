"""More than one worker (tensor parallelism) and more than one engine (data parallelism) behind one server."""

from __future__ import annotations

import json
import os
import time

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")
import httpx  # noqa: E402
from real_engine import Engine, greedy, prompts, texts  # noqa: E402
from vllm import envs  # noqa: E402
from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: E402

from fluidwait.device.hardware import ModelShape
from fluidwait.engines.vllm import WaitScheduler  # noqa: E402
from fluidwait.engines.vllm.load.engine import EngineSettings
from fluidwait.engines.vllm.load.server import NAME, serve

ENTRY = {
    "policy": "wait_chunked",
    "settings": {"in_service": 8, "boundaries": [12], "chunk": 32, "max_wait": 0.05},
}
TINY = ModelShape(
    name=NAME, layers=2, hidden=64, query_heads=2, kv_heads=2, head_dim=32, mlp_hidden=128,
    bytes_per_weight=4, bytes_per_kv=4,
)  # fmt: skip


@pytest.fixture(autouse=True)
def a_core_for_each_worker(monkeypatch):
    """vLLM 0.20 fails at start when threads are bound to no core, see conftest.py."""
    envs.disable_envs_cache()  # an engine that ran in this process keeps the environment of its start
    if os.environ["VLLM_CPU_OMP_THREADS_BIND"] != "nobind":
        cores = sorted(os.sched_getaffinity(0))
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{cores[0]}|{cores[-1]}")


def test_tensor_parallel_gives_the_same_tokens(engine_options, word_tokenizer):
    engine = Engine(engine_options, word_tokenizer, tensor_parallel_size=2)
    params = [greedy(3 + i % 10) for i in range(16)]
    engine.use(AsyncScheduler)
    expected = texts(engine, prompts(16), params)
    engine.use(WaitScheduler, ENTRY)
    assert texts(engine, prompts(16), params) == expected
    engine.assert_empty()
    assert engine.scheduler.gate.report.counts["admitted"] == 16
    engine.llm.llm_engine.engine_core.shutdown()


def test_data_parallel_engines_and_their_metrics(tmp_path):
    """Two engines, each with a scheduler of its own, and two API servers, each of which knows the metrics of both."""
    settings = EngineSettings(
        dtype="float32", block_size=32, kv_blocks=64, max_model_len=512, max_num_seqs=16, max_num_batched_tokens=256,
        vocabulary=256, enforce_eager=True,
    )  # fmt: skip
    options = ["--scheduler-cls", "fluidwait.engines.vllm.WaitScheduler"]
    options += ["--additional-config", json.dumps({"fluidwait": ENTRY}), "--data-parallel-size", "2"]
    with serve(TINY, settings, tmp_path / "served", options) as url:
        body = {"model": NAME, "prompt": "w5 w6 w7", "max_tokens": 8, "ignore_eos": True}
        sent, deadline = 0, time.monotonic() + 60
        while not all(_value(url, f'fluidwait_admitted_total{{engine="{engine}"}}') for engine in (0, 1)):
            assert time.monotonic() < deadline, httpx.get(f"{url}/metrics").text
            answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()
            assert answer["usage"]["completion_tokens"] == 8
            sent += 1
        pages = [httpx.get(f"{url}/metrics").text for _ in range(8)]  # a new connection: any of the API servers
    for page in pages:
        for engine in (0, 1):
            for name in ("active", "in_service_limit", "status_time_seconds", "steps_total"):
                assert f'fluidwait_{name}{{engine="{engine}"}}' in page
            assert f'fluidwait_held_steps_total{{engine="{engine}",reason="cap"}} 0.0' in page
    admitted = sum(_find(pages[-1], f'fluidwait_admitted_total{{engine="{engine}"}}') for engine in (0, 1))
    assert 0 < admitted <= sent  # every engine counts its own, at most a second late


def _value(url: str, name: str) -> float:
    return _find(httpx.get(f"{url}/metrics", timeout=10).text, name)


def _find(page: str, name: str) -> float:
    return next((float(line.split()[-1]) for line in page.splitlines() if line.startswith(name)), 0.0)
