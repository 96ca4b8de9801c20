"""vLLM's scheduler, its requests and its batches' outputs, made without a model."""

from __future__ import annotations

import copy
import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import vllm
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from fluidwait.base.errors import ConfigError
from fluidwait.engines.vllm.requests import PREDICTION
from fluidwait.engines.vllm_clock.model import EOS, LLAMA

_CONFIGS: dict[str, Any] = {}

READ_LATER = ("watermark", "long_prefill_token_threshold", "scheduler_reserve_full_isl")
"""Options that only the scheduler reads, of its own part of the configuration: one configuration does for all of them.

A configuration takes most of a second to make, and they are many: a watermark is a share, and so one for every number
of blocks.
"""


def make_scheduler(
    cls: Callable[..., Any], options: dict[str, Any], *, blocks: int, block_size: int = 16, fluidwait: Any = None
):
    """A scheduler of class ``cls`` in an engine with ``blocks`` KV blocks.

    Args:
        options: of vLLM's ``EngineArgs``; without ``model``, one of ``max_model_len`` tokens that is never loaded.
        fluidwait: the entry of ``additional_config``.
    """
    later = {name: value for name, value in _known(options).items() if name in READ_LATER}
    kept = {name: value for name, value in options.items() if name not in later}
    config = copy.copy(_config(kept | {"block_size": block_size}))
    config.scheduler_config = copy.copy(config.scheduler_config)
    for name, value in later.items():
        setattr(config.scheduler_config, name, value)
    config.cache_config = copy.copy(config.cache_config)
    config.additional_config = {} if fluidwait is None else {"fluidwait": fluidwait}
    config.cache_config.num_gpu_blocks = blocks
    spec = FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float32)
    layout = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    return cls(
        vllm_config=config,
        kv_cache_config=layout,
        structured_output_manager=StructuredOutputManager(config),
        block_size=block_size,
        log_stats=True,
    )


def _config(options: dict[str, Any]):
    """The engine's configuration; it takes most of a second to make."""
    key = repr(sorted(options.items()))
    if key in _CONFIGS:
        return _CONFIGS[key]
    with tempfile.TemporaryDirectory() as folder:
        if "model" not in options:
            model = LLAMA | {"max_position_embeddings": options["max_model_len"]}
            (Path(folder) / "config.json").write_text(json.dumps(model))
            options = {"model": folder, "load_format": "dummy", "skip_tokenizer_init": True} | options
        _CONFIGS[key] = EngineArgs(**_known(options)).create_engine_config()
    return _CONFIGS[key]


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """The options without those that this release of vLLM does not have, which must be off then.

    Raises:
        ConfigError: one of them is on.
    """
    fields = {field.name for field in dataclasses.fields(EngineArgs)}
    for name in sorted(options.keys() - fields):
        if options[name]:
            raise ConfigError(f"vllm: vLLM {vllm.__version__} has no option {name}; these rules are those of vLLM 0.32")
    return {name: value for name, value in options.items() if name in fields}


_HASHERS: dict[int, Any] = {}


def make_request(
    name: str,
    tokens: Sequence[int],
    output: int,
    *,
    priority: int = 0,
    arrival: float | None = None,
    block_size: int = 16,
    predicted: int = 0,
) -> Request:
    """A request with these prompt tokens that generates ``output`` tokens; ``predicted`` of them, 0: not predicted."""
    if block_size not in _HASHERS:
        init_none_hash(sha256)
        _HASHERS[block_size] = get_request_block_hasher(block_size, sha256)
    extra = {PREDICTION: predicted} if predicted else None
    params = SamplingParams(max_tokens=output, ignore_eos=True, extra_args=extra)
    params.update_from_generation_config({}, EOS)
    return Request(
        request_id=name,
        prompt_token_ids=list(tokens),
        sampling_params=params,
        pooling_params=None,
        arrival_time=arrival,
        priority=priority,
        block_hasher=_HASHERS[block_size],
    )


def computed_before(output) -> dict[str, int]:
    """Tokens of every request in a batch that were computed before it."""
    computed = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
    cached = output.scheduled_cached_reqs
    computed.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
    return computed


def model_output(output, known: dict[str, int], token: Callable[[str], int]) -> ModelRunnerOutput:
    """What a model would give for a batch: a token for each request whose ``known`` tokens are then all computed."""
    names, computed = list(output.num_scheduled_tokens), computed_before(output)
    ends = [name in known and computed[name] + output.num_scheduled_tokens[name] >= known[name] for name in names]
    return ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: i for i, name in enumerate(names)},
        sampled_token_ids=[[token(name)] if end else [] for name, end in zip(names, ends, strict=True)],
        logprobs=None,
        prompt_logprobs_dict={},
        pooler_output=[],
    )
