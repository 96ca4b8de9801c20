"""A vLLM server on a Llama with random weights and a tokenizer of a few hundred words, to try schedulers on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fluidwait.base.errors import FluidwaitError
from fluidwait.device.hardware import ModelShape
from fluidwait.engines.vllm.load.engine import EngineSettings, engine_options, write_model

NAME = "tiny-llama"


class ServerError(FluidwaitError):
    """A server that did not start or ended by itself."""


def write_tokenizer(folder: Path, words: int) -> None:
    """A tokenizer whose tokens are the words ``<unk> <s> </s> w3 w4 ...``, so text and token ids map to each other."""
    special = ["<unk>", "<s>", "</s>"]
    vocabulary = {word: i for i, word in enumerate([*special, *(f"w{i}" for i in range(len(special), words))])}
    whitespace = {"type": "WhitespaceSplit"}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": word, "special": True, **plain} for i, word in enumerate(special)],
        "normalizer": None,
        "pre_tokenizer": whitespace,
        "post_processor": None,
        "decoder": None,  # tokens are joined by blanks
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": 1_000_000,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


@contextmanager
def serve(
    shape: ModelShape,
    settings: EngineSettings,
    folder: Path,
    arguments: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    patience: float = 300.0,
) -> Iterator[str]:
    """``vllm serve`` with more ``arguments``; yields its URL once it answers, and ends it afterwards.

    The server's output goes to ``folder/server.log``.

    Raises:
        ServerError: it ended, or did not answer within ``patience`` seconds.
    """
    model = write_model(folder, shape, settings)
    write_tokenizer(model, settings.vocabulary)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = engine_options(model, settings)
    left_out = ("model", "skip_tokenizer_init", "scheduler_cls", "disable_log_stats", "enable_prefix_caching")
    flags = [word for name, value in options.items() if name not in left_out for word in _flag(name, value)]
    command = [*command_line(), "serve", str(model)]
    command += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port), *flags, *arguments]
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"} | settings.environment | (environment or {})
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | offline)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, url, folder / "server.log", patience)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def command_line() -> list[str]:
    """``vllm`` of this Python environment, as a command."""
    return [sys.executable, "-m", "fluidwait.engines.vllm"]


def _flag(name: str, value: object) -> list[str]:
    """An option as on the command line."""
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag] if value else []
    return [flag, str(value)]


def _wait(process: subprocess.Popen, url: str, log: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(f"vllm serve ended with code {process.returncode}: {_last_error(log)}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise ServerError(f"vllm serve did not answer within {patience:g} s; see {log}")


def _last_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if "Error" in line]
    return lines[-1] if lines else f"see {log}"
