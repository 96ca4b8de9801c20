"""How vLLM V1 counts memory and fills a batch: the settings of its scheduler, and what is known of the requests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fluidwait.policies.contract import NO_LIMIT

NULL_BLOCK = 1
"""Of the blocks that vLLM sets up, one stands for no block and holds nothing."""


class Rules(NamedTuple):
    """An engine's settings; made by :func:`vllm`."""

    blocks: int  # KV blocks that hold tokens
    block_size: int  # tokens
    watermark: int  # blocks that admissions leave free while anything runs
    requests: int  # running at most (max_num_seqs)
    tokens: int  # of a batch at most (max_num_batched_tokens)
    batch: int  # of a batch besides, unless more requests than that are running: a limit of the plug-in's
    chunk: int  # prefill tokens of a request and batch (long_prefill_token_threshold), unless it is alone; 0: no limit
    whole: bool  # admit when all known tokens fit, not only the first chunk (scheduler_reserve_full_isl)
    by_priority: bool  # smaller numbers first, and those preempt others (scheduling_policy)
    caching: bool  # of prefixes (enable_prefix_caching)
    depth: int  # 2: a step is planned while the one before runs (async_scheduling); 1: not

    @property
    def prefill_emits(self) -> bool:
        """The iteration that ends the prefill also yields the first output token."""
        return True

    @property
    def recompute(self) -> bool:
        """A preempted request keeps its generated tokens and prefills them again."""
        return True

    @property
    def remote_prefill(self) -> bool:
        """Prompts are prefilled here."""
        return False


def vllm(
    blocks: int,
    *,
    block_size: int = 16,
    watermark: float = 0.0,
    requests: int = 256,
    tokens: int = 2048,
    chunk: int = 0,
    whole: bool = True,
    by_priority: bool = False,
    caching: bool = False,
    asynchronous: bool = True,
) -> Rules:
    """The rules of an engine with ``blocks`` blocks (num_gpu_blocks); ``watermark`` is a share of them."""
    depth, spare = 2 if asynchronous else 1, int(watermark * blocks)
    return Rules(
        blocks - NULL_BLOCK, block_size, spare, requests, tokens, NO_LIMIT, chunk, whole, by_priority, caching, depth
    )


def known_blocks(requests, rules: Rules) -> list | None:
    """What the requests say of the blocks of their prompts, where prefixes are cached; None: nothing."""
    return list(requests.blocks) if rules.caching and len(requests.blocks) else None


def model_length(requests) -> int:
    """A context length (max_model_len) for these requests; one of few: vLLM's configurations take long to make."""
    longest = int((np.asarray(requests.prompt) + np.asarray(requests.output)).max()) + 1
    return max(4096, 1 << longest.bit_length())


class State(NamedTuple):
    """What is known of the requests; arrays by request index."""

    arrival: np.ndarray  # float64, s
    priority: np.ndarray  # int64
    prompt: np.ndarray  # int64, tokens
    output: np.ndarray  # int64, tokens
    goal: np.ndarray  # int64, tokens to prefill: the prompt, and after a preemption what was generated before
    cached: np.ndarray  # int64, tokens computed, those on their way included
    generated: np.ndarray  # int64, tokens, those on their way included
    delivered: np.ndarray  # int64, tokens
    held: np.ndarray  # int64, blocks
    planned: np.ndarray  # int64, tokens of the step that is being planned
    is_running: np.ndarray  # bool
    first_token: np.ndarray  # float64, s, nan until it is there
    completion: np.ndarray  # float64, s, nan until it is there
    preemptions: np.ndarray  # int64
    recomputed: np.ndarray  # int64, tokens that were computed and dropped


class Lists(NamedTuple):
    """Requests in order, as indices, and the steps in flight, of which there are two at most."""

    waiting: np.ndarray  # uint64, a window [head, tail); ``tail`` is the number of arrivals so far
    running: np.ndarray  # uint64, the first so many, in the order of their admission
    given: np.ndarray  # uint64[2, most running]: requests that a step in flight gives a token, the first so many
    givens: np.ndarray  # int64[2]: how many
    end: np.ndarray  # float64[2]: when it ends, s


def new_state(requests, priority: np.ndarray | None = None) -> State:
    """All of them still to arrive. ``requests`` has arrival, prompt and output, arrays of length N."""
    n = len(requests.arrival)

    def zeros() -> np.ndarray:
        return np.zeros(n, dtype=np.int64)

    prompt = np.array(requests.prompt, dtype=np.int64)
    return State(
        np.array(requests.arrival, dtype=np.float64),
        zeros() if priority is None else np.array(priority, dtype=np.int64),
        prompt,
        np.array(requests.output, dtype=np.int64),
        prompt.copy(),
        zeros(),
        zeros(),
        zeros(),
        zeros(),
        zeros(),
        np.zeros(n, dtype=np.bool_),
        np.full(n, np.nan),
        np.full(n, np.nan),
        zeros(),
        zeros(),
    )


def new_lists(n: int, rules: Rules) -> Lists:
    """Room for ``n`` requests."""
    most = min(n, rules.requests) + 1
    waiting, running, given = (np.zeros(shape, dtype=np.uint64) for shape in (n, most, (2, most)))
    return Lists(waiting, running, given, np.zeros(2, dtype=np.int64), np.zeros(2))
