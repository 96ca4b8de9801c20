"""The command line, ``fluidwait``: every mistake of the user is one line and exit code 2, without a traceback.

Heavy modules are imported inside the commands, so that ``fluidwait --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer
from pydantic import Field, model_validator

from fluidwait.base.errors import ConfigError, FluidwaitError
from fluidwait.base.files import all_or_nothing, check_output
from fluidwait.base.models import Strict, parse
from fluidwait.base.yaml_files import load_yaml
from fluidwait.claims.cli import claims
from fluidwait.experiments.cli import app as experiments
from fluidwait.real.cli import app as real
from fluidwait.report.cli import app as report
from fluidwait.studies.cli import app as studies

PROGRAM = "fluidwait"
FAILED, MISUSED, INTERRUPTED = 1, 2, 130

UsageError = typer.BadParameter.__base__  # Typer's own copy of Click, or Click itself in older versions

app = typer.Typer(
    name=PROGRAM,
    help="Fluid-guided scheduling of LLM inference: thresholds, calibration, simulation, provenance.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
calibrate = typer.Typer(help="Fit a hardware file from measured times.", rich_markup_mode=None)
app.add_typer(calibrate, name="calibrate")

app.add_typer(experiments, name="experiment")
app.add_typer(studies, name="study")
app.add_typer(real, name="real")
app.add_typer(report, name="report")
app.command("claims")(claims)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (checked and found wanting), 2 (a mistake of the user) or 130."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # neither closed nor replaced by a test
            stream.reconfigure(errors="backslashreplace")  # for screens that have ASCII only
    try:
        code = _run_command(list(arguments) or ["--help"])
    except FluidwaitError as error:
        return _told(str(error))
    except UsageError as error:
        if error.format_message().startswith("Usage:"):  # a group without its command: the text is its whole help
            print(error.format_message(), file=sys.stderr)
            return MISUSED
        return _told(f"{error.format_message().replace('Value error, ', '')} (see {_command(error)} --help)")
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads has enough, as `| head` has
        _drop_output()
        return FAILED
    except MemoryError as error:
        return _told(f"not enough memory{f' ({error})' if str(error) else ''}; ask for less at once")
    except OSError as error:
        return _told_by_the_system(error)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("polars", "pyarrow"):
            raise
        return _told(f"a table that was given is not the one that this command reads: {str(error).splitlines()[0]}")
    return code if isinstance(code, int) else 0


def _run_command(arguments: list[str]) -> Any:
    with all_or_nothing():
        code = app(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk is an error of this command, not of Python's end
    return code


def _told_by_the_system(error: OSError) -> int:
    """What the operating system refused, of a file or of the screen."""
    where = "standard output" if error.filename is None else error.filename
    if error.filename is None:
        _drop_output()
    return _told(f"{where}: {error.strerror or error}")


def _drop_output() -> None:
    """What could not be printed is not tried again when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _told(message: str) -> int:
    print(f"{PROGRAM}: error: {' '.join(message.split())}", file=sys.stderr)
    return MISUSED


def _command(error: Any) -> str:
    return error.ctx.command_path if error.ctx else PROGRAM


# --- thresholds ----------------------------------------------------------------------------------------------------


class ThresholdsFile(Strict):
    """What ``fluidwait thresholds`` reads when it is not given an experiment."""

    hardware: str
    workload: str
    rates: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(min_length=1, description="requests/s")
    segments: int | None = Field(None, ge=1, description="segments of Nested WAIT, equally likely")
    boundaries: list[int] | None = Field(None, description="or their ends, output tokens")
    chunk: int | None = Field(None, ge=1, description="prefill tokens per request and batch; whole prompts without")
    semantics: Literal["serving", "paper"] = "serving"
    token_budget: float = Field(float("inf"), gt=0, description="tokens of a batch at most")
    cap: float = Field(float("inf"), gt=0, description="requests in service at most")

    @model_validator(mode="after")
    def _one_division(self) -> ThresholdsFile:
        if self.segments is not None and self.boundaries is not None:
            raise ValueError("segments and boundaries both say how Nested WAIT is divided; give one of them")
        return self


