"""What the plug-in leaves to the real engine (grammars, LoRA, pause and resume), and what it refuses at start-up."""

from __future__ import annotations

import json
import os
import re

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")

import torch  # noqa: E402
from real_engine import Engine, greedy, prompts, texts  # noqa: E402
from vllm import LLM, SamplingParams, envs  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402
from vllm.sampling_params import StructuredOutputsParams  # noqa: E402
from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: E402

from fluidwait.base.errors import ConfigError
from fluidwait.engines.vllm import WaitScheduler  # noqa: E402
from fluidwait.engines.vllm.load.engine import engine_version

RELEASE = engine_version()
LORA = not (RELEASE.startswith("0.22.") and torch.version.cuda and not torch.cuda.is_available())
needs_lora = pytest.mark.skipif(not LORA, reason="vLLM 0.22 pins memory for LoRA: PyTorch for CUDA needs a GPU for it")

CHUNKED = {
    "policy": "wait_chunked",
    "settings": {"in_service": 4, "boundaries": [12], "chunk": 32, "max_wait": 0.02},
}
NESTED = {"policy": "nested_wait", "settings": {"thresholds": [3, 2], "boundaries": [6, 40], "max_wait": 0.03}}
PATIENT = {"policy": "nested_wait", "settings": {"thresholds": [3], "boundaries": [40], "max_wait": 2.0}}
POLICIES = pytest.mark.parametrize("entry", [CHUNKED, NESTED], ids=["wait_chunked", "nested_wait"])
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "size": {"enum": ["small", "large"]}},
    "required": ["ok", "size"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine(engine_options, character_tokenizer):
    """With LoRA for one adapter at a time: a request for another one waits until the first is out."""
    return Engine(
        engine_options,
        character_tokenizer,
        async_scheduling=True,
        enable_lora=LORA,
        max_loras=1,
        max_lora_rank=8,
        structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
    )


def guided(**what) -> SamplingParams:
    return SamplingParams(max_tokens=60, temperature=0.0, structured_outputs=StructuredOutputsParams(**what))


@POLICIES
def test_grammars(engine, entry):
    """Requests with a regular expression and with a JSON schema, among others, get what they get without us."""
    params = [[greedy(15), guided(regex="[a-d]{3,6}-[0-9]{2}"), guided(json=SCHEMA)][i % 3] for i in range(18)]
    engine.use(AsyncScheduler)
    expected = texts(engine, prompts(18), params)
    engine.use(WaitScheduler, entry)
    assert texts(engine, prompts(18), params) == expected
    engine.assert_empty()
    words = engine.llm.get_tokenizer()
    answers = [words.decode(choices[0], skip_special_tokens=True) for choices in expected]
    assert all(re.fullmatch("[a-d]{3,6}-[0-9]{2}", answer) for answer in answers[1::3])
    assert all(set(json.loads(answer)) == {"ok", "size"} for answer in answers[2::3])


@needs_lora
@POLICIES
def test_adapters_that_take_turns(engine, adapters, entry):
    """Two LoRA adapters, room for one: requests wait for the slot, and everyone gets the tokens of its own adapter."""
    # nobody without: in a mixed batch vLLM's CPU build gives those requests an adapter too
    loras = [LoRARequest(f"adapter{i}", i + 1, str(folder)) for i, folder in enumerate(adapters)]
    inputs, params = prompts(18), [greedy(5 + i % 12) for i in range(18)]
    engine.use(AsyncScheduler)
    plain = texts(engine, inputs, params)
    expected = texts(engine, inputs, params, lora_request=loras * 9)
    assert sum(with_adapter != without for with_adapter, without in zip(expected, plain, strict=True)) > 9
    engine.use(WaitScheduler, entry)
    assert texts(engine, inputs, params, lora_request=loras * 9) == expected
    engine.assert_empty()


def test_pause_resume_and_cache_reset_while_requests_are_held(engine):
    """Two of the three that the gate wants wait through a pause, a cache reset and a resume; the third frees them."""
    params = [greedy(8)] * 3
    engine.use(AsyncScheduler)
    expected = [choices[0] for choices in texts(engine, prompts(3), params)]
    engine.use(WaitScheduler, PATIENT)
    front, core = engine.llm.llm_engine, engine.core
    for i, prompt in enumerate(prompts(2)):
        front.add_request(f"held{i}", prompt, params[i])
    for _ in range(5):
        assert front.step() == []
    assert engine.scheduler.get_request_counts() == (0, 2)
    core.pause_scheduler(mode="keep", clear_cache=True)
    for _ in range(3):
        assert front.step() == []
    core.resume_scheduler()
    core.reset_prefix_cache(reset_running_requests=True)
    for _ in range(3):
        assert front.step() == []
    assert engine.scheduler.get_request_counts() == (0, 2)
    front.add_request("held2", prompts(3)[2], params[2])
    ended = {}
    while front.has_unfinished_requests():
        ended |= {output.request_id: list(output.outputs[0].token_ids) for output in front.step() if output.finished}
    assert [ended[f"held{i}"] for i in range(3)] == expected
    engine.assert_empty()


def test_a_pause_that_aborts_takes_the_held_ones_along(engine):
    engine.use(WaitScheduler, PATIENT)
    front, core = engine.llm.llm_engine, engine.core
    for i, prompt in enumerate(prompts(2)):
        front.add_request(f"gone{i}", prompt, greedy(8))
    front.step()
    core.pause_scheduler(mode="abort")
    front.abort_request(["gone0", "gone1"])  # in this process nobody else tells the front end
    core.resume_scheduler()
    assert len(texts(engine, prompts(6), [greedy(8)] * 6)) == 6
    engine.assert_empty()


UNSUPPORTED = [
    ({"pipeline_parallel_size": 2}, "pipeline parallelism: its stages run several batches at once"),
    (
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}},
        "speculative decoding: a decode is then more than one token",
    ),
    (
        {"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}},
        "KV transfer (disaggregation, offloading): it is untested",
    ),
    (
        {"ec_transfer_config": {"ec_connector": "ECExampleConnector", "ec_role": "ec_consumer"}},
        "encoder-cache transfer (encoders on other machines): it is untested",
    ),
]


@pytest.mark.parametrize(("feature", "why"), UNSUPPORTED, ids=["pipeline", "speculative", "kv_transfer", "ec_transfer"])
def test_an_engine_with_what_is_unsupported_does_not_start(engine_options, monkeypatch, feature, why):
    """The engine itself is started with the feature switched on, and ends with one line."""
    if "speculative_config" in feature and RELEASE.startswith("0.20."):
        pytest.skip("the CPU build of vLLM 0.20 itself fails with speculative decoding")
    bound = os.environ["VLLM_CPU_OMP_THREADS_BIND"]
    if "pipeline_parallel_size" in feature and bound != "nobind":
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{bound}|{bound}")  # one entry per stage
        envs.disable_envs_cache()
    with pytest.raises(ConfigError) as told:
        LLM(**engine_options, **feature, scheduler_cls="fluidwait.engines.vllm.WaitScheduler")
    assert str(told.value) == f"WaitScheduler does not work with {why}; leave out --scheduler-cls"
