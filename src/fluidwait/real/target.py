"""A target: one engine on one kind of machine, how it is calibrated, and what is compared on it; one YAML file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from fluidwait.artifacts.code import imported_modules
from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.models import Changes, Strict, Words, parse
from fluidwait.base.paths import project_root
from fluidwait.base.yaml_files import load_yaml
from fluidwait.device.hardware import GIB, Hardware, ModelShape
from fluidwait.engines import core
from fluidwait.engines.core import Semantics
from fluidwait.engines.vllm.calibrate import Bursts, Generation, Sweep
from fluidwait.engines.vllm.load.engine import EngineSettings
from fluidwait.engines.vllm.settings import SchedulerSettings
from fluidwait.policies import Policy, load_policy
from fluidwait.workload import LengthLaw, Positive, Workload, length_law, load_workload, rows_used

STOCK, AUTO = "stock", "auto"
WATERMARK = 0.01
"""Of the scheduler plug-in, see :mod:`fluidwait.engines.vllm.scheduler`, which can only be imported beside vLLM."""


class Mixed(Strict):
    """Requests of a length law sent by a fixed number of clients, one after another."""

    workload: str = Field(description="file in config/workloads, by name")
    requests: PositiveInt
    in_flight: Annotated[list[PositiveInt], Field(min_length=1)] = Field(description="numbers of clients, in turn")


class Curve(Strict):
    """One policy: vLLM's own scheduler, or one of ours inside vLLM."""

    label: Words = Field(description="name in figures and tables")
    use: str = Field(STOCK, description="'stock', 'auto' (the plug-in as it comes), or a file in config/policies")
    settings: Changes = Field(
        default_factory=dict, description="settings that differ from that file; of 'auto', those of the plug-in"
    )

    @property
    def simulated(self) -> bool:
        """Whether the simulator runs it too; what the auto mode does depends on what it has seen."""
        return self.use != AUTO


class Variant(Strict):
    """One comparison: requests of one law, at shares of the predicted capacity, under some of the policies."""

    title: Words
    workload: str = Field(description="file in config/workloads, by name")
    requests: PositiveInt = Field(description="requests of a run")
    replications: PositiveInt
    shares: Annotated[list[Positive], Field(min_length=1)] = Field(
        description="arrival rates as shares of the stability boundary that the calibrated fluid model predicts"
    )
    kv_blocks: PositiveInt | None = Field(None, description="fewer KV blocks than the engine has, so that memory binds")
    policies: Annotated[list[str], Field(min_length=1)]

    @model_validator(mode="after")
    def _increasing(self) -> Variant:
        if sorted(set(self.shares)) != self.shares:
            raise ValueError(f"shares must increase, found {self.shares}")
        return self