@app.command()
def thresholds(
    config: Annotated[Path, typer.Argument(help="an experiment, or a YAML file with hardware, workload and rates")],
    json: Annotated[str | None, typer.Option(help="write the numbers as JSON to this file; - is the screen")] = None,
) -> None:
    """Print the fluid model of a workload: equilibrium, thresholds and their memory at each rate."""
    from fluidwait.base.files import write_output
    from fluidwait.fluid import threshold_table

    law, rates, hardware, options = _threshold_question(config)
    frame, summary = threshold_table(law, rates, hardware, **options)
    text = _json_text(summary)
    if json == "-":
        print(text)
        return
    if json is not None:
        write_output(json, text + "\n")
    _print_thresholds(frame.to_dicts(), summary, hardware)


def _threshold_question(path: Path) -> tuple[Any, list[float], Any, dict[str, Any]]:
    """(length law, rates, hardware, options of ``threshold_table``) of either kind of file."""
    from fluidwait.device.hardware import load_hardware
    from fluidwait.workload import check_fits, length_law, load_workload

    data = load_yaml(path)
    if "policies" in data or "scales" in data:
        from fluidwait.experiments.experiment import Experiment, RateRange
        from fluidwait.experiments.setting import resolve

        experiment = parse(Experiment, data, path)
        setting, rates = resolve(experiment), experiment.rates
        rates = rates.values() if isinstance(rates, RateRange) else rates
        return setting.law, rates, setting.hardware, {"semantics": experiment.semantics}
    question = parse(ThresholdsFile, data, path)
    hardware, law = load_hardware(question.hardware), length_law(load_workload(question.workload))
    check_fits(law, hardware.kv_capacity_tokens, str(path), hardware.max_model_len)
    return law, question.rates, hardware, question.model_dump(exclude={"hardware", "workload", "rates"})


def _print_thresholds(rows: list[dict[str, Any]], summary: dict[str, Any], hardware: Any) -> None:
    edge = summary["calibrated_boundary"]
    print(f"{hardware.name}: C = {summary['capacity']:.0f} KV tokens")
    print(f"largest rate with M* <= C: {_number(summary['boundary_rate'])} requests/s")
    print(f"calibrated stability boundary: {_number(edge['rate'])} requests/s, set by {edge['binding']}")
    kinds = {"wait": "WAIT, one per type", "nested_wait": "Nested WAIT, one per segment"}
    print(f"thresholds: {kinds[summary['policy']]}", end="")
    print("" if summary["boundaries"] is None else f", ends {summary['boundaries']}", end="\n\n")
    _print_table(
        ("requests/s", "dT* ms", "M* tokens", "M*/C", "thresholds", "tokens", "calibrated dT ms", "in service", "note"),
        [
            (
                _number(row["rate"]),
                _number(row["iteration_time"], 1e3),
                _number(row["memory"]),
                _number(row["memory_share"]),
                "-" if row["thresholds"] is None else " ".join(map(str, row["thresholds"])),
                _number(row["threshold_memory"]),
                _number(row["calibrated_iteration_time"], 1e3),
                _number(row["calibrated_in_service"]),
                row["note"],
            )
            for row in rows
        ],
    )


def _json_text(value: Any) -> str:
    """JSON with two spaces; infinities and NaN as null, which is what JSON has for them."""
    import json

    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy
        return _finite(value.tolist())
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


# --- calibrate -----------------------------------------------------------------------------------------------------

Template = Annotated[Path, typer.Option(help="hardware file with the sizes; its profile and residuals are replaced")]
Out = Annotated[Path, typer.Option(help="hardware file to write")]


