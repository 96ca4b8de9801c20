"""From a bundle to the tables of E9 (is the time model right, is the simulator) and of E10 (what the policies gain)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.records import Run, iter_runs
from fluidwait.artifacts.step import Artifact, names
from fluidwait.base.tables import load_table
from fluidwait.device.iteration_times import SUMS
from fluidwait.device.timing import TimeModel, iteration_time
from fluidwait.engines.core import context_of, serving
from fluidwait.engines.simulator import Run as Simulated
from fluidwait.engines.simulator import simulate
from fluidwait.policies import load_policy
from fluidwait.policies.contract import Limits
from fluidwait.real.bundle import VALIDATION, Bundle
from fluidwait.real.pace import Clock
from fluidwait.real.target import AUTO, STOCK, Target, workload_of
from fluidwait.stats.metrics import mean_interval, run_metrics, summarise
from fluidwait.workload import Requests, input_files

CODE = (*imported_modules(__name__), "fluidwait.policies.*")
POINT = ("variant", "policy", "share", "rate")
"""What replications have in common."""

PLACES = [SUMS.index(name) for name in ("tokens", "kv_tokens", *SUMS[1:-1])]
"""Where the arguments of ``iteration_time`` stand in ``SUMS``."""

LINEAR, PROFILE = "linear", "profile"
REDUCTIONS = ("reduction", "paced_reduction", "ttft_reduction")


class Simulator:
    """The engine of a bundle as the simulator sees it."""

    def __init__(self, bundle: Bundle) -> None:
        self.target: Target = bundle.target
        self.hardware = bundle.hardware()
        self.time_model = self.hardware.time_model()

    def run(self, requests: Requests, variant: str, key: str, rate: float, speed: float = 1.0) -> Simulated:
        """The same requests under the same policy with the same settings; iterations take ``speed`` times as long."""
        semantics = self.target.semantics(variant, key)
        _, law = workload_of(self.target, variant)
        engine, policy = self.target.engine, self.target.policy(key)
        memory = serving(self.target.blocks(variant), engine.block_size)
        context = context_of(law, rate, self.time_model, self.hardware.linear, memory)
        most = Limits(engine.max_num_seqs, engine.max_num_batched_tokens)
        knobs = policy.prepare_at_most(context, most)
        return simulate(requests, policy, knobs, _scaled(self.time_model, speed), semantics)

    def predicted(self, batches: pl.DataFrame) -> float:
        """Seconds that these batches take by the time model."""
        return sum(self.seconds(row) for row in batches.select(SUMS).iter_rows())

    def seconds(self, sums: tuple[int, ...]) -> float:
        """Seconds that a batch takes by the time model; its ``SUMS``."""
        return iteration_time(self.time_model, *(sums[i] for i in PLACES))

    def generation(self, batch: int) -> float:
        """Seconds that a batch of equal requests takes, all at once on an idle engine."""
        whole, engine = self.target.generation, self.target.engine
        lengths = np.full(batch, whole.prompt), np.full(batch, whole.output)
        requests = Requests(np.zeros(batch), *lengths, np.zeros(batch, dtype=np.int64))
        limits = {"policy": "vllm_v1", "token_budget": engine.max_num_batched_tokens, "max_requests": max(batch, 1)}
        policy = load_policy(limits)
        semantics = serving(engine.kv_blocks, engine.block_size, 0.0)
        return float(simulate(requests, policy, policy.prepare(None), self.time_model, semantics).completion.max())


def _scaled(model: TimeModel, factor: float) -> TimeModel:
    return TimeModel._make(factor * part for part in model)


# --- E9 --------------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """Seconds of a generation = intercept + slope x KV work, least squares."""

    intercept: float  # s
    slope: float  # s per KV token x iteration

    def at(self, work: np.ndarray) -> np.ndarray:
        return self.intercept + self.slope * work


def generations(bundle: Bundle) -> pl.DataFrame:
    """One row per batch size: measured seconds (median, smallest, largest), and those of both models."""
    table = bundle.generations().group_by("batch", "extrapolated", maintain_order=True)
    rows = table.agg(
        measured=pl.col("seconds").median(),
        lowest=pl.col("seconds").min(),
        highest=pl.col("seconds").max(),
        repeats=pl.len(),
        kv_work=pl.col("kv_work").mean(),
        iterations=pl.col("iterations").mean(),
    ).sort("batch")
    line, simulator = fit_line(rows.filter(~pl.col("extrapolated"))), Simulator(bundle)
    rows = rows.with_columns(
        pl.Series(LINEAR, line.at(rows["kv_work"].to_numpy())),
        pl.Series(PROFILE, [simulator.generation(batch) for batch in rows["batch"]]),
    )
    return rows.with_columns(
        (pl.col(name) / pl.col("measured") - 1).alias(f"{name}_error") for name in (LINEAR, PROFILE)
    )


def fit_line(rows: pl.DataFrame) -> Line:
    """The paper's linear model of a whole generation."""
    slope, intercept = np.polyfit(rows["kv_work"].to_numpy(), rows["measured"].to_numpy(), 1)
    return Line(float(intercept), float(slope))


