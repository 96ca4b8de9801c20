"""The plug-in in the real engine: a tiny Llama on the CPU, one engine for all tests, its scheduler exchanged.

Everything runs with asynchronous scheduling; the last test runs this file once more without.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")

ASYNCHRONOUS = os.environ.get("FLUIDWAIT_TEST_SYNC") is None

from real_engine import Engine, greedy, prompts, texts  # noqa: E402
from vllm import SamplingParams  # noqa: E402
from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: E402
from vllm.v1.core.sched.scheduler import Scheduler  # noqa: E402

from fluidwait.engines.vllm import WaitScheduler  # noqa: E402

STOCK = AsyncScheduler if ASYNCHRONOUS else Scheduler
CHUNKED = {
    "policy": "wait_chunked",
    "settings": {"in_service": 16, "boundaries": [12], "chunk": 32, "max_wait": 0.02},
}
NESTED = {"policy": "nested_wait", "settings": {"thresholds": [3, 2], "boundaries": [6, 40], "max_wait": 0.03}}
POLICIES = pytest.mark.parametrize("entry", [CHUNKED, NESTED], ids=["wait_chunked", "nested_wait"])


@pytest.fixture(scope="module")
def engine(engine_options, word_tokenizer):
    return Engine(engine_options, word_tokenizer, async_scheduling=ASYNCHRONOUS)


@POLICIES
def test_the_same_tokens_as_without_us(engine, entry):
    """Held, paused, chunked, preempted: every request still gets token for token what vLLM alone gives it."""
    params = [greedy(3 + i % 20) for i in range(24)]
    engine.use(STOCK)
    expected = texts(engine, prompts(24), params)
    for blocks in (64, 40):
        engine.use(WaitScheduler, entry, blocks)
        assert texts(engine, prompts(24), params) == expected
        engine.assert_empty()
    assert engine.scheduler.gate.report.counts["steps"] > 20


def test_several_choices_and_stop_tokens_and_stop_strings(engine):
    """n > 1, a stop token, and a stop string, which the front end finds and aborts."""
    inputs = prompts(6)
    engine.use(STOCK)
    plain = texts(engine, inputs, [greedy(20)] * 6)
    stops = [choice[0][10] for choice in plain]
    params = [greedy(20, stop_token_ids=[token]) for token in stops]
    params += [greedy(20, stop=[f"w{token}"]) for token in stops]
    many = [SamplingParams(n=3, max_tokens=8, temperature=1.0, seed=i, ignore_eos=True) for i in range(6)]
    expected = texts(engine, inputs * 3, params + many)
    engine.use(WaitScheduler, CHUNKED)
    found = texts(engine, inputs * 3, params + many)
    assert found[:12] == expected[:12]
    assert all(len(choices[0]) <= 11 for choices in found[:12])
    assert [[len(choice) for choice in choices] for choices in found[12:]] == [[8, 8, 8]] * 6
    engine.assert_empty()


def test_a_request_longer_than_memory_is_vllms_error(engine):
    engine.use(WaitScheduler, CHUNKED)
    with pytest.raises(Exception, match="maximum context length is 1024 tokens"):
        engine.llm.generate([{"prompt_token_ids": [5] * 1500}], greedy(4), use_tqdm=False)
    assert texts(engine, prompts(2), [greedy(4)] * 2)
    engine.assert_empty()


@POLICIES
def test_disconnects_pauses_and_resets_in_the_real_engine(engine, entry):
    """A small soak: 60 requests, random aborts, cache resets; everyone ends, no block leaks."""
    engine.use(WaitScheduler, entry, 40)
    front, chance = engine.llm.llm_engine, random.Random(3)
    ends: dict[str, int] = {}
    aborted: set[str] = set()
    inputs = prompts(60)
    for i, prompt in enumerate(inputs):
        front.add_request(f"r{i}", prompt, greedy(1 + i % 25))
    steps = 0
    while front.has_unfinished_requests():
        for output in front.step():
            if output.finished:
                ends[output.request_id] = len(output.outputs[0].token_ids)
        if steps % 9 == 4:
            name = f"r{chance.randrange(60)}"
            if name not in ends:
                front.abort_request([name])
                aborted.add(name)
        if steps % 31 == 30:
            engine.core.scheduler.reset_prefix_cache(reset_running_requests=True)
        steps += 1
    assert aborted
    assert set(ends) | aborted == {f"r{i}" for i in range(60)}
    assert all(ends[name] == 1 + int(name[1:]) % 25 for name in ends if name not in aborted)
    while engine.scheduler.has_requests():
        front.step()
    engine.assert_empty()


def test_all_of_it_without_asynchronous_scheduling(request):
    """The other tests of this file again in a process of their own: the mode is chosen when the engine starts."""
    others = ["-k", f"not {request.node.name}"]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *others, __file__]
    done = subprocess.run(command, env=os.environ | {"FLUIDWAIT_TEST_SYNC": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.split()[0] == "......", done.stdout  # six tests ran