class Target(Strict):
    """See config/README.md for every key."""

    id: Annotated[str, Field(pattern="^[a-z0-9-]+$")]
    title: Words
    device: Literal["cpu", "gpu"]
    model: ModelShape
    engine: EngineSettings
    seed: int = Field(1, ge=0)
    window: float = Field(0.5, gt=0, le=1, description="share of the requests, in the middle, that is measured")
    budget: PositiveFloat = Field(600, description="seconds after which no further point is started")
    bursts: Bursts
    mixed: Mixed
    sweeps: list[Sweep] = Field(default_factory=list, description="loads under one token budget after the other")
    validation: Mixed | None = Field(None, description="a load whose iterations only judge the time model")
    generation: Generation
    order: Literal["replications", "variants"] = Field(
        "replications", description="of the runs: every variant once, then again; or one variant after the other"
    )
    variants: dict[str, Variant]
    policies: dict[str, Curve]

    @model_validator(mode="after")
    def _known_policies(self) -> Target:
        for name, variant in self.variants.items():
            for key in variant.policies:
                if key not in self.policies:
                    raise ValueError(f"variants.{name}.policies: no policy '{key}'{nearest(key, list(self.policies))}")
            if variant.kv_blocks is not None and variant.kv_blocks > self.engine.kv_blocks:
                raise ValueError(
                    f"variants.{name}.kv_blocks: {variant.kv_blocks} is more than the engine's "
                    f"(nearest valid value: {self.engine.kv_blocks})"
                )
        return self

    def blocks(self, variant: str) -> int:
        return self.variants[variant].kv_blocks or self.engine.kv_blocks

    def semantics(self, variant: str, key: str) -> Semantics:
        """The simulator's memory for this engine: the same blocks, and the watermark of the scheduler.

        One block more makes up for a difference. The simulator evicts as Vidur does, when a decode finds no spare
        block, needed or not; vLLM's scheduler of today only when it needs one.
        """
        watermark = 0 if self.policies[key].use == STOCK else int(WATERMARK * self.blocks(variant))
        return core.serving(self.blocks(variant) + 1, self.engine.block_size)._replace(watermark=watermark)

    def policy(self, key: str) -> Policy:
        """The policy as the simulator runs it; vLLM's own scheduler is ``vllm_v1`` under the engine's limits.

        Raises:
            ConfigError: a setting is wrong, or the policy is the auto mode, which the simulator does not have.
        """
        curve, source = self.policies[key], f"target {self.id}: policies.{key}"
        if curve.use == STOCK:
            engine = self.engine
            limits = {"token_budget": engine.max_num_batched_tokens, "max_requests": engine.max_num_seqs}
            return load_policy({"policy": "vllm_v1"} | limits | curve.settings, source)
        if curve.use == AUTO:
            raise ConfigError(f"{source}: the auto mode is not simulated")
        base = load_yaml(project_root() / "config" / "policies" / f"{curve.use}.yaml")
        return load_policy(base | curve.settings, source)

    def plugin(self, key: str) -> dict[str, Any]:
        """What the scheduler plug-in is told of a policy that is not vLLM's own."""
        curve = self.policies[key]
        if curve.use == AUTO:
            given = {"policy": AUTO, **curve.settings}
            parse(SchedulerSettings, given, f"target {self.id}: policies.{key}: settings")
            return given
        policy = self.policy(key)
        return {"policy": policy.use, "settings": policy.settings.model_dump(mode="json")}

    def own_policies(self) -> tuple[str, ...]:
        """Files of the user's that define policies of the target, from the project's root."""
        policies = [self.policy(key) for key, curve in self.policies.items() if curve.simulated]
        return tuple(sorted({policy.code for policy in policies if policy.file is not None}))

    def code(self) -> tuple[str, ...]:
        """Modules and files whose code schedules the requests of a recording."""
        return (*imported_modules("fluidwait.engines.vllm.scheduler", *self.own_policies()), "fluidwait.policies.*")

    def header(self) -> dict[str, Any]:
        """The hardware file without times: a memory that holds exactly the engine's KV blocks."""
        tokens = self.engine.kv_blocks * self.engine.block_size
        need = self.model.weight_bytes + (tokens + 0.5) * self.model.kv_bytes_per_token
        return {
            "name": self.id,
            "device": self.title,
            "model": self.model.model_dump(mode="json"),
            "memory_gib": need / GIB,
            "memory_margin": 0.0,
            "block_size": self.engine.block_size,
            "watermark": 0.0,
            "max_model_len": self.engine.max_model_len,
            "round_to_max_model_len": False,
            "source": {"data": "iterations of vLLM, measured by fluidwait"},
        }


def load_target(
    path_or_name: str | Path, change: dict[str, Any] | None = None, engine: dict[str, Any] | None = None
) -> Target:
    """Read a target; a name without a suffix means ``config/real/<name>.yaml``.

    ``change`` and ``engine`` replace keys of the file and of its ``engine``, where they are not None.

    Raises:
        ConfigError: a file is missing or wrong, or requests do not fit the engine.
    """
    path = Path(path_or_name)
    if path.suffix != ".yaml":
        path = project_root() / "config" / "real" / f"{path_or_name}.yaml"
    data = load_yaml(path)
    data |= {key: value for key, value in (change or {}).items() if value is not None}
    if isinstance(data.get("engine"), dict):
        data["engine"] |= {key: value for key, value in (engine or {}).items() if value is not None}
    target = parse(Target, data, path)
    _check(target, path)
    return target