def fit(bundle: Bundle, whole: pl.DataFrame) -> pl.DataFrame:
    """Errors of the models: of iterations from the calibration, of generations from :func:`generations`.

    Iterations of the ``other load`` took no part in the fit, nor did any like them.
    """
    rows = []
    for model, part, source in (
        (PROFILE, "held_out", "held out"),
        (PROFILE, "all_rows", "all"),
        (LINEAR, LINEAR, "all"),
    ):
        scores = bundle.hardware().fit[part]
        rows.append({"what": "iteration", "model": model, "sample": source, **scores})
    if bundle.target.validation is not None:
        rows.append({"what": "iteration", "model": PROFILE, "sample": "other load", **_validated(bundle)})
    for model in (LINEAR, PROFILE):
        for beyond, sample in ((False, "fitted"), (True, "extrapolated")):
            rows_of = whole.filter(pl.col("extrapolated") == beyond)
            measured, predicted = rows_of["measured"].to_numpy(), rows_of[model].to_numpy()
            rows.append({"what": "generation", "model": model, "sample": sample, **_scores(measured, predicted)})
    schema = {"what": str, "model": str, "sample": str, "rows": int, "mape": float, "max_relative_error": float}
    return pl.DataFrame(rows, schema=schema | {"r2": float})


def _validated(bundle: Bundle) -> dict[str, float]:
    """Errors of the calibrated model on the load that was measured to judge it.

    Of every iteration, or of every group where iterations are told apart only in groups.
    """
    table, simulator = load_table(bundle.path(VALIDATION)), Simulator(bundle)
    table = table.with_columns(pl.Series("predicted", [simulator.seconds(row) for row in table.select(SUMS).rows()]))
    if "group" in table.columns:
        table = table.group_by("group", maintain_order=True).agg(pl.col("seconds", "predicted").sum(), count=1)
    every = table["count"].to_numpy()
    return _scores(*(np.repeat(table[name].to_numpy(), every) for name in ("seconds", "predicted")))


