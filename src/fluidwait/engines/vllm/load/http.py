"""Requests to an OpenAI-compatible server over HTTP: streamed completions of token-id prompts with exact lengths."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fluidwait.base.errors import ConfigError
from fluidwait.engines.vllm.load.generator import LoadError, Sender

PREEMPTIONS = "vllm:num_preemptions_total"
"""Counter of a vLLM server's metrics page."""


@asynccontextmanager
async def http_sender(url: str, model: str | None = None) -> AsyncIterator[Sender]:
    """A sender to the server at ``url`` (``http://host:port``).

    Args:
        model: name under which the server serves it; the first that it lists, if not given.

    Raises:
        ConfigError: aiohttp is not installed, or nobody answers at ``url``.
    """
    aiohttp = _aiohttp()
    base = url.rstrip("/").removesuffix("/v1")
    connector = aiohttp.TCPConnector(limit=0)  # no queue of our own in front of the server's
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        name = model or (await _models(session, base, aiohttp))[0]["id"]

        async def send(number: int, prompt: list[int], wanted: int) -> AsyncIterator[int]:
            body = {
                "model": name,
                "prompt": prompt,
                "max_tokens": wanted,
                "min_tokens": wanted,
                "ignore_eos": True,
                "temperature": 0.0,
                "stream": True,
                "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            }
            async with session.post(f"{base}/v1/completions", json=body) as response:
                if response.status != 200:
                    raise LoadError(f"the server answered {response.status}: {(await response.text())[:300]}")
                received = 0
                async for total in _totals(response.content):
                    yield total - received
                    received = total

        yield send


async def preemptions(url: str) -> int | None:
    """Preemptions since the server started, from its metrics page; None when it does not tell."""
    aiohttp = _aiohttp()
    base = url.rstrip("/").removesuffix("/v1")
    async with aiohttp.ClientSession() as session, session.get(f"{base}/metrics") as response:
        if response.status != 200:
            return None
        lines = (await response.text()).splitlines()
    found = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(PREEMPTIONS)]
    return int(sum(found)) if found else None


async def max_model_len(url: str, model: str | None = None) -> int | None:
    """Longest prompt + output, tokens, of the model (the first, if not named); None when the server does not tell."""
    aiohttp = _aiohttp()
    async with aiohttp.ClientSession() as session:
        models = await _models(session, url.rstrip("/").removesuffix("/v1"), aiohttp)
    return next((m.get("max_model_len") for m in models if model in (None, m["id"])), None)


async def _totals(stream) -> AsyncIterator[int]:
    """Output tokens so far, event by event, of a streamed completion."""
    async for line in stream:
        data = line.decode().strip().removeprefix("data:").strip()
        if not data or data == "[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            raise LoadError(f"the server answered {event['error'].get('message', event['error'])}")
        if event.get("usage"):
            yield int(event["usage"]["completion_tokens"])


async def _models(session, base: str, aiohttp) -> list[dict]:
    try:
        async with session.get(f"{base}/v1/models") as response:
            models = (await response.json())["data"]
    except (aiohttp.ClientError, OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{base}: no OpenAI-compatible server answers there ({type(error).__name__})") from None
    if not models:
        raise ConfigError(f"{base}: the server serves no model")
    return models


def _aiohttp():
    try:
        import aiohttp
    except ModuleNotFoundError:
        raise ConfigError("sending requests over HTTP needs the package aiohttp, which comes with vLLM") from None
    return aiohttp
