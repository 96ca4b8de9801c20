"""Identity, sizes and hardware of the experiments that a report tells of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fluidwait.base.paths import project_root
from fluidwait.base.tables import highest, load_table, lowest
from fluidwait.base.yaml_files import load_yaml
from fluidwait.drawing.reading import read_json
from fluidwait.report.made import Made


def describe(name: str, config: Mapping[str, Any], made: Made) -> dict[str, Any]:
    """Identity and sizes of an experiment; a study, which has no summary, has no sizes."""
    known = {key: config.get(key) for key in ("title", "hardware", "workload", "semantics", "eviction")}
    about = {"id": name} | known | {"title": config.get("title", name)}
    summary = made.tables.get((name, "summary.csv"))
    if summary is None:
        return about
    rows = load_table(summary)
    about |= {
        "policies": rows["policy"].n_unique(),
        "rates": [lowest(rows["rate"]), highest(rows["rate"])],
        "replications": highest(rows["replications"]),
        "requests": [int(lowest(rows["requests"])), int(highest(rows["requests"]))],
        "runs": int(rows["replications"].sum()),
        "simulated_requests": int((rows["replications"] * rows["requests"]).sum()),
    }
    thresholds = made.tables.get((name, "thresholds.json"))
    if thresholds is not None:
        fluid = read_json(thresholds, "capacity", "calibrated_boundary")
        about |= {"capacity": fluid["capacity"], "paper_boundary": fluid["boundary_rate"]}
        about |= {"calibrated_boundary": fluid["calibrated_boundary"]["rate"]}
    return about


def totals(experiments: list[dict[str, Any]]) -> dict[str, Any]:
    sizes = [about for about in experiments if "runs" in about]
    return {
        "experiments": len(experiments),
        "runs": sum(about["runs"] for about in sizes),
        "requests": sum(about["simulated_requests"] for about in sizes),
        "replications": _span(about["replications"] for about in sizes),
        "run_requests": _span(n for about in sizes for n in about["requests"]),
    }


def _span(values: Iterable[float]) -> list[float]:
    """[smallest, largest]; empty without values."""
    values = list(values)
    return [min(values), max(values)] if values else []


def hardware_of(experiments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Device, model and the paper's linear iteration time of every hardware file that is used."""
    capacity = {about["hardware"]: about.get("capacity") for about in reversed(experiments) if about.get("hardware")}
    return [_device(name) | {"capacity": capacity[name]} for name in reversed(capacity)]


def _device(name: str) -> dict[str, Any]:
    data = load_yaml(project_root() / "data" / "hardware" / f"{name}.yaml")
    linear = data["timing"].get("linear") or {}
    model = data["model"]["name"]
    return {"name": name, "device": data["device"], "model": model, "d0": linear.get("d0"), "d1": linear.get("d1")}
