"""The load generator over HTTP: against a made-up server, and against vllm serve with the scheduler plug-in."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import project_root
from fluidwait.engines.vllm.load import http as loadgen_http
from fluidwait.engines.vllm.load.generator import LoadError, offer
from fluidwait.real.load import _offer
from fluidwait.workload import Requests

needs_aiohttp = pytest.mark.skipif(
    importlib.util.find_spec("aiohttp") is None, reason="aiohttp comes with vLLM (./run.sh setup-vllm)"
)
needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (./run.sh setup-vllm)"
)


def requests(n=5) -> Requests:
    return Requests(np.arange(n) * 0.01, np.full(n, 4), np.full(n, 3), np.zeros(n, dtype=np.int64))


async def against(handler, work, metrics='vllm:num_preemptions_total{engine="0"} 2.0\n', **model):
    """Run ``work(url)`` beside a server whose completions are ``handler``."""
    from aiohttp import web

    async def models(_):
        return web.json_response({"data": [{"id": "made-up"} | model]})

    async def page(_):
        return web.Response(text=f"# HELP\n{metrics}", status=200 if metrics else 404)

    app = web.Application()
    app.add_routes([web.get("/v1/models", models), web.get("/metrics", page)])
    app.add_routes([web.post("/v1/completions", handler)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    try:
        return await work(f"http://127.0.0.1:{port}")
    finally:
        await runner.cleanup()


def events(total, end="data: [DONE]\n\n"):
    async def handler(request):
        from aiohttp import web

        body = await request.json()
        assert body["ignore_eos"] and body["min_tokens"] == body["max_tokens"] == 3 and len(body["prompt"]) == 4
        response = web.StreamResponse()
        await response.prepare(request)
        for count in range(1, total + 1):
            await response.write(f'data: {{"choices": [{{}}], "usage": {{"completion_tokens": {count}}}}}\n\n'.encode())
        await response.write(f'data: {{"choices": [], "usage": {{"completion_tokens": {total}}}}}\n\n{end}'.encode())
        return response

    return handler


async def send_all(url):
    async with loadgen_http.http_sender(url) as send:
        return await offer(requests(), send, vocabulary=100, patience=5)


@needs_aiohttp
def test_streamed_tokens_are_counted_once():
    answers = asyncio.run(against(events(3), send_all))
    assert np.all(answers.first_token <= answers.completion)


@needs_aiohttp
@pytest.mark.parametrize("total", [2, 4])
def test_another_number_of_tokens_is_an_error(total):
    with pytest.raises(LoadError, match=f"asked for 3 tokens, got {total}"):
        asyncio.run(against(events(total), send_all))


@needs_aiohttp
def test_what_the_server_refuses_is_told():
    async def refuses(_):
        from aiohttp import web

        return web.Response(status=400, text="max_tokens is too large")

    with pytest.raises(LoadError, match="request 0 failed: the server answered 400: max_tokens is too large"):
        asyncio.run(against(refuses, send_all))


@needs_aiohttp
@pytest.mark.parametrize(("page", "expected"), [('vllm:num_preemptions_total{engine="0"} 2.0\n', 2), ("", None)])
def test_preemptions_come_from_the_metrics_page_if_there_is_one(page, expected):
    assert asyncio.run(against(events(3), loadgen_http.preemptions, page)) == expected


@needs_aiohttp
def test_nobody_there_is_one_clear_line():
    with pytest.raises(ConfigError, match=r"http://127.0.0.1:1: no OpenAI-compatible server answers there"):
        asyncio.run(send_all("http://127.0.0.1:1"))


@needs_aiohttp
def test_requests_longer_than_the_servers_model_takes_are_not_sent():
    async def never(_):
        raise AssertionError("a request was sent")

    async def load(url):
        return await _offer(url, None, requests(), 100, 1)

    with pytest.raises(
        ConfigError, match=r"4 prompt and 3 output tokens .* but max_model_len .* is 6 \(longest output"
    ):
        asyncio.run(against(never, load, max_model_len=6))
    asyncio.run(against(events(3), load, max_model_len=7))
    asyncio.run(against(events(3), load))  # a server that does not tell


@needs_vllm
def test_vllm_serve_with_the_plug_in_answers_clients_generator_and_benchmark():
    script = project_root() / "benchmarks" / "vllm_server.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "completion: 6" in done.stdout and "streamed: 6" in done.stdout
    assert "load generator: 30 requests" in done.stdout and "preemptions: 0" in done.stdout
    assert "'completed': 40" in done.stdout
