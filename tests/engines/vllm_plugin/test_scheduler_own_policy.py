"""A user's policy file without any of the optional functions, served by vLLM; and policies that vLLM cannot serve."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fake_engine import FakeEngine, make_request, make_scheduler  # noqa: E402
from own_policies import EVICTING, FEW, SHORTEST, write_policy  # noqa: E402
from real_engine import Engine, greedy, prompts, texts  # noqa: E402
from virtual_clock import serve  # noqa: E402
from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: E402

from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import ROOT_VARIABLE
from fluidwait.device.hardware import load_hardware
from fluidwait.engines import core, simulator
from fluidwait.engines.vllm import WaitScheduler  # noqa: E402
from fluidwait.engines.vllm.requests import predicted_output
from fluidwait.engines.vllm_clock import scheduler as parts
from fluidwait.policies import load_policy  # noqa: E402
from fluidwait.workload import generate, load_workload

A100 = load_hardware("a100-80g_llama-2-7b").time_model("profile")


def test_it_holds_back_what_it_does_not_admit(engine_options, tmp_path):
    """With or without tokens in flight, and with prompts that vLLM cuts: never more than three in a batch."""
    entry = {"policy": write_policy(tmp_path), "settings": {"most": 3}}
    for depth in (1, 2):
        scheduler = make_scheduler(engine_options, WaitScheduler, fluidwait=entry, max_num_batched_tokens=64)
        engine = FakeEngine(scheduler, depth=depth)
        for i in range(40):
            engine.add(make_request(f"r{i}", 1 + 13 * i % 150, 1 + i % 9))
        engine.drain()
        assert engine.tokens == {f"r{i}": 1 + i % 9 for i in range(40)}
        assert max(map(len, engine.batches)) <= 3
        assert engine.steps < 400  # a prompt that vLLM cut goes on at full speed


def test_it_is_the_same_in_the_simulator_and_in_vllm(engine_options, tmp_path):
    """Every request's times, where memory is ample and no prompt is cut."""
    some = generate(load_workload("p512d20"), n=200, rate=12.0, seed=3)
    use = write_policy(tmp_path)
    theirs = serve(engine_options, some, A100, {"policy": use, "settings": {"most": 3}}, blocks=8448)
    policy = load_policy({"policy": use, "most": 3})
    ours = simulator.simulate(some, policy, policy.prepare(None), A100, core.serving(8448))
    assert np.abs(ours.completion - some.arrival - theirs.latency).max() < 1e-9
    assert np.abs(ours.first_token - some.arrival - theirs.first).max() < 1e-9


def test_the_real_engine_gives_the_same_tokens_as_without_us(engine_options, word_tokenizer, tmp_path):
    engine = Engine(engine_options, word_tokenizer)
    params = [greedy(3 + i % 12) for i in range(16)]
    engine.use(AsyncScheduler)
    expected = texts(engine, prompts(16), params)
    engine.use(WaitScheduler, {"policy": write_policy(tmp_path)})
    assert texts(engine, prompts(16), params) == expected
    assert engine.scheduler.gate.report.counts["steps"] > 20
    engine.assert_empty()


def test_the_policy_of_the_page_is_served_by_the_real_engine(engine_options, word_tokenizer, tmp_path, monkeypatch):
    """The file and the server's option are those that ``docs/adding-a-policy.md`` shows."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "adding-a-policy.md").read_text()
    source = re.search(r"^`policies/batch_of.py`:\n\n```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    option = re.search(r"--additional-config '(.*)'$", page, re.MULTILINE)
    entry = json.loads(option[1])["fluidwait"]
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    (tmp_path / "policies").mkdir()
    (tmp_path / entry["policy"]).write_text(source[1])
    engine = Engine(engine_options, word_tokenizer)
    params = [greedy(3 + i % 12) for i in range(40)]
    engine.use(AsyncScheduler)
    expected = texts(engine, prompts(40), params)
    engine.use(WaitScheduler, entry)
    assert texts(engine, prompts(40), params) == expected
    report = engine.scheduler.gate.report
    assert report.policy.name == "batch_of" and report.counts["steps"] > 20
    engine.assert_empty()


@pytest.mark.parametrize("name", ["vllm_v1", "sarathi", "vllm_v0"])
def test_policies_that_ship_without_a_queue_depth_are_served_too(engine_options, name):
    engine = FakeEngine(make_scheduler(engine_options, WaitScheduler, fluidwait=name, max_num_batched_tokens=1024))
    for i in range(60):
        engine.add(make_request(f"r{i}", 1 + 29 * i % 900, 1 + i % 30))
    engine.drain()
    assert engine.tokens == {f"r{i}": 1 + i % 30 for i in range(60)}


MISTAKES = {
    "a name": (FEW.replace("knobs.most)", "knobs.mots)"), "few.py:20: knobs has no 'mots' (did you mean 'most'?)"),
    "a plan": (FEW.replace("return admit_in_order", "return 1 + admit_in_order"), "few.py:15: plan admits "),
    "an answer": (FEW + "\n\ndef queue_depth(knobs):\n    return -1\n", "few.py:23: queue_depth must return a whole"),
}


@pytest.mark.parametrize(("source", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_when_the_server_starts(engine_options, tmp_path, source, message):
    entry = {"policy": write_policy(tmp_path, source)}
    with pytest.raises(ConfigError) as told:
        make_scheduler(engine_options, WaitScheduler, fluidwait=entry)
    assert message in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("orca", "'orca' reserves memory for whole sequences, which vLLM does not"),
        ({"policy": "vllm_v0", "settings": {"token_cap": 100}}, "'vllm_v0' prefills at most 100 tokens at once"),
        ("wait", "workload: required key is missing: 'wait' tells request types apart"),
    ],
)
def test_policies_that_vllm_cannot_serve_are_refused(engine_options, entry, message):
    with pytest.raises(ConfigError, match=message):
        make_scheduler(engine_options, WaitScheduler, fluidwait=entry)


def test_who_is_evicted_is_vllms_to_say(engine_options, tmp_path):
    entry = {"policy": write_policy(tmp_path, EVICTING, "evicting")}
    with pytest.raises(ConfigError, match="'evicting' says itself who is evicted"):
        make_scheduler(engine_options, WaitScheduler, fluidwait=entry)


def test_a_client_may_predict_its_output(engine_options, tmp_path):
    """One at a time, the least predicted first; without a prediction its limit counts."""
    entry = {"policy": write_policy(tmp_path, SHORTEST, "shortest"), "settings": {"most": 1}}
    engine = FakeEngine(make_scheduler(engine_options, WaitScheduler, fluidwait=entry), depth=1)
    for name, predicted in (("late", 9), ("early", 1), ("unknown", 0), ("third", 5)):
        engine.add(parts.make_request(name, [3] * 20, 4, predicted=predicted))
    engine.drain()
    entered = list(dict.fromkeys(name for batch in engine.batches for name in batch))
    assert entered == ["early", "late", "unknown", "third"]  # 9 and 5 are more than its limit of 4 tokens


@pytest.mark.parametrize(
    ("extra", "tokens"), [(None, 0), ({}, 0), (12, 12), (10**6, 50), (0, 0), (-3, 0), (2.0, 0), ("7", 0), (True, 0)]
)
def test_a_prediction_is_a_whole_number_within_the_limit(extra, tokens):
    known = extra if extra is None or isinstance(extra, dict) else {"predicted_output": extra}
    request = SimpleNamespace(sampling_params=SimpleNamespace(extra_args=known))
    assert predicted_output(request, 50) == tokens
    assert predicted_output(SimpleNamespace(sampling_params=None), 50) == 0
