"""The fluid rule of ``wait_chunked`` as it comes, run: no worse than vLLM's scheduler with random lengths, and even
pacing with equal ones."""

from __future__ import annotations

import numpy as np
import pytest

from fluidwait.device.hardware import load_hardware
from fluidwait.engines import core
from fluidwait.engines.simulator import simulate
from fluidwait.fluid.calibrated import calibrated_boundary
from fluidwait.policies import load_policy
from fluidwait.policies.contract import Context
from fluidwait.workload import Workload, generate, length_law, load_workload

TIMES = load_hardware("a100-80g_llama-2-7b").time_model()
MIXTURE = {
    "name": "short and long",
    "lengths": {
        "kind": "mixture",
        "types": [{"share": 0.5, "prompt": 512, "output": 50}, {"share": 0.5, "prompt": 512, "output": 1000}],
    },
    "arrivals": {"process": "poisson"},
}
RULE = {"policy": "wait_chunked", "batch_tokens": "fluid"}
VLLM = {"policy": "vllm_v1"}


class Server:
    """A100 with so many KV blocks and so many requests of a workload."""

    def __init__(self, workload, blocks: int, requests: int):
        self.workload = load_workload(workload) if isinstance(workload, str) else Workload.model_validate(workload)
        self.law, self.blocks, self.requests = length_law(self.workload), blocks, requests
        self.bound = calibrated_boundary(self.law, TIMES, blocks * 16).rate

    def knobs(self, spec):
        policy = load_policy(spec)
        return policy, policy.prepare(Context(self.law, 1.0, TIMES, (0.01, 4e-7), self.blocks * 16, True))

    def __call__(self, spec: dict, load: float, *, recompute: bool = True) -> tuple[float, float, int]:
        """(completions/s, mean latency in s, evictions) at ``load`` x the fluid bound, central half of the requests."""
        semantics = core.serving(self.blocks)._replace(recompute=recompute)
        some = generate(self.workload, n=self.requests, rate=load * self.bound, seed=1, replication=0)
        run = simulate(some, *self.knobs(spec), TIMES, semantics)
        part = slice(self.requests // 4, self.requests - self.requests // 4)
        start, end = some.arrival[part][[0, -1]]
        done = np.count_nonzero((run.completion >= start) & (run.completion < end))
        return done / (end - start), float((run.completion - some.arrival)[part].mean()), int(run.evictions.sum())


@pytest.fixture(scope="module")
def tight() -> Server:
    """Equal lengths and little memory: 36.6 requests fill it."""
    return Server("p512d1000", 2304, 1500)


RANDOM = {
    "conversations, little memory": ("lmsys-chat-1m", 1500, 4000),
    "conversations": ("lmsys-chat-1m", 4000, 4000),
    "50 and 1,000 output tokens": (MIXTURE, 2304, 2000),
}


@pytest.mark.parametrize("case", RANDOM.values(), ids=RANDOM)
def test_no_worse_than_vllm_with_random_lengths(case):
    server = Server(*case)
    for segments in (1, 2):
        rule = {**RULE, "segments": segments}
        assert server(rule, 1.2)[0] >= server(VLLM, 1.2)[0]
        for load in (0.6, 0.85, 0.95):
            assert server(rule, load)[1] <= server(VLLM, load)[1]


def test_the_papers_quotas_starve_random_lengths():
    """Why they are not the default: every request is counted as if it lived as long as the longest."""
    server = Server("lmsys-chat-1m", 1500, 4000)
    assert server({**RULE, "quotas": "paper"}, 1.2)[0] < 0.65 * server.bound
    assert server(RULE, 1.2)[0] > 0.94 * server.bound


@pytest.mark.parametrize("recompute", [True, False], ids=["recompute", "restart"])
def test_equal_lengths_in_little_memory_never_evict(tight, recompute):
    for load in (0.9, 1.2):
        rate, _, evictions = tight(RULE, load, recompute=recompute)
        assert evictions == 0
    assert rate > 0.9 * tight.bound
    assert rate > tight(VLLM, 1.2, recompute=recompute)[0]


@pytest.mark.parametrize(
    ("workload", "blocks", "in_service", "tokens"), [("p512d1000", 2304, 37, 50), ("p512d20", 8448, 29, 368)]
)
def test_equal_lengths_have_the_same_knobs_under_both_rules(workload, blocks, in_service, tokens):
    server = Server(workload, blocks, 1)
    _, mine = server.knobs({**RULE, "chunk": 512})
    _, papers = server.knobs({**RULE, "chunk": 512, "quotas": "paper"})
    assert (mine.in_service, mine.batch_tokens) == (in_service, tokens)
    for one, other in zip(mine, papers, strict=True):
        assert np.array_equal(one, other)