@calibrate.command("iterations")
def calibrate_iterations(
    csv: Annotated[Path, typer.Argument(help="measured iterations, one per row; see docs/adding-hardware.md")],
    template: Template,
    out: Out,
) -> None:
    """Fit the iteration time from whole iterations, measured on any device."""
    from fluidwait.device import calibration

    with _writing(out):
        hardware = calibration.calibrate_iterations(csv, template, out)
    _print_fit(hardware, out)


@calibrate.command("profile")
def calibrate_profile(
    compute: Annotated[Path, typer.Argument(help="operator times by tokens in the batch, as Vidur profiles them")],
    attention: Annotated[list[Path], typer.Argument(help="attention times by shape; one file or several")],
    template: Template,
    out: Out,
) -> None:
    """Fit the iteration time from operator times: everything but attention, and attention by its shape."""
    from fluidwait.device import calibration

    with _writing(out):
        hardware = calibration.calibrate_profile(compute, attention, template, out)
    _print_fit(hardware, out)


def _print_fit(hardware: Any, out: Path) -> None:
    rows = [(part, name, value) for part, fit in hardware.fit.items() for name, value in fit.items()]
    rows = [(*names, value if isinstance(value, str) else _number(value)) for *names, value in rows]
    _print_table(("part", "residual", "value"), rows)
    print(f"\nwrote {out}: {hardware.name}, {hardware.kv_capacity_tokens} KV tokens")


# --- table ---------------------------------------------------------------------------------------------------------


@app.command("table")
def make_table(
    csv: Annotated[Path, typer.Argument(help="data set with one request per row")],
    out: Annotated[Path, typer.Option(help="table to write")],
    prompt_column: Annotated[str, typer.Option(help="column of the prompt lengths, tokens")] = "prompt",
    output_column: Annotated[str, typer.Option(help="column of the output lengths, tokens")] = "output",
    max_prompt: Annotated[int | None, typer.Option(help="longest prompt kept")] = None,
    max_output: Annotated[int | None, typer.Option(help="longest output kept")] = None,
    empty: Annotated[str, typer.Option(help="an empty prompt or output: refuse, drop, or one (token)")] = "refuse",
) -> None:
    """Turn a data set of requests into a small table of lengths for a workload."""
    from fluidwait.workload import table as workload_table

    columns = {"prompt_column": prompt_column, "output_column": output_column}
    limits = {"max_prompt": max_prompt, "max_output": max_output}
    summary = workload_table.make_table(csv, out, empty=empty, **limits, **columns)
    _print_table(("requests", "count"), [(name, str(count)) for name, count in summary._asdict().items()])
    print(f"\nwrote {out}")


# --- simulate ------------------------------------------------------------------------------------------------------


class Engine(StrEnum):
    simulator = "simulator"
    vidur = "vidur"


class SemanticsName(StrEnum):
    serving = "serving"
    paper = "paper"


class TimeModelName(StrEnum):
    profile = "profile"
    linear = "linear"


class _Job(NamedTuple):
    """A run with everything resolved."""

    policy: Any
    workload: Any
    hardware: Any
    requests: Any
    knobs: Any
    time_model: Any
    semantics: Any


