"""Hardware files that calibration writes: a template, measured times, residuals, and where they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fluidwait.base.files import write_output
from fluidwait.base.models import parse
from fluidwait.base.yaml_files import load_yaml
from fluidwait.device.hardware import Hardware, ModelShape


def read_template(template: dict[str, Any] | str | Path) -> tuple[dict[str, Any], ModelShape]:
    """The header of a hardware file, without measured times and residuals, checked."""
    name = "template" if isinstance(template, dict) else str(template)
    header = dict(template) if isinstance(template, dict) else load_yaml(template)
    header.pop("fit", None)
    if isinstance(header.get("timing"), dict):
        header["timing"] = {k: v for k, v in header["timing"].items() if k != "profile"}
    return header, parse(Hardware, header, name).model


def write_hardware(
    header: dict[str, Any], profile: dict[str, Any], fit: dict[str, Any], inputs: Sequence[str | Path], out: str | Path
) -> Hardware:
    """Write the hardware file, its inputs named and pinned by hash; return what was written."""
    source = dict(header.get("source") or {})
    source = {k: v for k, v in source.items() if not k.startswith("sha256 of ")}
    for path in map(Path, inputs):
        source[f"sha256 of {path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    profile = {k: float(v) if isinstance(v, np.floating) else v for k, v in profile.items()}
    if "seconds" in profile:
        profile["seconds"] = [float(s) for s in profile["seconds"]]
    data = {k: v for k, v in header.items() if k not in ("source", "timing")}
    data |= {"source": source, "timing": {**(header.get("timing") or {}), "profile": profile}, "fit": fit}
    hardware = parse(Hardware, data, out)
    write_output(out, yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=110))
    return hardware


class _Dumper(yaml.SafeDumper):
    """Mappings one key a line, number lists wrapped, strings plain."""


_Dumper.add_representer(list, lambda d, v: d.represent_sequence("tag:yaml.org,2002:seq", v, flow_style=True))
_Dumper.add_representer(dict, lambda d, v: d.represent_mapping("tag:yaml.org,2002:map", v.items(), flow_style=False))
