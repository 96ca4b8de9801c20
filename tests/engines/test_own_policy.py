"""A user's policy file without any of the optional functions, in the simulator and in Vidur."""

from __future__ import annotations

import numpy as np
import pytest
from engine_cases import A100, requests
from own_policies import write_policy

from fluidwait.engines import core
from fluidwait.engines.simulator import simulate
from fluidwait.engines.vidur import simulate_vidur
from fluidwait.policies import load_policy


@pytest.mark.parametrize("blocks", [2000, 60], ids=["ample memory", "evictions"])
def test_the_simulator_and_vidur_agree(tmp_path, blocks):
    random = np.random.default_rng(1)
    arrival = np.cumsum(random.exponential(0.05, 200))
    some = requests(arrival, random.integers(1, 400, 200), random.integers(1, 60, 200))
    policy = load_policy({"policy": write_policy(tmp_path), "most": 6})
    arguments = (some, policy, policy.prepare(None), A100, core.serving(blocks))
    ours, theirs = simulate(*arguments, check=True), simulate_vidur(*arguments)
    assert np.abs(ours.completion - theirs.completion).max() <= 1e-9
    assert np.abs(ours.first_token - theirs.first_token).max() <= 1e-9
    assert ours.evictions.tolist() == theirs.evictions.tolist()
    assert (ours.evictions.sum() > 0) == (blocks == 60)
