"""vLLM's engine on the tiny Llama, in this process, where the tests can look into it and exchange its scheduler."""

from __future__ import annotations

import copy
import os

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from vllm import LLM, SamplingParams  # noqa: E402


class Engine:
    """``vllm.LLM`` whose scheduler can be exchanged while it is idle."""

    def __init__(self, options: dict, tokenizer, **more):
        more = {"enable_prefix_caching": True, "seed": 0, "skip_tokenizer_init": False} | more
        self.llm = LLM(**(options | more | {"tokenizer": str(tokenizer)}))
        self.core = self.llm.llm_engine.engine_core.engine_core
        self.config = self.core.scheduler.vllm_config
        self.layout = self.core.scheduler.kv_cache_config

    def use(self, cls, entry=None, blocks: int = 64) -> None:
        """Put a scheduler of this class in the place of the one that is there."""
        config = copy.copy(self.config)
        config.scheduler_config = copy.copy(config.scheduler_config)
        config.cache_config = copy.copy(config.cache_config)
        config.additional_config = {"fluidwait": entry} if entry else {}
        config.cache_config.num_gpu_blocks = blocks
        layout = copy.copy(self.layout)
        layout.num_blocks = blocks
        self.blocks = blocks
        self.core.scheduler = cls(
            vllm_config=config,
            kv_cache_config=layout,
            structured_output_manager=self.core.structured_output_manager,
            block_size=self.core.scheduler.block_size,
            log_stats=True,
        )

    @property
    def scheduler(self):
        return self.core.scheduler

    def assert_empty(self) -> None:
        assert self.scheduler.get_request_counts() == (0, 0) and not self.scheduler.requests
        assert self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == self.blocks - 1


def greedy(tokens: int, **more) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True, **more)


def prompts(n: int, longest: int = 90) -> list[dict]:
    return [{"prompt_token_ids": [3 + (7 * i + j) % 200 for j in range(5 + (13 * i) % longest)]} for i in range(n)]


def texts(engine: Engine, inputs: list, params: list, **more) -> list[list[list[int]]]:
    """Tokens per request and choice."""
    outputs = engine.llm.generate(inputs, params, use_tqdm=False, **more)
    return [[list(choice.token_ids) for choice in output.outputs] for output in outputs]
