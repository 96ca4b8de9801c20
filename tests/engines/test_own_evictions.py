"""Policies that say who is evicted and where evicted requests rejoin the queue; what clients allow and predict."""

from __future__ import annotations

import numpy as np
import pytest
from engine_cases import A100, requests
from own_policies import EVICTING, SHORTEST, write_policy

from fluidwait.base.errors import ConfigError
from fluidwait.device.timing import linear
from fluidwait.engines import core
from fluidwait.engines.core import EngineError
from fluidwait.engines.rehearsal import rehearse
from fluidwait.engines.simulator import simulate
from fluidwait.engines.v1.rules import vllm
from fluidwait.policies import load_policy

SECOND = linear(1.0, 0.0)  # every iteration takes one second
FOUR_BLOCKS = core.serving(4, 2, 0.0)


@pytest.fixture(scope="module")
def evicting(tmp_path_factory):
    """A function from settings to the policy, which is compiled once."""
    path = write_policy(tmp_path_factory.mktemp("own"), EVICTING, "evicting")
    return lambda **settings: load_policy({"policy": path, **settings})


def served(policy, some, semantics, times=SECOND, engine=simulate, **options):
    return engine(some, policy, policy.prepare(None), times, semantics, **options)


def test_trace_the_other_one_goes(evicting):
    """Four blocks of 2 tokens. Prompts of 4, 2, 2 and outputs of 4, 3, 1; the third request comes at 1.5.

    t = 0  0 prefills: 2 blocks;  t = 1: 0 decodes into a third block, 1 prefills: no block is free
    t = 2  a decode asks for a spare block: 0, with 2 tokens, goes; 1 decodes (2 blocks), nobody enters
    t = 3  0 needs 3 blocks and 2 are free: at the head of the queue it blocks 2, at its end 2 enters and is done at 4
    t = 4  1 is done; 0 prefills its 6 tokens, and 2 its own if it is still there;  t = 5: 0 decodes, done at 6
    """
    some = requests([0, 0.5, 1.5], [4, 2, 2], [4, 3, 1])
    head, last = (
        served(evicting(order=-1, last=last), some, FOUR_BLOCKS, log=True, check=True) for last in (False, True)
    )
    assert head.completion.tolist() == [6, 4, 5]
    assert last.completion.tolist() == [6, 4, 4]
    for run in (head, last):
        assert run.evictions.tolist() == [1, 0, 0]
        assert run.first_token[:2].tolist() == [1, 2]
    newest = served(evicting(order=1), some, FOUR_BLOCKS, check=True)  # 1 has generated less, and goes
    assert newest.evictions.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("order", "spare", "last", "recompute"),
    [(1, 0, True, True), (-1, 0, False, True), (-1, 12, True, True), (1, 25, True, True), (1, 25, False, False)],
)
def test_conservation_and_the_same_times_in_vidur(evicting, order, spare, last, recompute):
    from fluidwait.engines.vidur import simulate_vidur

    pytest.importorskip("vidur", reason="Vidur is not installed (pip install 'fluidwait[vidur]')")
    g = np.random.default_rng([order + 1, spare])
    n, semantics = 120, core.serving(64)._replace(recompute=recompute)
    some = requests(np.cumsum(g.exponential(0.05, n)), g.integers(1, 300, n), g.integers(1, 80, n))
    policy = evicting(most=7, order=order, spare=spare, last=last)
    ours = served(policy, some, semantics, A100, check=True)
    theirs = served(policy, some, semantics, A100, simulate_vidur)
    assert ours.evictions.sum() > 10
    assert ours.evictions.tolist() == theirs.evictions.tolist()
    assert np.abs(ours.completion - theirs.completion).max() <= 1e-9
    assert np.abs(ours.first_token - theirs.first_token).max() <= 1e-9


def test_more_may_go_than_must(evicting):
    g = np.random.default_rng(3)
    some = requests(np.cumsum(g.exponential(0.05, 150)), g.integers(1, 300, 150), g.integers(1, 80, 150))
    few, many = (served(evicting(most=7, spare=spare), some, core.serving(64), A100) for spare in (0, 25))
    assert 0 < few.evictions.sum() < many.evictions.sum()


def test_somebody_who_is_not_there_cannot_go(evicting):
    some = requests([0, 0.5, 1.5], [4, 2, 2], [4, 3, 1])
    policy = evicting(order=0)
    with pytest.raises(EngineError, match=r"at t = 2 s breaks the contract \(.*evicts who is not resident"):
        served(policy, some, FOUR_BLOCKS)
    with pytest.raises(ConfigError, match=r"evicting.py:\d+: victim names resident 2 at t = 2 s \(nearest .* -1 to 1"):
        rehearse(some, policy, policy.prepare(None), SECOND, FOUR_BLOCKS)


def test_under_vllms_rules_vllm_evicts(evicting):
    with pytest.raises(ConfigError, match=r"'evicting' says itself who is evicted .*nearest valid value: 'serving'"):
        served(evicting(), requests([0], 4, 4), vllm(40), A100)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("@jit\ndef victim", "def victim", r"victim must be compiled: write @jit above it"),
        ("def victim(view, knobs, out)", "def victim(view, knobs)", r"victim must take victim\(view, knobs, out\)"),
        ("def rejoins_last(knobs)", "def rejoins_last()", r"rejoins_last must take rejoins_last\(knobs\)"),
    ],
)
def test_mistakes_are_told_when_the_file_is_read(tmp_path, old, new, says):
    with pytest.raises(ConfigError, match=rf"evicting_\w+.py:\d+: {says}"):
        load_policy({"policy": write_policy(tmp_path, EVICTING.replace(old, new), f"evicting_{len(new)}")})


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("    return chosen", "    return float(chosen)", "victim must return the position of a resident, or -1"),
        ("view.generated[view.resident[k]]", "view.generate[view.resident[k]]", "view has no 'generate' .did you mean"),
    ],
)
def test_mistakes_are_told_before_a_run(tmp_path, old, new, says):
    source = EVICTING.replace(old, new).replace("return -1", "return -1.0" if "float" in new else "return -1")
    source = source.replace("return residents\n", "return 1.0\n") if "float" in new else source
    policy = load_policy({"policy": write_policy(tmp_path, source, f"evicting_{len(new)}")})
    with pytest.raises(ConfigError, match=says):
        rehearse(requests([0], 4, 4), policy, policy.prepare(None), SECOND, FOUR_BLOCKS)


# --- what clients allow and predict -----------------------------------------------------------------------------------


def test_policies_see_what_is_predicted_and_what_is_allowed(tmp_path):
    """One at a time, shortest first; all wait from the start, and iterations take a second."""
    policy = load_policy({"policy": write_policy(tmp_path, SHORTEST, "shortest"), "most": 1})
    some = requests(np.zeros(4), 2, [2, 3, 1, 2])
    ample = core.serving(100)

    def order(**said):
        known = some._replace(**{name: np.array(tokens) for name, tokens in said.items()})
        return np.argsort(served(policy, known, ample).completion).tolist()

    assert order() == [0, 1, 2, 3]  # nothing is said: first come, first served
    assert order(max_output=[9, 4, 8, 3]) == [3, 1, 2, 0]
    assert order(max_output=[9, 9, 9, 9], predicted=[5, 2, 0, 7]) == [1, 0, 3, 2]
    with pytest.raises(ConfigError, match=r"request 1: max_output: 2 tokens, but its output has 3 \(nearest .* 3\)"):
        order(max_output=[9, 2, 9, 9])
