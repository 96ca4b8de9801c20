"""What the plug-in takes from vLLM, whose scheduler interface is not public and drifts from release to release.

Everything that the modules of this folder touch is listed here, is the same from vLLM 0.20.2 to 0.32.0, and is checked
when the engine starts, so that a drift is told in one line rather than found out by a stranded request. Where releases
differ (``skipped_waiting`` up to 0.22; ``kv_holding_waiting``, ``deferred_waiting`` and ``max_num_active_reqs`` later)
they ask with ``getattr``.
"""

from __future__ import annotations

import inspect

from fluidwait.base.errors import ConfigError
from fluidwait.engines.vllm import VERSIONS

METHODS = {  # of the scheduler: first parameters, by name
    "add_request": ["request"],
    "schedule": [],
    "update_from_output": ["scheduler_output", "model_runner_output"],
    "get_request_counts": [],
    "reset_prefix_cache": [],
    "shutdown": [],
}
ATTRIBUTES = {  # of a scheduler
    "running": list,
    "requests": dict,
    "finished_req_ids": set,
    "block_size": int,
    "max_model_len": int,
    "max_num_running_reqs": int,
    "max_num_scheduled_tokens": int,
    "waiting": object,
    "policy": object,
    "pause_state": object,
    "lora_config": object,
    "vllm_config": object,
    "kv_cache_config": object,
    "kv_cache_manager": object,
    "cache_config": object,
    "scheduler_config": object,
    "parallel_config": object,
}
QUEUE = ["add_request", "pop_request", "peek_request", "prepend_request", "remove_requests", "__iter__", "__len__"]
REQUEST = [  # properties of the class, or set by its constructor
    "request_id",
    "status",
    "lora_request",
    "structured_output_request",
    "max_tokens",
    "num_prompt_tokens",
    "num_tokens",
    "num_output_tokens",
    "num_computed_tokens",
    "num_output_placeholders",
    "arrival_time",
    "priority",
    "sampling_params",
    "is_prefill_chunk",
]
OUTPUT = ["num_scheduled_tokens", "total_num_scheduled_tokens"]


def drifted(scheduler) -> list[str]:
    """What this vLLM lacks of the above, given one of its schedulers; empty when all is there."""
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request, RequestStatus

    parent = type(scheduler).__mro__[1]
    problems = []
    for name, expected in METHODS.items():
        method = getattr(parent, name, None)
        found = list(inspect.signature(method).parameters)[1 : 1 + len(expected)] if method else None
        if found != expected:
            problems.append(f"{parent.__name__}.{name}({', '.join(expected)})")
    for name, kind in ATTRIBUTES.items():
        if not isinstance(getattr(scheduler, name, problems), kind) or not hasattr(scheduler, name):
            problems.append(f"{parent.__name__}.{name}")
    problems += [f"RequestQueue.{name}" for name in QUEUE if not hasattr(scheduler.waiting, name)]
    made = inspect.getsource(Request)
    problems += [f"Request.{name}" for name in REQUEST if not hasattr(Request, name) and f"self.{name}" not in made]
    problems += [f"SchedulerOutput.{name}" for name in OUTPUT if name not in SchedulerOutput.__annotations__]
    problems += [
        f"RequestStatus.{name}"
        for name in ("WAITING", "WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR", "PREEMPTED", "FINISHED_ABORTED")
        if not hasattr(RequestStatus, name)
    ]
    if not hasattr(getattr(scheduler.kv_cache_manager, "block_pool", None), "get_num_free_blocks"):
        problems.append("KVCacheManager.block_pool.get_num_free_blocks()")
    if not hasattr(scheduler.scheduler_config, "long_prefill_token_threshold"):
        problems.append("SchedulerConfig.long_prefill_token_threshold")
    return problems


def check_interface(scheduler) -> None:
    """Stop on a vLLM whose scheduler is not the one that the plug-in knows.

    Raises:
        ConfigError: one line that names the release and what is missing.
    """
    problems = drifted(scheduler)
    if problems:
        import vllm

        raise ConfigError(
            f"WaitScheduler does not know the scheduler of vLLM {vllm.__version__}: {', '.join(problems)} not found "
            f"(works with {VERSIONS[0]} to {VERSIONS[1]})"
        )
