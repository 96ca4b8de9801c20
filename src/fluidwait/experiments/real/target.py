"""A target: one engine on one kind of machine, how it is calibrated, and what is compared on it; one YAML file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from fluidwait.config import ConfigError, Strict, load_yaml, nearest, parse
from fluidwait.engines import core
from fluidwait.engines.core import Semantics
from fluidwait.engines.vllm.calibrate import Bursts, Generation
from fluidwait.engines.vllm.loadgen_engine import EngineSettings
from fluidwait.hardware import GIB, Hardware, ModelShape
from fluidwait.paths import project_root
from fluidwait.policies import Policy, load_policy
from fluidwait.provenance import imported_modules
from fluidwait.workload import LengthLaw, Workload, length_law, load_workload

STOCK = "stock"
WATERMARK = 0.01
"""Of the scheduler plug-in, see :mod:`fluidwait.engines.vllm.scheduler`, which can only be imported beside vLLM."""


class Mixed(Strict):
    """Requests of a length law sent by a fixed number of clients, one after another."""

    workload: str = Field(description="file in config/workloads, by name")
    requests: PositiveInt
    in_flight: Annotated[list[PositiveInt], Field(min_length=1)] = Field(description="numbers of clients, in turn")


class Curve(Strict):
    """One policy: vLLM's own scheduler, or one of ours inside vLLM."""

    label: str = Field(description="name in figures and tables")
    use: str = Field(STOCK, description="'stock', or a file in config/policies")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings that differ from that file")


class Variant(Strict):
    """One comparison: requests of one law, at shares of the predicted capacity, under some of the policies."""

    title: str
    workload: str = Field(description="file in config/workloads, by name")
    requests: PositiveInt = Field(description="requests of a run")
    replications: PositiveInt
    shares: Annotated[list[PositiveFloat], Field(min_length=1)] = Field(
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
    title: str
    device: Literal["cpu", "gpu"]
    model: ModelShape
    engine: EngineSettings
    seed: int = Field(1, ge=0)
    window: float = Field(0.5, gt=0, le=1, description="share of the requests, in the middle, that is measured")
    budget: PositiveFloat = Field(600, description="seconds after which no further point is started")
    bursts: Bursts
    mixed: Mixed
    generation: Generation
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
        """The policy as the simulator runs it; vLLM's own scheduler is ``vllm_v1`` under the engine's limits."""
        curve, source = self.policies[key], f"target {self.id}: policies.{key}"
        if curve.use == STOCK:
            engine = self.engine
            limits = {"token_budget": engine.max_num_batched_tokens, "max_requests": engine.max_num_seqs}
            return load_policy({"policy": "vllm_v1"} | limits | curve.settings, source)
        base = load_yaml(project_root() / "config" / "policies" / f"{curve.use}.yaml")
        return load_policy(base | curve.settings, source)

    def own_policies(self) -> tuple[str, ...]:
        """Files of the user's that define policies of the target, from the project's root."""
        policies = map(self.policy, self.policies)
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
    shape = {"name": "tiny", "layers": 2, "hidden": 128, "query_heads": 4, "kv_heads": 4, "head_dim": 32}
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
            "model": ModelShape(**shape, mlp_hidden=256, bytes_per_weight=4, bytes_per_kv=4),
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
    Hardware.model_validate(target.header())
    for key in target.policies:
        target.policy(key)
    laws = {"mixed.workload": (length_law(load_workload(target.mixed.workload)), target.engine.kv_blocks)}
    for name in target.variants:
        laws[f"variants.{name}.workload"] = workload_of(target, name)[1], target.blocks(name)
    for key, (law, blocks) in laws.items():
        _check_length(f"{path}: {key}", int((law.prompt + law.output).max()), blocks, target.engine)
    burst, whole = target.bursts, target.generation
    _check_length(f"{path}: bursts", max(burst.prompt) + burst.output, target.engine.kv_blocks, target.engine)
    _check_length(f"{path}: generation", whole.prompt + whole.output, target.engine.kv_blocks, target.engine)


def _check_length(where: str, tokens: int, blocks: int, engine: EngineSettings) -> None:
    most = min(engine.max_model_len, blocks * engine.block_size)
    if tokens > most:
        raise ConfigError(f"{where}: requests of {tokens} tokens, but the engine takes {most} (nearest valid value)")
