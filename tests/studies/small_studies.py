"""Studies as small as they come, for tests."""

from __future__ import annotations

from fluidwait.base.models import parse
from fluidwait.studies.e6 import E6
from fluidwait.studies.e10 import E10
from fluidwait.studies.e11 import E11
from fluidwait.studies.e12 import E12

SINGLE = {"d0": 1.0, "d1": 0.01, "types": [{"prompt": 2, "output": 2, "threshold": 2}]}
TWO = {
    "d0": 1.0,
    "d1": 0.01,
    "types": [{"prompt": 2, "output": 2, "threshold": 3}, {"prompt": 2, "output": 6, "threshold": 2}],
}
NESTED = {"label": "Nested", "instance": "two", "policy": "nested_wait", "boundaries": [2, 6]}


def e11_data() -> dict:
    return {
        "id": "e11",
        "title": "t",
        "first_horizon": 30,
        "fit_decades": 1,
        "instances": {"single": SINGLE, "two": TWO},
        "cases": {
            "wait_equality": {"label": "WAIT", "instance": "single", "policy": "wait"},
            "wait_slack": {"label": "WAIT, slack", "instance": "single", "policy": "wait", "slack": 0.2},
            "wait_two": {"label": "WAIT, two", "instance": "two", "policy": "wait"},
            "fcfs_two": {"label": "FCFS", "instance": "two", "policy": "fcfs"},
            "reserving_two": {"label": "FCFS, reserving", "instance": "two", "policy": "fcfs_reserving"},
            "nested_two": NESTED | {"thresholds": [[5, 2], [4, 2]]},
            "nested_slack": NESTED | {"slack": 0.2, "memory": "unlimited", "thresholds": [[5, 3]]},
        },
        "scaling": {"one": ["wait_equality", "wait_slack"], "nested": ["nested_slack"]},
        "fcfs_gap": ["wait_two", "fcfs_two"],
        "unknown_gap": ["wait_two", "fcfs_two", "reserving_two", "nested_two"],
        "overflow": {"case": "nested_slack", "risks": [0.5, 0.1]},
        "scales": {"tiny": {"horizon": 300, "replications": 4, "overflow": [{"iterations": 30, "runs": 20}]}},
    }


def e6_data() -> dict:
    return {
        "id": "e6",
        "title": "t",
        "hardware": "a100-80g_llama-2-7b",
        "workload": "lmsys-chat-1m",
        "rates": [50, 500],
        "reference_rate": 50,
        "horizons": [20, 200],
        "risks": [0.1, 0.001],
        "alternatives": {"own": {"iteration": "own"}},
        "scales": {"tiny": {"segments": [1, 2, 4, 8]}},
    }


def e10_data() -> dict:
    return {
        "id": "e10",
        "title": "t",
        "hardware": "a100-80g_llama-2-7b",
        "shares": [0.7, 0.95],
        "loads": {
            "short": {"label": "short", "workload": "p512d20", "requests": 400},
            "chat": {"label": "chat", "workload": "lmsys-chat-1m", "requests": 200, "kv_blocks": 1500},
        },
        "baseline": "vllm",
        "policies": {
            "vllm": {"label": "vLLM", "use": "vllm_v1"},
            "fixed": {"label": "384 tokens", "use": "fluid_budget", "settings": {"batch_tokens": 384}},
            "nested_wait": {"label": "Nested", "use": "wait_chunked", "settings": {"segments": 2}, "loads": ["chat"]},
            "auto": {"label": "auto mode", "use": "fluid_budget", "learns": True},
        },
        "audit": {"share": 0.1, "requests": 150},
        "scales": {"tiny": {"replications": 2}},
    }


def e12_data() -> dict:
    return {
        "id": "e12",
        "title": "t",
        "hardware": "a100-80g_llama-2-7b",
        "shares": [0.7, 0.85],
        "loads": {
            "short": {"label": "short", "workload": "p512d20", "requests": 400},
            "chat": {"label": "chat", "workload": "lmsys-chat-1m", "requests": 400, "kv_blocks": 1500},
            "away": {"label": "prefilled elsewhere", "workload": "p630d20", "semantics": "decode", "requests": 400},
            "unused": {"label": "unused", "workload": "p512d1000", "requests": 40},
        },
        "baseline": "vllm",
        "policies": {
            "vllm": {"label": "vLLM", "use": "vllm_v1"},
            "fixed": {"label": "384 tokens", "use": "sarathi", "settings": {"token_budget": 384}},
            "wait": {"label": "WAIT", "use": "wait_chunked", "loads": ["short", "chat"]},
            "other": {"label": "other", "use": "vllm_v1", "settings": {"token_budget": 512}},
        },
        "envelope": {
            "label": "best",
            "use": "sarathi",
            "grid": {"token_budget": [256, 384, 512], "max_requests": [64, 1000, 2000]},
            "kept": 3,
        },
        "drawn": {"loads": ["chat", "unused"], "policies": ["vllm", "wait"]},
        "scales": {
            "tiny": {"replications": 2, "loads": ["short", "chat", "away"], "policies": ["vllm", "fixed", "wait"]}
        },
    }


def e12(**changes) -> E12:
    return parse(E12, e12_data() | changes, "e12.yaml")


def e10(**changes) -> E10:
    return parse(E10, e10_data() | changes, "e10.yaml")


def e11(**changes) -> E11:
    return parse(E11, e11_data() | changes, "e11.yaml")


def e6(**changes) -> E6:
    return parse(E6, e6_data() | changes, "e6.yaml")
