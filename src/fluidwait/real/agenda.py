"""Which runs a recording has, in which order, and what decides each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from fluidwait.artifacts.canonical import file_sha256
from fluidwait.device.hardware import Hardware
from fluidwait.engines.vllm.load import engine as loadgen_engine
from fluidwait.fluid.calibrated import calibrated_boundary
from fluidwait.real.bundle import Description
from fluidwait.real.target import AUTO, STOCK, Target, workload_of
from fluidwait.workload import Requests, check_offered, generate, load_workload

SCHEDULER = "fluidwait.engines.vllm.scheduler:WaitScheduler"


class Point(NamedTuple):
    """One run of a recording."""

    variant: str
    policy: str
    share: float  # of the predicted boundary
    rate: float  # requests/s
    replication: int

    @property
    def name(self) -> str:
        return f"{self.variant},{self.policy},share={self.share:g},replication={self.replication}"


class Agenda(NamedTuple):
    """The runs of a target recorded into a folder.

    Attributes:
        before: the bundle of earlier sessions, if any.
    """

    target: Target
    folder: Path
    before: Description | None

    def bounds(self, hardware: Hardware) -> dict[str, float]:
        """Predicted capacity of each variant (requests/s), of which the rates are shares.

        Where an earlier session has recorded runs, it stays what that session predicted, so that they remain points of
        the same grid though the iterations were fitted anew.
        """
        known = self.before.bounds if self.before and self.before.target.variants == self.target.variants else {}
        return {name: known.get(name) or boundary(self.target, name, hardware) for name in self.target.variants}

    def points(self, hardware: Hardware) -> list[Point]:
        """Every run, in the order of recording."""
        variants, points, rates = self.target.variants, [], self.bounds(hardware)
        turns = [(name, replication) for name, v in variants.items() for replication in range(v.replications)]
        if self.target.order == "replications":
            turns.sort(key=lambda turn: turn[1])
        for name, replication in turns:
            variant = variants[name]
            for place, share in enumerate(variant.shares):
                order = variant.policies if (replication + place) % 2 == 0 else variant.policies[::-1]
                rate = float(f"{share * rates[name]:.4g}")
                where = f"target {self.target.id}: variants.{name}: rate {rate:g}"
                check_offered(load_workload(variant.workload), variant.requests, rate, where)
                points += [Point(name, policy, share, rate, replication) for policy in order]
        return points

    def requests(self, point: Point) -> Requests:
        workload, _ = workload_of(self.target, point.variant)
        variant = self.target.variants[point.variant]
        return generate(
            workload,
            n=variant.requests,
            rate=point.rate,
            seed=self.target.seed,
            replication=point.replication,
            stretches=variant.replications,
        )

    def scheduler(self, point: Point) -> tuple[str, dict[str, Any]]:
        """Class and additional_config of the engine's scheduler."""
        curve = self.target.policies[point.policy]
        if curve.use == STOCK:
            return loadgen_engine.STOCK, {}
        told = self.target.plugin(point.policy)
        if curve.use != AUTO:  # which finds all that out by itself
            told |= {
                "hardware": str((self.folder / "hardware.yaml").resolve()),
                "workload": self.target.variants[point.variant].workload,
                "rate": point.rate,
            }
        return SCHEDULER, {"fluidwait": told}

    def identity(self, point: Point) -> list[Any]:
        """What decides a run besides the engine."""
        workload, _ = workload_of(self.target, point.variant)
        name, settings = self.scheduler(point)
        if settings:
            settings = dict(settings["fluidwait"])
            if "hardware" in settings:
                settings["hardware"] = file_sha256(self.folder / "hardware.yaml")
        variant = self.target.variants[point.variant].model_dump(include={"requests", "kv_blocks"})
        return [point._asdict(), variant, workload, name, settings, self.target.seed]


def boundary(target: Target, variant: str, hardware: Hardware) -> float:
    """Capacity of a variant (requests/s): what full batches sustain in the calibrated fluid model."""
    _, law = workload_of(target, variant)
    engine = target.engine
    edge = calibrated_boundary(
        law,
        hardware.time_model(),
        float(target.blocks(variant) * engine.block_size),
        token_budget=engine.max_num_batched_tokens,
        cap=engine.max_num_seqs,
    )
    return edge.saturated_rate
