"""Check that ``vllm serve`` with the scheduler plug-in answers a plain client, our load generator and vLLM's benchmark.

    python benchmarks/vllm_server.py

Everything is made here: a tiny Llama with random weights and a tokenizer. Needs vLLM; a minute on a CPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

SCHEDULER = ["--scheduler-cls", "fluidwait.engines.vllm.WaitScheduler"]
POLICY = {"fluidwait": {"policy": "wait_chunked", "settings": {"in_service": 8, "chunk": 64, "boundaries": [64]}}}


def main() -> int:
    from fluidwait.device.hardware import ModelShape
    from fluidwait.engines.vllm.load.engine import EngineSettings
    from fluidwait.engines.vllm.load.server import NAME, serve
    from fluidwait.real.load import load_server

    shape = ModelShape(
        name=NAME, layers=2, hidden=128, query_heads=4, kv_heads=4, head_dim=32, mlp_hidden=256,
        bytes_per_weight=4, bytes_per_kv=4,
    )  # fmt: skip
    settings = EngineSettings(
        dtype="float32", block_size=32, kv_blocks=64, max_model_len=512, max_num_seqs=16, max_num_batched_tokens=256,
        vocabulary=400, enforce_eager=True, environment={"VLLM_CPU_KVCACHE_SPACE": "1"},
    )  # fmt: skip
    plug_in = [*SCHEDULER, "--additional-config", json.dumps(POLICY)]
    with tempfile.TemporaryDirectory() as scratch, serve(shape, settings, Path(scratch) / NAME, plug_in) as url:
        print("completion:", completion(url, NAME))
        print("streamed:", streamed(url, NAME))
        out = Path(scratch) / "requests.parquet"
        print("load generator:", load_server(url, "p64d20", 10.0, 30, 1, None, 400, out))
        print("vllm bench serve:", bench(url, NAME, Path(scratch)))
    return 0


def completion(url: str, model: str) -> int:
    """Tokens of a plain completion."""
    body = {"model": model, "prompt": "w5 w6 w7 w8", "max_tokens": 6, "ignore_eos": True}
    with post(f"{url}/v1/completions", body) as answer:
        return json.load(answer)["usage"]["completion_tokens"]


def streamed(url: str, model: str) -> int:
    """Tokens of a streamed completion, as its last event says: an event may bring several."""
    body = {"model": model, "prompt": "w5 w6 w7 w8", "max_tokens": 6, "ignore_eos": True, "stream": True}
    with post(f"{url}/v1/completions", body | {"stream_options": {"include_usage": True}}) as answer:
        lines = [line.decode().strip() for line in answer]
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    return events[-1]["usage"]["completion_tokens"] if len(events) > 2 else 0


def bench(url: str, model: str, folder: Path) -> dict[str, float]:
    """What vLLM's own benchmark reports; raises when a request failed."""
    from fluidwait.engines.vllm.load.server import command_line

    result = folder / "bench.json"
    command = [*command_line(), "bench", "serve", "--backend", "openai"]
    command += [
        "--base-url",
        url,
        "--endpoint",
        "/v1/completions",
        "--model",
        model,
        "--tokenizer",
        str(folder / model),
    ]
    command += ["--dataset-name", "random", "--random-input-len", "48", "--random-output-len", "12"]
    command += ["--num-prompts", "40", "--request-rate", "20", "--ignore-eos", "--disable-tqdm"]
    command += ["--save-result", "--result-dir", str(folder), "--result-filename", result.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    report = json.loads(result.read_text())
    if report["completed"] != 40 or report["total_output_tokens"] != 40 * 12:
        raise SystemExit(f"vllm bench serve lost requests or tokens: {report['completed']} of 40 completed")
    return {
        name: round(report[name], 2) for name in ("completed", "request_throughput", "mean_ttft_ms", "mean_tpot_ms")
    }


def post(url: str, body: dict):
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    return urllib.request.urlopen(request, timeout=120)


if __name__ == "__main__":
    sys.exit(main())
