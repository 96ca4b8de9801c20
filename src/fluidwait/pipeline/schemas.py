"""JSON Schemas of the configuration files, generated from the models that read them.

``fluidwait schemas`` writes them to ``workflow/schemas``, where editors and other tools find them; a test proves that
the committed files match the models. The models stay the judge: they also check what a schema cannot say.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fluidwait.base.files import write_text
from fluidwait.base.paths import project_root
from fluidwait.base.text_files import read_text

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SUFFIX = ".schema.json"


def schema_folder() -> Path:
    """``workflow/schemas`` of the project."""
    return project_root() / "workflow" / "schemas"


def schemas() -> dict[str, dict[str, Any]]:
    """By file name: workload, hardware, experiment, claims, and ``study_<id>`` and ``policy_<name>`` of each."""
    from fluidwait import policies
    from fluidwait.device.hardware import Hardware
    from fluidwait.workload import Workload

    found = {"workload": of_model(Workload), "hardware": of_model(Hardware)}
    # The experiments read the same files as the command line, so they are looked up only here.
    if importlib.util.find_spec("fluidwait.experiments.experiment"):
        found["experiment"] = of_experiment(importlib.import_module("fluidwait.experiments.experiment").Experiment)
    if importlib.util.find_spec("fluidwait.studies.registry"):
        models = importlib.import_module("fluidwait.studies.registry").MODELS
        found |= {f"study_{name}": of_model(model) for name, model in models.items()}
    if importlib.util.find_spec("fluidwait.real.target"):
        found["real"] = of_model(importlib.import_module("fluidwait.real.target").Target)
    found["claims"] = of_model(importlib.import_module("fluidwait.claims.claim").ClaimFile)
    for name in policies.names():
        settings = importlib.import_module(f"{policies.__name__}.{name}").Settings
        found[f"policy_{name}"] = of_policy(name, settings)
    return {f"{name}{SUFFIX}": schema for name, schema in sorted(found.items())}


def of_model(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a model. Defaults that JSON cannot say, such as infinity, move into the description."""
    return {"$schema": DIALECT} | _sayable(model.model_json_schema())


def of_policy(name: str, settings: type[BaseModel]) -> dict[str, Any]:
    """The schema of a policy file: its settings and the key ``policy`` with the policy's name."""
    schema = of_model(settings) | {"title": f"Policy {name}"}
    schema["properties"] = {"policy": {"const": name}} | schema.get("properties", {})
    schema["required"] = ["policy", *schema.get("required", [])]
    return schema


def of_experiment(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of an experiment, whole or one that ``extends`` another.

    What such a file leaves out is that of the other; ``null`` leaves a key of the other out. So it does in a scale, and
    of the policies it does with whole entries.
    """
    whole = of_model(model)
    properties, parts = whole["properties"], dict(whole["$defs"])
    scale = parts["Scale"]
    partial = {key: _or_null(value) for key, value in scale["properties"].items()}
    parts["ExtendingScale"] = {k: v for k, v in scale.items() if k != "required"} | {"properties": partial}
    changed = {key: _or_null(value) for key, value in properties.items() if key != "id"}
    for key, entry in (("scales", {"$ref": "#/$defs/ExtendingScale"}), ("policies", {"$ref": "#/$defs/PolicyEntry"})):
        changed[key] = properties[key] | {"additionalProperties": _or_null(entry)}
    extends = {"type": "string", "description": "name of the experiment in config/experiments that it changes"}
    return whole | {
        "$defs": parts,
        "properties": {"id": properties["id"], "extends": extends} | changed,
        "required": ["id"],
        "if": {"required": ["extends"]},
        "else": {"properties": properties, "required": whole["required"]},
    }


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    described = {"description": schema["description"]} if "description" in schema else {}
    return {"anyOf": [schema, {"type": "null"}]} | described


def write_schemas(folder: Path) -> list[Path]:
    """Write every schema into ``folder``, each atomically, and remove schemas that no model has any more.

    Raises:
        ConfigError: the folder cannot be written.
    """
    wanted = {folder / name: text(schema) for name, schema in schemas().items()}
    for path, content in wanted.items():
        write_text(path, content)
    for path in _extra(folder):
        path.unlink()
    return list(wanted)


def differences(folder: Path) -> list[str]:
    """One line for each file of ``folder`` that is missing, outdated or of no model; empty when all match."""
    found = []
    for name, schema in schemas().items():
        path = folder / name
        if not path.is_file():
            found.append(f"{path}: missing")
        elif read_text(path) != text(schema):
            found.append(f"{path}: differs from its model")
    return found + [f"{path}: belongs to no model" for path in _extra(folder)]


def text(schema: dict[str, Any]) -> str:
    """A schema as it stands in its file."""
    return json.dumps(schema, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _extra(folder: Path) -> list[Path]:
    known = set(schemas())
    return [path for path in sorted(folder.glob(f"*{SUFFIX}")) if path.name not in known]


def _sayable(value: Any) -> Any:
    """``value`` without numbers that JSON lacks; YAML writes them as ``.inf``."""
    if isinstance(value, list):
        return [_sayable(item) for item in value]
    if not isinstance(value, dict):
        return value
    plain = {key: _sayable(item) for key, item in value.items()}
    default = plain.get("default")
    if isinstance(default, float) and not math.isfinite(default):
        del plain["default"]
        plain["description"] = f"{plain.get('description', '')} (default: {'-' if default < 0 else ''}.inf)".lstrip()
    return plain