@app.command()
def simulate(
    policy: Annotated[str, typer.Option(help="name in config/policies, or a YAML file")],
    workload: Annotated[str, typer.Option(help="name in config/workloads, or a YAML file")],
    rate: Annotated[float | None, typer.Option(help="requests/s; without it, the workload's own")] = None,
    requests: Annotated[int, typer.Option(help="requests to run, all to completion")] = 2000,
    hardware: Annotated[str, typer.Option(help="name in data/hardware, or a YAML file")] = "a100-80g_llama-2-7b",
    seed: Annotated[int, typer.Option(help="names the random streams")] = 1,
    engine: Annotated[Engine, typer.Option(help="our compiled simulator, or Vidur")] = Engine.simulator,
    semantics: Annotated[SemanticsName, typer.Option(help="see docs/engines.md")] = SemanticsName.serving,
    time_model: Annotated[TimeModelName, typer.Option(help="measured, or d0 and d1")] = TimeModelName.profile,
    out: Annotated[Path | None, typer.Option(help="also write every request to this Parquet file")] = None,
) -> None:
    """Run a policy once and print what the requests experienced."""
    if out is not None:
        check_output(out)
    job = _resolve(policy, workload, hardware, rate, requests, seed, semantics, time_model)
    run = _run(job, engine)
    from fluidwait.experiments.sweep import columns_of

    columns = columns_of(job.requests, run)
    asked = {"rate": rate, "requests": requests, "seed": seed, "replication": 0}
    choices = {"engine": engine.value, "semantics": semantics.value, "time_model": time_model.value}
    if out is not None:
        _write_records(out, job, columns, asked, choices)
    _print_run(job, run, columns, ", ".join(choices.values()))
    print("" if out is None else f"\nwrote {out}\n", end="")


@app.command("compile")
def compile_policies(
    policies: Annotated[list[str] | None, typer.Argument(metavar="[POLICY...]", help="all, when none is named")] = None,
) -> None:
    """Compile the simulator for the policies in config/policies, once per machine; else their first runs do.

    In one process, so that what the policies share is compiled once.
    """
    from fluidwait.base.paths import project_root

    shipped = sorted(path.stem for path in (project_root() / "config" / "policies").glob("*.yaml"))
    for name in policies or shipped:
        few = {"rate": 1.0, "requests": 10, "seed": 1}
        how = {"semantics": SemanticsName.serving, "time_model": TimeModelName.profile}
        _run(_resolve(name, "p512d20", "a100-80g_llama-2-7b", **few, **how), Engine.simulator)
        print(name)


def _resolve(policy, workload, hardware, rate, requests, seed, semantics, time_model) -> _Job:
    from fluidwait.device.hardware import load_hardware
    from fluidwait.engines import core
    from fluidwait.policies import load_policy
    from fluidwait.policies.contract import Context
    from fluidwait.workload import check_fits, check_offered, generate, length_law, load_workload, mean_rate

    chosen, work, machine = load_policy(policy), load_workload(workload), load_hardware(hardware)
    drawn = generate(work, n=requests, rate=rate, seed=seed)
    check_offered(work, requests, rate, f"workload {work.name}")
    if semantics is SemanticsName.paper:
        rules = core.paper(machine.kv_capacity_tokens, machine.watermark)
    else:
        rules = core.serving(machine.kv_blocks, machine.block_size, machine.watermark)
    law, times = length_law(work), machine.time_model(time_model.value)
    usable = (rules.blocks - rules.watermark) * rules.block_size
    check_fits(law, usable, f"workload {work.name}", machine.max_model_len)
    linear = machine.timing.linear
    d0, d1 = (linear.d0, linear.d1) if linear else (float("nan"), float("nan"))  # refused by the policies that ask
    capacity = rules.blocks * rules.block_size
    context = Context(law, mean_rate(work, rate, requests), times, (d0, d1), capacity, rules.prefill_emits)
    try:
        knobs = chosen.prepare(context)
    except ConfigError as error:
        if linear is None and str(error).startswith("d0:"):
            raise ConfigError(
                f"{machine.name}: timing.linear: '{chosen.name}' needs the paper's d0 and d1; not in this hardware file"
            ) from None
        raise
    return _Job(chosen, work, machine, drawn, knobs, times, rules)


def _run(job: _Job, engine: Engine) -> Any:
    from fluidwait.engines.rehearsal import rehearse

    arguments = (job.requests, job.policy, job.knobs, job.time_model, job.semantics)
    rehearse(*arguments)
    if engine is Engine.vidur:
        from fluidwait.engines.vidur import simulate_vidur

        return simulate_vidur(*arguments)
    from fluidwait.engines import simulator

    return simulator.simulate(*arguments, check=True)


