"""What the user says about the scheduler, in vLLM's ``--additional-config``, and what is refused at start-up.

    --additional-config '{"fluidwait": {"policy": "wait_chunked", "settings": {"in_service": 64, "chunk": 256}}}'

``policy`` is one of those that ship, the name of a file in ``config/policies``, or the path of a policy file.

``"fluidwait": "auto"`` is short for ``{"policy": "auto"}``, which is also what no entry at all means.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.models import Strict, parse
from fluidwait.base.paths import project_root
from fluidwait.base.yaml_files import load_yaml
from fluidwait.policies import Policy, load_policy, names

SOURCE = "additional_config: fluidwait"
AUTO = {"policy": "fluid_budget"}
MAX_WAIT = 1.0
"""s, for the policies whose own default is to wait for ever: a server must not."""


class SchedulerSettings(Strict):
    """The entry ``fluidwait`` of ``additional_config``. What is not given is estimated from the traffic."""

    policy: str = Field(
        "auto",
        description="'auto': fluid_budget, that is vLLM's own rule with the batch of the fluid model; wait_chunked, "
        "nested_wait, wait or another that ships; a file in config/policies, by name; or the path of a policy's file",
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="of the policy, as in config/policies")
    hardware: str | None = Field(None, description="hardware file or its name, for iteration times")
    workload: str | None = Field(None, description="workload file or its name, for the length distribution")
    rate: float | None = Field(None, gt=0, allow_inf_nan=False, description="requests/s")
    rate_window: float = Field(60.0, gt=0, description="s of arrivals that give the rate")
    length_window: int = Field(1000, ge=10, description="finished requests that give the length distribution")
    iteration_window: int = Field(
        200, ge=20, description="iterations of each size of batch that give the iteration time"
    )
    least: int = Field(100, ge=10, description="finished requests and iterations before the first thresholds")
    refresh: float = Field(5.0, gt=0, description="s between two looks at the estimates")
    drift: float = Field(0.1, ge=0, description="relative change of an estimate that moves the thresholds")
    log_interval: float = Field(10.0, gt=0, description="s between two log lines")


def read_settings(additional_config: Any) -> tuple[SchedulerSettings, Policy]:
    """The settings and the policy with its own settings, both checked.

    Raises:
        ConfigError: one line that names the key, what is wrong and the nearest valid value.
    """
    entry = additional_config.get("fluidwait", "auto") if isinstance(additional_config, dict) else "auto"
    if isinstance(entry, str):
        entry = {"policy": entry}
    if not isinstance(entry, dict):
        raise ConfigError(f"{SOURCE}: expected a mapping or the name of a policy, found {type(entry).__name__}")
    settings = parse(SchedulerSettings, entry, SOURCE)
    policy = load_policy(_spec(settings.policy) | settings.settings, f"{SOURCE}: settings")
    if policy.reserves:
        raise ConfigError(f"{SOURCE}: policy: '{policy.use}' reserves memory for whole sequences, which vLLM does not")
    return settings, _with_finite_wait(policy)


def _spec(name: str) -> dict[str, Any]:
    """The policy and the settings that a name or a path stands for."""
    if name == "auto":
        return AUTO
    if name in names() or name.endswith(".py"):
        return {"policy": name}
    folder = project_root() / "config" / "policies"
    known = sorted({"auto", *names(), *(path.stem for path in folder.glob("*.yaml"))})
    if name not in known:
        raise ConfigError(f"{SOURCE}: policy: '{name}' is not a valid value{nearest(name, known)}")
    return load_yaml(folder / f"{name}.yaml")


def _with_finite_wait(policy: Policy) -> Policy:
    if math.isfinite(policy.max_wait):
        return policy
    if "max_wait" in policy.settings.model_fields_set:
        raise ConfigError(
            f"{SOURCE}: settings: max_wait: must be finite, or a lone request would wait for ever "
            f"(nearest valid: {MAX_WAIT:g})"
        )
    return policy.with_max_wait(MAX_WAIT)


def refuse_unsupported(config: Any) -> None:
    """Stop an engine configuration (``VllmConfig``) that the policies cannot serve, or that nobody has tried.

    Raises:
        ConfigError: one line: the feature, why not, and what to do.
    """
    model, parallel = config.model_config, config.parallel_config
    reasons = [
        (parallel.pipeline_parallel_size > 1, "pipeline parallelism", "its stages run several batches at once"),
        (config.speculative_config is not None, "speculative decoding", "a decode is then more than one token"),
        (config.kv_transfer_config is not None, "KV transfer (disaggregation, offloading)", "it is untested"),
        (
            getattr(config, "ec_transfer_config", None) is not None,
            "encoder-cache transfer (encoders on other machines)",
            "it is untested",
        ),
        (model.runner_type != "generate", f"the {model.runner_type} runner", "there is no decode to schedule"),
        (model.is_encoder_decoder, "encoder-decoder models", "they are untested"),
        (getattr(model, "is_diffusion", False), "diffusion models", "they do not decode token by token"),
    ]
    for holds, feature, why in reasons:
        if holds:
            raise ConfigError(f"WaitScheduler does not work with {feature}: {why}; leave out --scheduler-cls")
