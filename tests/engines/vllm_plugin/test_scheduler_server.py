"""``vllm serve`` with the plug-in, over HTTP, with a plain OpenAI client."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")
import httpx  # noqa: E402
import openai  # noqa: E402

from fluidwait.engines.vllm.load.server import command_line

ENTRY = {
    "policy": "nested_wait",
    "settings": {"thresholds": [2, 1], "boundaries": [5, 60], "max_wait": 0.2},
    "log_interval": 1,
}


@pytest.fixture(scope="module")
def server(tiny_llama, word_tokenizer, tmp_path_factory):
    """Address of a running server and the path of its log."""
    folder = tmp_path_factory.mktemp("served")
    for source in (tiny_llama, word_tokenizer):
        shutil.copytree(source, folder / "tiny", dirs_exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *command_line(),
        "serve",
        str(folder / "tiny"),
        "--served-model-name",
        "tiny",
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--load-format", "dummy", "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "512", "--num-gpu-blocks-override", "64", "--block-size", "32"]
    command += ["--scheduler-cls", "fluidwait.engines.vllm.WaitScheduler"]
    command += ["--additional-config", json.dumps({"fluidwait": ENTRY})]
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"VLLM_LOGGING_LEVEL": "INFO", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while not _healthy(address):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.5)
        yield address, log
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the session that was started above
            process.wait()


def _healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server[0]}/v1", api_key="none", max_retries=0, timeout=60)


def complete(client, i: int, tokens: int = 20):
    return client.completions.create(
        model="tiny", prompt=f"w{i % 200 + 3} w4 w5", max_tokens=tokens, extra_body={"ignore_eos": True}
    )


def test_completions(client):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: complete(client, i, 1 + i), range(32)))
    assert [answer.usage.completion_tokens for answer in answers] == list(range(1, 33))
    assert {answer.choices[0].finish_reason for answer in answers} == {"length"}


def test_streaming(client):
    stream = client.completions.create(
        model="tiny", prompt="w7 w8", max_tokens=12, stream=True, extra_body={"ignore_eos": True}
    )
    pieces = [chunk.choices[0].text for chunk in stream]
    assert len("".join(pieces).split()) == 12
    assert len(pieces) > 3


def test_a_client_that_goes_away(client, server):
    """It leaves in the middle of its stream; the server drops its request and serves the next."""
    with client.completions.create(
        model="tiny", prompt="w7 w8", max_tokens=400, stream=True, extra_body={"ignore_eos": True}
    ) as stream:
        next(iter(stream))
    assert complete(client, 1, 8).usage.completion_tokens == 8
    deadline = time.monotonic() + 20
    while 'vllm:num_requests_running{engine="0",model_name="tiny"} 0.0' not in metrics(server):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_client_that_goes_away_while_it_is_held(client, server):
    """It gives up before the gate opens; the request leaves the queue and the next is served."""
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.1).completions.create(model="tiny", prompt="w7 w8", max_tokens=400)
    assert complete(client, 1, 8).usage.completion_tokens == 8
    deadline = time.monotonic() + 20
    while 'vllm:num_requests_waiting{engine="0",model_name="tiny"} 0.0' not in (text := metrics(server)) or (
        'vllm:num_requests_running{engine="0",model_name="tiny"} 0.0' not in text
    ):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def metrics(server) -> str:
    return httpx.get(f"{server[0]}/metrics", timeout=10).text


def test_metrics_and_log(client, server):
    deadline = time.monotonic() + 20
    while "engine" not in (line := _line(metrics(server), "fluidwait_admitted_total")):
        complete(client, 1)
        assert time.monotonic() < deadline
    assert float(line.split()[-1]) > 0
    text = metrics(server)
    for name in ("waiting_held", "resident_paused", "arrival_rate", "steps_total", "empty_steps_total"):
        assert f'fluidwait_{name}{{engine="0"}}' in text
    assert 'fluidwait_threshold{engine="0",segment="1"} 2.0' in text
    assert 'reason="gate"' in text
    while "thresholds [2, 1]" not in (log := server[1].read_text()):
        complete(client, 1)
        assert time.monotonic() < deadline
    assert "fluidwait: nested_wait with" in log


def _line(text: str, name: str) -> str:
    return next((line for line in text.splitlines() if line.startswith(name)), "")
