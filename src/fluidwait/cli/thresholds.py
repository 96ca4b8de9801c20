"""``fluidwait thresholds``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fluidwait.base.numbers import number
from fluidwait.cli.printing import json_text, print_table


def thresholds(
    config: Annotated[Path, typer.Argument(help="an experiment, or a YAML file with hardware, workload and rates")],
    json: Annotated[str | None, typer.Option(help="write JSON to this file (- for standard output)")] = None,
) -> None:
    """Print the fluid model of a workload: equilibrium, thresholds and their memory at each rate."""
    from fluidwait.base.files import write_output
    from fluidwait.fluid.report import threshold_table

    law, rates, hardware, options = _threshold_question(config)
    frame, summary = threshold_table(law, rates, hardware, **options)
    text = json_text(summary)
    if json == "-":
        print(text)
        return
    if json is not None:
        write_output(json, text + "\n")
    _print_thresholds(frame.to_dicts(), summary, hardware)


def _threshold_question(path: Path) -> tuple[Any, list[float], Any, dict[str, Any]]:
    """(length law, rates, hardware, options of ``threshold_table``) of either kind of file."""
    from fluidwait.base.errors import named
    from fluidwait.base.models import parse
    from fluidwait.base.yaml_files import load_yaml
    from fluidwait.device.hardware import load_hardware
    from fluidwait.fluid.question import ThresholdsFile
    from fluidwait.workload import check_fits, length_law, load_workload

    data = load_yaml(path)
    if {"policies", "scales", "extends"} & set(data):
        from fluidwait.experiments.experiment import RateRange, load_experiment
        from fluidwait.experiments.setting import resolve

        experiment = load_experiment(path)
        with named(str(path)):
            setting = resolve(experiment)
        rates = experiment.rates
        rates = rates.values() if isinstance(rates, RateRange) else rates
        return setting.law, rates, setting.hardware, {"semantics": experiment.fluid_semantics}
    question = parse(ThresholdsFile, data, path)
    hardware, law = load_hardware(question.hardware), length_law(load_workload(question.workload))
    check_fits(law, hardware.kv_capacity_tokens, str(path), hardware.max_model_len)
    return law, question.rates, hardware, question.model_dump(exclude={"hardware", "workload", "rates"})


def _print_thresholds(rows: list[dict[str, Any]], summary: dict[str, Any], hardware: Any) -> None:
    edge = summary["calibrated_boundary"]
    print(f"{hardware.name}: C = {summary['capacity']:.0f} KV tokens")
    print(f"largest rate with M* <= C: {number(summary['boundary_rate'])} requests/s")
    print(f"calibrated stability boundary: {number(edge['rate'])} requests/s, set by {edge['binding']}")
    kinds = {"wait": "WAIT, one per type", "nested_wait": "Nested WAIT, one per segment"}
    print(f"thresholds: {kinds[summary['policy']]}", end="")
    print("" if summary["boundaries"] is None else f", ends {summary['boundaries']}", end="\n\n")
    print_table(
        ("requests/s", "dT* ms", "M* tokens", "M*/C", "thresholds", "tokens", "calibrated dT ms", "in service", "note"),
        [
            (
                number(row["rate"]),
                number(row["iteration_time"], 1e3),
                number(row["memory"]),
                number(row["memory_share"]),
                "-" if row["thresholds"] is None else " ".join(map(str, row["thresholds"])),
                number(row["threshold_memory"]),
                number(row["calibrated_iteration_time"], 1e3),
                number(row["calibrated_in_service"]),
                row["note"],
            )
            for row in rows
        ],
    )