def rehearsal(target: Target) -> Target:
    """The same target on a CPU: a model so small that any machine runs everything in a few minutes.

    What it measures says nothing of a GPU; that it finishes says that the recording on one will.
    """
    sizes = {"layers": 2, "hidden": 128, "query_heads": 4, "kv_heads": 4, "head_dim": 32, "mlp_hidden": 256}
    shape: dict[str, Any] = sizes | {"bytes_per_weight": 4, "bytes_per_kv": 4}
    block = 32  # the CPU's attention wants multiples of it
    tokens = target.engine.block_size
    small = {"dtype": "float32", "block_size": block, "enforce_eager": True, "vocabulary": 500}
    small |= {"kv_blocks": target.engine.kv_blocks * tokens // block, "environment": {"VLLM_CPU_KVCACHE_SPACE": "1"}}
    fewer = {
        name: v.model_copy(update={"kv_blocks": v.kv_blocks and v.kv_blocks * tokens // block})
        for name, v in target.variants.items()
    }
    return target.model_copy(
        update={
            "id": f"{target.id}-rehearsal",
            "title": f"rehearsal of {target.title}",
            "device": "cpu",
            "model": ModelShape(name="tiny", **shape),
            "engine": target.engine.model_copy(update=small),
            "variants": fewer,
        }
    )


def workload_of(target: Target, variant: str) -> tuple[Workload, LengthLaw]:
    return _workload(target.variants[variant].workload)


@cache  # asked for in every run of a recording
def _workload(name: str) -> tuple[Workload, LengthLaw]:
    workload = load_workload(name)
    return workload, length_law(workload)


def _check(target: Target, path: Path) -> None:
    """Refuse what the engine would refuse in the middle of a run."""
    parse(Hardware, target.header(), path)
    for key, curve in target.policies.items():
        target.policy(key) if curve.use == STOCK else target.plugin(key)
    loads = {"mixed": target.mixed.workload} | {f"sweeps[{i}]": s.workload for i, s in enumerate(target.sweeps)}
    if target.validation is not None:
        loads["validation"] = target.validation.workload
    laws = {f"{k}.workload": (length_law(load_workload(w)), target.engine.kv_blocks) for k, w in loads.items()}
    for name in target.variants:
        laws[f"variants.{name}.workload"] = workload_of(target, name)[1], target.blocks(name)
    _check_rows(f"{path}: mixed", target.mixed.workload, target.mixed.requests, 1)
    for name, variant in target.variants.items():
        _check_rows(f"{path}: variants.{name}", variant.workload, variant.requests, variant.replications)
    for key, (law, blocks) in laws.items():
        _check_length(f"{path}: {key}", int((law.prompt + law.output).max()), blocks, target.engine)
    for i, sweep in enumerate(target.sweeps):
        if max(sweep.token_budgets) > target.engine.max_num_batched_tokens:
            raise ConfigError(
                f"{path}: sweeps[{i}].token_budgets: {max(sweep.token_budgets)} is more than the engine's "
                f"max_num_batched_tokens (nearest valid value: {target.engine.max_num_batched_tokens})"
            )
    burst, whole = target.bursts, target.generation
    _check_length(f"{path}: bursts", max(burst.prompt) + burst.output, target.engine.kv_blocks, target.engine)
    _check_length(f"{path}: generation", whole.prompt + whole.output, target.engine.kv_blocks, target.engine)


def _check_rows(where: str, name: str, requests: int, stretches: int) -> None:
    """Whether a replayed trace has the rows of every replication."""
    workload = load_workload(name)
    if workload.arrivals.process == "trace":
        try:
            rows_used(workload, requests, 0, stretches)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None


def _check_length(where: str, tokens: int, blocks: int, engine: EngineSettings) -> None:
    most = min(engine.max_model_len, blocks * engine.block_size)
    if tokens > most:
        raise ConfigError(f"{where}: requests of {tokens} tokens, but the engine takes {most} (nearest valid value)")