def _print_run(job: _Job, run: Any, columns: dict[str, Any], how: str) -> None:
    from fluidwait.stats.metrics import run_metrics

    metrics = run_metrics(columns)
    print(f"{job.policy.name}, {job.workload.name}, {job.hardware.name} ({how})")
    print(f"latencies of the middle half of {metrics.requests} requests, {_number(_offered(job))} arrivals/s")
    print(_rows_used(job))
    rows = [
        ("mean latency", _number(metrics.mean_latency), "s"),
        ("median latency", _number(metrics.median_latency), "s"),
        ("95 % latency", _number(_percentile(metrics, 95)), "s"),
        ("99 % latency", _number(_percentile(metrics, 99)), "s"),
        ("mean time to first token", _number(metrics.mean_ttft), "s"),
        ("mean time per output token", _number(metrics.mean_tpot, 1e3), "ms"),
        ("completions", _number(metrics.completion_rate), "requests/s"),
        ("output tokens", _number(metrics.token_throughput), "tokens/s"),
        ("mean number in system", _number(metrics.mean_in_system), "requests"),
        ("evictions", str(metrics.evictions), ""),
        ("iterations", str(run.iterations), ""),
        ("time spent in iterations", _number(run.busy / metrics.makespan, 100), "%"),
    ]
    if run.peak_blocks >= 0:  # Vidur keeps none
        rows.append(("most KV memory in use", _number(run.peak_blocks / job.semantics.blocks, 100), "%"))
    _print_table(("metric", "value", "unit"), [*rows, *_growth(job, columns)])


def _offered(job: _Job) -> float:
    """Arrivals per second; of a replayed trace, whose first request comes at time 0, the gaps between them."""
    arrival = job.requests.arrival
    gaps = len(arrival) - (job.workload.arrivals.process == "trace")
    return gaps / arrival[-1] if arrival[-1] > 0 else float("nan")


def _rows_used(job: _Job) -> str:
    """The line that tells which rows of a trace were replayed; empty for other arrivals."""
    from fluidwait.workload import rows_used

    if job.workload.arrivals.process != "trace":
        return ""
    first, last, rows = rows_used(job.workload, len(job.requests.arrival))
    return f"rows {first} to {last} of the {rows} of the trace, {rows - (last - first + 1)} left out\n"


def _percentile(metrics: Any, percent: int) -> float | None:
    """A percentile of the latency; None of so few requests that it would be little but the largest of them."""
    from fluidwait.stats.metrics import window_slice

    window = window_slice(metrics.requests)
    enough = (window.stop - window.start) * (100 - percent) >= 100
    return getattr(metrics, f"p{percent}_latency") if enough else None