def _scores(measured: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    relative = np.abs(predicted / measured - 1)
    total = float(((measured - measured.mean()) ** 2).sum())
    r2 = 1 - float(((measured - predicted) ** 2).sum()) / total if total > 0 else None
    return {"rows": len(measured), "mape": relative.mean(), "max_relative_error": relative.max(), "r2": r2}


class Replayed(NamedTuple):
    """One run of the engine and the same run simulated."""

    point: dict[str, Any]
    requests: Requests
    real: Run
    log: Run
    busy: float  # s that the batches of the run took, at pace 1
    speed: float  # measured seconds of these batches over those that the time model predicts for them
    leftover: float  # the same at pace 1
    simulated: Simulated  # with the pace of the machine
    unpaced: Simulated  # on a machine as fast as in the calibration
    adjusted: Simulated  # with the pace, and iterations that take ``leftover`` times as long


def replay(bundle: Bundle) -> list[Replayed]:
    """Simulate the requests of every run under a policy that the simulator has, with its settings."""
    simulator, paces, found = Simulator(bundle), bundle.paces(), []
    batches = pl.read_parquet(bundle.path("batches.parquet")).partition_by("run_id", as_dict=True)
    for real, log in zip(bundle.runs(), iter_runs(bundle.path("log.parquet"), "iterations"), strict=True):
        point, clock = real.parameters, Clock(paces[real.run_id])
        if not bundle.target.policies[point["policy"]].simulated:
            continue
        requests = Requests(*(real.columns[c] for c in ("arrival", "prompt_tokens", "output_tokens", "kind")))
        where = (point["variant"], point["policy"], point["rate"])
        duration, predicted = log.columns["duration"], simulator.predicted(batches[real.run_id,])
        busy = clock.lasted(log.columns["start"], duration)
        found.append(
            Replayed(
                point,
                requests,
                real,
                log,
                busy,
                speed=float(duration.sum()) / predicted,
                leftover=busy / predicted,
                simulated=paced(simulator, clock, requests, where),
                unpaced=simulator.run(requests, *where),
                adjusted=paced(simulator, clock, requests, where, busy / predicted),
            )
        )
    return found


def paced(
    simulator: Simulator, clock: Clock, requests: Requests, where: tuple[str, str, float], speed: float = 1.0
) -> Simulated:
    """Simulate on a machine whose pace changes: on a clock that is even there, with arrivals moved to it and back.

    The gate's ``max_wait``, which is real time, is taken to be of that clock.
    """
    there = simulator.run(requests._replace(arrival=clock.even(requests.arrival)), *where, speed=speed)
    return there._replace(completion=clock.moments(there.completion), first_token=clock.moments(there.first_token))


def pairs(replayed: list[Replayed]) -> pl.DataFrame:
    """Every request twice: its latency (s) on the engine, and in the simulator given the same requests."""
    parts = []
    for run in replayed:
        arrival = run.requests.arrival
        own = {name: [run.point[name]] * len(arrival) for name in (*POINT, "replication")}
        times = {
            "request_id": run.real.columns["request_id"],
            "real": run.real.columns["completion"] - arrival,
            "simulated": run.simulated.completion - arrival,
            "unpaced": run.unpaced.completion - arrival,
            "adjusted": run.adjusted.completion - arrival,
            "real_ttft": run.real.columns["first_token"] - arrival,
            "simulated_ttft": run.simulated.first_token - arrival,
        }
        parts.append(pl.DataFrame(own | times))
    return pl.concat(parts)


def reality(replayed: list[Replayed], both: pl.DataFrame) -> pl.DataFrame:
    """One row per variant, policy and rate: how far the simulated latencies are from the real ones.

    ``median_error`` and ``p90_error`` are quantiles of |simulated / real - 1| over all requests of the replications,
    ``mean_error`` compares mean latencies. The simulator knows the pace of the machine from a meter, and nothing that
    was measured of the engine during the run. ``unpaced_error`` is the median when it takes the machine to be as fast
    as in the calibration. ``speed`` is how much longer the engine's batches took during the run than the calibrated
    model says for the same batches, ``leftover`` what of it the pace does not explain, and ``adjusted_error`` the
    median error when the simulator knows that as well: what is left is the schedule's.
    """
    error, unpaced, adjusted = (
        (pl.col(name) / pl.col("real") - 1).abs() for name in ("simulated", "unpaced", "adjusted")
    )
    rows = both.group_by(POINT, maintain_order=True).agg(
        requests=pl.len(),
        replications=pl.col("replication").n_unique(),
        median_error=error.median(),
        p90_error=error.quantile(0.9),
        unpaced_error=unpaced.median(),
        adjusted_error=adjusted.median(),
        real=pl.col("real").mean(),
        simulated=pl.col("simulated").mean(),
        real_ttft=pl.col("real_ttft").mean(),
        simulated_ttft=pl.col("simulated_ttft").mean(),
    )
    rows = rows.with_columns(mean_error=pl.col("simulated") / pl.col("real") - 1)
    return rows.join(_busy(replayed), on=list(POINT), how="left", maintain_order="left")


def _busy(replayed: list[Replayed]) -> pl.DataFrame:
    """Seconds in iterations, at pace 1, and their number, real and simulated, summed over the replications."""
    rows = [
        {name: run.point[name] for name in POINT}
        | {
            "real_busy": run.busy,
            "simulated_busy": run.simulated.busy,
            "real_iterations": len(run.log.columns["duration"]),
            "simulated_iterations": run.simulated.iterations,
            "real_evictions": int(run.real.columns["evictions"].sum()),
            "simulated_evictions": int(run.simulated.evictions.sum()),
            "speed": run.speed,
            "leftover": run.leftover,
            "drift_mean": run.point["drift_mean"],
            "drift_largest": run.point["drift_largest"],
        }
        for run in replayed
    ]
    grouped = pl.DataFrame(rows).group_by(POINT, maintain_order=True)
    sums = [f"{engine}_{what}" for what in ("busy", "iterations", "evictions") for engine in ("real", "simulated")]
    means = ("speed", "leftover", "drift_mean")
    return grouped.agg(pl.col(sums).sum(), pl.col(means).mean(), pl.col("drift_largest").max())


# --- E10 -------------------------------------------------------------------------------------------------------------


def runs(bundle: Bundle) -> pl.DataFrame:
    """Metrics of every run; ``paced_latency`` is the mean latency (s) on a clock that goes with the machine's pace."""
    rows, paces = [], bundle.paces()
    for run in bundle.runs():
        own = {name: run.parameters[name] for name in (*POINT, "replication")}
        clock, window = Clock(paces[run.run_id]), bundle.target.window
        even = {name: clock.even(run.columns[name]) for name in ("arrival", "first_token", "completion")}
        paced_latency = run_metrics(run.columns | even, window=window).mean_latency
        metrics = run_metrics(run.columns, window=window)._asdict()
        rows.append(own | metrics | {"paced_latency": paced_latency})
    return pl.DataFrame(rows, infer_schema_length=None)


def summary(bundle: Bundle, metrics: pl.DataFrame) -> pl.DataFrame:
    """Means over the replications with 95 % intervals, by variant, policy and rate."""
    labels = {key: curve.label for key, curve in bundle.target.policies.items()}
    rows = summarise(metrics, list(POINT))
    return rows.insert_column(2, rows["policy"].replace_strict(labels, return_dtype=pl.String).alias("label"))


def gain(bundle: Bundle, metrics: pl.DataFrame) -> pl.DataFrame:
    """How much lower the latency is than under vLLM's own scheduler on the same requests: paired, per variant and rate.

    ``reduction`` is 1 - mean latency / mean latency of the stock scheduler, its mean over replications with a 95 %
    interval; negative when the policy is slower. ``paced_reduction`` is the same with latencies at pace 1, so that it
    matters less which of the two had the faster machine. The row without a share is over all rates of the variant.
    """
    stock = metrics.filter(pl.col("policy") == STOCK)
    on = ["variant", "share", "rate", "replication"]
    other = metrics.filter(pl.col("policy") != STOCK).join(stock, on=on, suffix="_stock", maintain_order="left")
    other = other.with_columns(
        reduction=1 - pl.col("mean_latency") / pl.col("mean_latency_stock"),
        paced_reduction=1 - pl.col("paced_latency") / pl.col("paced_latency_stock"),
        ttft_reduction=1 - pl.col("mean_ttft") / pl.col("mean_ttft_stock"),
    )
    rows = []
    for (variant, policy), part in other.group_by("variant", "policy", maintain_order=True):
        own = {"variant": variant, "policy": policy, "label": bundle.target.policies[policy].label}
        for (share, rate), point in part.group_by("share", "rate", maintain_order=True):
            rows.append(own | {"share": share, "rate": rate} | _intervals(point))
        means = part.group_by("replication").agg(pl.col(REDUCTIONS).mean()).sort("replication")
        rows.append(own | {"share": None, "rate": None} | _intervals(means))
    return pl.DataFrame(rows, infer_schema_length=None).sort("variant", "policy", "share", nulls_last=True)


def _intervals(part: pl.DataFrame) -> dict[str, float]:
    row: dict[str, float] = {"replications": part.height}
    for name in REDUCTIONS:
        interval = mean_interval(part[name])
        row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row


def steps(bundle: Bundle) -> pl.DataFrame:
    """What a step of each scheduler costs, by variant and policy, all its runs together.

    ``planning`` is the time (s) that the engine's scheduler takes to plan a batch, ours and vLLM's part of it together,
    median and mean; ``share`` is its mean over the mean time of an iteration, ``extra`` how much longer it is than
    under vLLM's own scheduler, in s. Batches differ between policies, and planning takes longer for larger ones.
    """
    where = pl.read_parquet(bundle.path("log.parquet"), columns=["run_id", "duration"])
    batches = pl.read_parquet(bundle.path("batches.parquet"), columns=["run_id", "planning", "decodes", "prefills"])
    both = pl.concat([where, batches.drop("run_id")], how="horizontal")
    name = pl.col("run_id").cast(pl.String).str.split(",")
    both = both.with_columns(variant=name.list.get(0), policy=name.list.get(1))
    rows = both.group_by("variant", "policy", maintain_order=True).agg(
        iterations=pl.len(),
        requests=(pl.col("decodes") + pl.col("prefills")).mean(),
        iteration=pl.col("duration").mean(),
        planning_median=pl.col("planning").median(),
        planning_mean=pl.col("planning").mean(),
        share=pl.col("planning").mean() / pl.col("duration").mean(),
    )
    stock = rows.filter(pl.col("policy") == STOCK).select("variant", stock="planning_median")
    rows = rows.join(stock, on="variant", how="left", maintain_order="left")
    return rows.with_columns(extra=pl.col("planning_median") - pl.col("stock")).drop("stock")


# --- what claims are judged by ---


def evidence(bundle: Bundle) -> dict[str, pl.DataFrame]:
    """Small tables for the claims about a device (``docs/claims.md``), by file name; they lie in the bundle itself.

    ``time_model.csv``: ``mape`` and ``r_squared`` of the linear model on the generations that it was fitted to, and
    ``error_256``, its error at a batch of 256, both errors in %. ``single.csv`` and ``lmsys.csv``: by ``rate``, mean
    latency (s, mean over the replications) of our policy, ``wait``, and of vLLM's scheduler, ``baseline``. Ours is the
    paper's policy: the first of the variant ``paper_single`` (or ``single``) that is neither vLLM's nor the auto mode.
    """
    whole = generations(bundle)
    scores = _scores(*(whole.filter(~pl.col("extrapolated"))[c].to_numpy() for c in ("measured", LINEAR)))
    beyond = whole.filter(pl.col("batch") == 256)[f"{LINEAR}_error"].abs()
    row = {"mape": 100 * scores["mape"], "r_squared": scores["r2"]}
    tables = {"time_model.csv": pl.DataFrame([row | {"error_256": 100 * beyond[0] if len(beyond) else None}])}
    if bundle.has_runs():
        latency = runs(bundle).group_by("variant", "rate", "policy").agg(pl.col("mean_latency").mean())
        for name in ("single", "lmsys"):
            variant, policy = _paper_policy(bundle.target, name)
            part = latency.filter(pl.col("variant") == variant)
            ours, stock = (part.filter(pl.col("policy") == key) for key in (policy, STOCK))
            both = ours.join(stock, on="rate", suffix="_stock").sort("rate")
            if both.height:
                tables[f"{name}.csv"] = both.select("rate", wait="mean_latency", baseline="mean_latency_stock")
    return tables


def _paper_policy(target: Target, name: str) -> tuple[str, str]:
    """Variant and policy by which the claims about a workload are judged: the paper's, not the auto mode."""
    for variant in (f"paper_{name}", name):
        named = target.variants[variant].policies if variant in target.variants else []
        for key in named:
            if target.policies[key].use not in (STOCK, AUTO):
                return variant, key
    return name, ""


# --- artifacts -------------------------------------------------------------------------------------------------------


def all_tables(bundle: Bundle) -> dict[str, dict[str, pl.DataFrame]]:
    """Every table of a bundle: generations, fit, pairs and reality of E9; runs, summary, gain and steps of E10.

    A bundle that was cut short before its first run has the first two; the others are empty then.
    """
    whole, empty = generations(bundle), pl.DataFrame()
    has_runs = bundle.has_runs()
    replayed = replay(bundle) if has_runs else []
    both = pairs(replayed) if replayed else empty
    metrics = runs(bundle) if has_runs else empty
    return {
        "e9": {
            "generations": whole,
            "fit": fit(bundle, whole),
            "pairs": both,
            "reality": reality(replayed, both) if replayed else empty,
        },
        "e10": {
            "runs": metrics,
            "summary": summary(bundle, metrics) if has_runs else empty,
            "gain": gain(bundle, metrics) if has_runs else empty,
            "steps": steps(bundle) if has_runs else empty,
        },
    }


def artifact(bundle: Bundle, table: Callable[[], pl.DataFrame]) -> Artifact:
    """One table made from a bundle."""
    target = bundle.target
    lengths = [file for name in target.variants for file in input_files(workload_of(target, name)[0])]
    return Artifact(
        lambda path, _: table().write_csv(path),
        {"target": target, "window": target.window},
        (*CODE, *imported_modules(*target.own_policies())),
        rule="real",
        inputs=names([bundle.path("bundle.json"), *(bundle.path(name) for name in bundle.about.files), *set(lengths)]),
    )
