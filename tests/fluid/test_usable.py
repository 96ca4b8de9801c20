"""The usable bound: less than the fluid bound by the watermark and the rounding to blocks, and by nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from fluid_laws import D0, D1, law, laws
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidwait.base.errors import ConfigError
from fluidwait.device.hardware import load_hardware
from fluidwait.device.timing import linear
from fluidwait.engines import core
from fluidwait.engines.simulator import simulate
from fluidwait.fluid.calibrated import calibrated_boundary
from fluidwait.fluid.usable import held_tokens, usable_boundary, usable_capacity
from fluidwait.policies import load_policy
from fluidwait.workload import Requests

SEMANTICS = st.sampled_from(["serving", "decode", "paper"])
A100 = load_hardware("a100-80g_llama-2-7b")


def held_by(prompt: int, output: int, size: int, semantics: str) -> int:
    """The same, iteration by iteration: tokens cached at the end of each, rounded up to blocks."""
    first = prompt - 1 if semantics == "decode" else prompt
    decodes = output - 1 if semantics == "serving" else output
    cached = ([] if semantics == "decode" else [prompt]) + [first + i + 1 for i in range(decodes)]
    return sum(-(-tokens // size) * size for tokens in cached)


@given(st.integers(1, 90), st.integers(1, 70), st.integers(1, 40), SEMANTICS)
def test_held_tokens_follow_a_request_through_its_iterations(prompt, output, size, semantics):
    assert held_tokens(law([prompt], [output]), size, semantics).tolist() == [held_by(prompt, output, size, semantics)]


@settings(deadline=None)
@given(laws(), st.integers(2, 400), st.integers(1, 40), st.floats(0, 0.9), SEMANTICS)
def test_it_is_never_above_the_fluid_bound_and_at_most_the_rounding_below(law, blocks, size, share, semantics):
    watermark, model = int(share * blocks), linear(D0, D1)
    nominal = calibrated_boundary(law, model, float(blocks * size), semantics=semantics)
    usable = usable_boundary(law, model, blocks, size, watermark, semantics)
    assert usable.rate <= nominal.rate * (1 + 1e-12)
    capacity = usable_capacity(law, blocks, size, watermark, semantics)
    assert capacity <= (blocks - watermark) * size * (1 + 1e-12)
    assert capacity >= (blocks - watermark) * (1 - 1e-12)  # a token never holds more than a block


@settings(deadline=None)
@given(laws(), st.integers(2, 400), SEMANTICS)
def test_with_blocks_of_a_token_and_no_watermark_it_is_the_fluid_bound(law, blocks, semantics):
    model = linear(D0, D1)
    nominal = calibrated_boundary(law, model, float(blocks), semantics=semantics)
    assert usable_boundary(law, model, blocks, 1, 0, semantics).rate == pytest.approx(nominal.rate, rel=1e-12)


def test_where_time_binds_memory_does_not_matter():
    short = law([512], [20])
    usable = usable_boundary(short, A100.time_model("profile"), A100.kv_blocks, 16, 84)
    assert usable.rate == calibrated_boundary(short, A100.time_model("profile"), A100.kv_blocks * 16.0).rate


@pytest.mark.parametrize("preset", ["serving", "decode"])
def test_the_engine_holds_what_it_says(preset):
    """A request alone, its blocks counted in every iteration of the simulator."""
    prompt, output = 37, 90
    semantics = getattr(core, preset)(100)
    one = Requests(np.zeros(1), np.array([prompt]), np.array([output]), np.zeros(1, dtype=np.int64))
    policy = load_policy("vllm_v1")
    log = simulate(one, policy, policy.prepare(None), linear(1.0, 0.0), semantics, log=True).log
    held = sum(-(-tokens // 16) * 16 for tokens in log[:, 4])
    assert held == held_tokens(law([prompt], [output]), 16, preset)[0]


@pytest.mark.parametrize(("blocks", "size", "watermark", "told"), [(10, 16, 10, "watermark"), (10, 0, 0, "block_size")])
def test_mistakes_are_one_line(blocks, size, watermark, told):
    with pytest.raises(ConfigError, match=told) as raised:
        usable_capacity(law([5], [5]), blocks, size, watermark)
    assert "\n" not in str(raised.value)