def _growth(job: _Job, columns: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The row that tells an overloaded run, when the rule of :mod:`fluidwait.stats.stability` applies."""
    from fluidwait.stats.stability import MARGIN, drift

    arrival = columns["arrival"]
    if len(arrival) < 100 or not job.workload.arrivals.constant_rate:
        return []
    share, allowed = drift(arrival, columns["completion"]), MARGIN / len(arrival) ** 0.5
    shown = f"{100 * share:.2f}".replace("-0.00", "0.00")
    verdict = f"stable: at most {_number(allowed, 100)}" if share <= allowed else "not stable"
    return [("arrivals left behind", shown, f"% ({verdict})")]


def _write_records(
    out: Path, job: _Job, columns: dict[str, Any], asked: dict[str, Any], choices: dict[str, str]
) -> None:
    """Every request of the run as a requests file of :mod:`fluidwait.artifacts.records`, with its sidecar."""
    from fluidwait.artifacts.code import imported_modules
    from fluidwait.artifacts.records import REQUESTS, RecordWriter
    from fluidwait.artifacts.sidecar import write_artifact
    from fluidwait.workload import input_files

    config = asked | choices | {"workload": job.workload, "hardware": job.hardware}
    config["policy"] = {"policy": job.policy.name} | job.policy.settings.model_dump()
    code = imported_modules(f"fluidwait.engines.{choices['engine']}", job.policy.code)

    def write(path: Path, key: str) -> None:
        with RecordWriter(path, REQUESTS, engine=choices["engine"], policy=job.policy.name, config_hash=key) as records:
            records.append("run", columns, config_hash=key, parameters=asked)

    write_artifact(
        out,
        write,
        config=config,
        inputs=input_files(job.workload),
        code=code,
        rule="fluidwait simulate",
    )


# --- verify, schemas, policies -------------------------------------------------------------------------------------


@app.command()
def verify(
    results: Annotated[Path | None, typer.Argument(help="folder; without it, the project's results")] = None,
) -> None:
    """Name every artifact that is stale, missing, altered, untracked or made by another environment."""
    from fluidwait.artifacts.verify import artifacts
    from fluidwait.artifacts.verify import verify as findings_below
    from fluidwait.base.paths import project_root

    folder = project_root() / "results" if results is None else results
    findings = findings_below(folder)
    for finding in findings:
        print(f"{finding.path}: {finding.status}: {finding.detail}")
    checked = len(artifacts(folder))
    print(f"{checked} artifacts checked, {len(findings)} findings")
    if findings:
        raise typer.Exit(FAILED)


@app.command("schemas")
def make_schemas(
    check: Annotated[bool, typer.Option("--check", help="compare only; exit code 1 when a file differs")] = False,
) -> None:
    """Write the JSON Schemas of the configuration files to workflow/schemas."""
    from fluidwait.pipeline import schemas

    folder = schemas.schema_folder()
    if not check:
        print(f"wrote {len(schemas.write_schemas(folder))} schemas to {folder}")
        return
    different = schemas.differences(folder)
    for line in different:
        print(line)
    if different:
        raise typer.Exit(FAILED)
    print(f"{len(schemas.schemas())} schemas match their models")


@app.command("policies")
def list_policies() -> None:
    """List the policies that ship with fluidwait and those of config/policies, with their settings and defaults."""
    from fluidwait import policies
    from fluidwait.base.paths import project_root

    used = [load_yaml(path).get("policy") for path in sorted((project_root() / "config" / "policies").glob("*.yaml"))]
    own = sorted({name for name in used if isinstance(name, str)} - set(policies.names()))
    for name in [*policies.names(), *own]:
        module = policies.load_policy({"policy": name}).module
        print(f"{name}: {_first_paragraph(module.__doc__ or '')}")
        fields = module.Settings.model_fields.items()
        _print_table(None, [(f"  {key}", _default(field), field.description or "") for key, field in fields])
        print()


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split()).rstrip(".").replace("``", "")


def _default(field: Any) -> str:
    if field.is_required():
        return "(required)"
    words = {"True": "true", "False": "false", "None": "none", "inf": ".inf"}  # as YAML has them
    return words.get(str(field.default), str(field.default))


# --- output --------------------------------------------------------------------------------------------------------


def _number(value: float | None, unit: float = 1.0) -> str:
    """Four digits, without an exponent for what is counted in thousands; a dash for nothing."""
    if value is None or value != value:
        return "-"
    value = value * unit
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def _print_table(header: Sequence[str] | None, rows: Iterable[Sequence[str]]) -> None:
    """Columns two spaces apart, numbers to the right."""
    rows = [*([header] if header else []), *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    numeric = [any(_is_number(row[i]) for row in rows) for i in range(len(widths))]
    for row in rows:
        cells = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)]
        print("  ".join(cells).rstrip())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Tell an operating system's refusal to write ``out`` as the user's mistake that it is."""
    check_output(out)
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror or error})") from None


if __name__ == "__main__":
    sys.exit(main())
