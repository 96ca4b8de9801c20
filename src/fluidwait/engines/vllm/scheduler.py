"""The class for vLLM's ``--scheduler-cls``: vLLM's asynchronous scheduler behind the gate of fluidwait's policies.

It overrides six public methods and adds one attribute, ``gate``, so that there is little to collide with. Without a
gate, when the constructor failed or has not run, all of them are vLLM's own. What the gate relies on is listed in
:mod:`fluidwait.engines.vllm.interface`.
"""

from __future__ import annotations

from vllm.logger import init_logger
from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from fluidwait.base.errors import FluidwaitError
from fluidwait.engines.vllm.gate import Gate
from fluidwait.engines.vllm.interface import check_interface
from fluidwait.engines.vllm.settings import read_settings, refuse_unsupported

logger = init_logger("vllm.fluidwait")  # a child of the logger that vLLM sets up


class WaitScheduler(AsyncScheduler):
    """WAIT and Nested WAIT in vLLM; see :mod:`fluidwait.engines.vllm.settings` for what can be set.

    Asynchronous or not is vLLM's ``--async-scheduling``; this class serves both.

    Raises:
        ConfigError: a setting is wrong, or the engine has a feature switched on that cannot be supported.
    """

    gate: Gate | None = None

    def __init__(self, vllm_config, *args, **kwargs):
        try:
            refuse_unsupported(vllm_config)
            settings, policy = read_settings(vllm_config.additional_config)
            super().__init__(vllm_config, *args, **kwargs)
            check_interface(self)
            self.gate = Gate(self, policy, settings)
        except FluidwaitError as error:
            logger.error("%s", error)  # one line before vLLM's traceback
            raise
        logger.info("fluidwait: %s with %s", policy.name, policy.settings.model_dump())

    def add_request(self, request) -> None:
        if self.gate is not None:
            self.gate.arrived(request)
        super().add_request(request)

    def schedule(self, *args, **kwargs):
        if self.gate is None:
            return super().schedule(*args, **kwargs)
        return self.gate.step(lambda: super(WaitScheduler, self).schedule(*args, **kwargs))

    def update_from_output(self, scheduler_output, model_runner_output):
        if self.gate is not None and scheduler_output.total_num_scheduled_tokens > 0:
            self.gate.landed(scheduler_output)
        return super().update_from_output(scheduler_output, model_runner_output)

    def get_request_counts(self) -> tuple[int, int]:
        counts = super().get_request_counts()
        return counts if self.gate is None else self.gate.counts(counts)

    def reset_prefix_cache(self, *args, **kwargs):
        running = [(request, request.num_output_placeholders) for request in self.running]
        done = super().reset_prefix_cache(*args, **kwargs)
        for request, in_flight in running:  # vLLM 0.20 discards a token in flight of each, but a paused one has none
            if getattr(request, "discard_latest_async_tokens", False):
                request.discard_latest_async_tokens = in_flight > 0
        return done

    def shutdown(self) -> None:
        if self.gate is not None:
            self.gate.close()
        super().shutdown()
