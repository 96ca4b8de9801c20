"""The report: gather every number that it prints from the result tables, and typeset it.

``paper/report.typ`` holds the words and no results; it reads ``report.json``, which :func:`gather` makes from the
tables, figures and claims that the workflow hands over. What was not made is left out of the report and named in it.

Typst sets the page. The document has one font, the DejaVu Sans that ships with Matplotlib and that the figures are
drawn in, and no date, so the same inputs give the same bytes on every machine.
"""

from __future__ import annotations

import csv
import json
import math
import platform
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fluidwait.artifacts.canonical import config_hash
from fluidwait.artifacts.code import code_fingerprint, imported_modules
from fluidwait.artifacts.environment import PACKAGES, package_versions
from fluidwait.artifacts.inputs import describe_input
from fluidwait.artifacts.sidecar import write_artifact
from fluidwait.base.errors import ConfigError
from fluidwait.base.files import check_output
from fluidwait.base.paths import is_file, project_root, resolved
from fluidwait.base.tables import load_table
from fluidwait.base.text_files import read_json as json_value
from fluidwait.base.text_files import read_text
from fluidwait.base.yaml_files import load_yaml
from fluidwait.claims.claim import claims_path, load_claims
from fluidwait.claims.scorecard import warning
from fluidwait.drawing.reading import read_json
from fluidwait.experiments.audit import TOLERANCE
from fluidwait.workload import TruncatedPoissonArrivals

STYLE = "paper/style.typ"
"""What every document of ``paper/`` looks like."""

SHOWN = ("latency", "horizon", "mstar", "memory")
"""Kinds of figures of experiments that the report shows, the main one first."""

MEASURED = {"e9": {"title": "Iteration times on real machines"}, "e10": {"title": "A real engine on real machines"}}
"""Experiments without a file of their own: their recordings name the machines."""

SETUP = ("workload", "arrivals", "rates", "requests", "replications", "seed", "memory_margin", "capacity_tokens")
SETUP = ("experiment", *SETUP, "semantics", "eviction", "time_model")
"""Columns of ``parameters.csv`` that all policies of an experiment share, as far as they are printed."""

FIRST_SETTING = "max_requests"
"""Column of ``parameters.csv`` at which the settings of the policies begin."""

HOISTED = 2
"""A sentence is told once for all when this many captions share it."""

Files = Iterable[str | Path]


# --- gathering -----------------------------------------------------------------------------------------------------


def gather(scale: str, files: Files) -> dict[str, Any]:
    """What the report of a scale needs, from exactly these ``files`` of ``results/<scale>`` and ``figures/<scale>``.

    Args:
        scale: name of the scale, the folder below ``results/`` and ``figures/``.
        files: paths relative to the project folder, or absolute; files of no use to the report are passed over. Of a
            figure the ``.png`` stands for all its formats.

    Returns:
        ``scale``; ``experiments`` (identity and sizes, in the order of their ids) and ``missing`` (those configured in
        ``config/`` and not among the files); ``totals``; ``claims`` with ``verdicts`` (number of claims by verdict),
        ``unjudged`` and ``warning``; ``figures`` with ``reading`` (what captions of one kind have in common) and
        ``aside`` (not shown); ``audit`` with ``tolerance`` (s); ``tables``; ``hardware``; ``truncation`` (how much
        faster truncated arrivals come, a share); ``packages``.

    Raises:
        ConfigError: a file is missing or is not what its name says.
    """
    made = _Made(scale, files)
    known = _configured()
    present = sorted(made.names(known), key=_natural)
    experiments = [_experiment(name, known.get(name, {}), made) for name in present]
    claims = _claims(made)
    figures = _figures(made, known, claims)
    return {
        "scale": scale,
        "experiments": experiments,
        "missing": [{"id": i, "title": known[i]["title"]} for i in sorted(known, key=_natural) if i not in present],
        "totals": _totals(experiments),
        "claims": claims,
        "verdicts": _counts(claim["verdict"] for claim in claims),
        "unjudged": _unjudged(claims),
        "warning": warning(scale) if claims else None,
        "reading": hoist([figure for figure in figures.values() if figure["shown"]]),
        "figures": figures,
        "aside": [name for name, figure in figures.items() if not figure["shown"]],
        "tolerance": TOLERANCE,
        "truncation": 1.0 / TruncatedPoissonArrivals(process="poisson_truncated").mean_unit_gap() - 1.0,
        "audit": _audit(made),
        "tables": _printed_tables(made, _tried(claims)),
        "hardware": _hardware(experiments),
        "packages": environment(),
    }


class _Made:
    """The files handed over, by what they are."""

    def __init__(self, scale: str, files: Files) -> None:
        root = project_root()
        self.tables: dict[tuple[str, str], Path] = {}  # by experiment and path below its folder
        self.shared: dict[str, Path] = {}  # by path below the folder of the scale
        self.figures: dict[str, Path] = {}  # by name, the PNG
        for file in files:
            parts = _below(Path(file), root).parts
            if parts[:2] == ("results", scale) and len(parts) > 3:
                self.tables[parts[2], "/".join(parts[3:])] = root / Path(*parts)
            elif parts[:2] == ("results", scale):
                self.shared[parts[2]] = root / Path(*parts)
            elif parts[:2] == ("figures", scale) and parts[-1].endswith(".png"):
                self.figures[Path(parts[-1]).stem] = root / Path(*parts)

    def names(self, known: Mapping[str, Any]) -> set[str]:
        """Experiments and studies that the files belong to."""
        return {name for name, _ in self.tables} | {_owner(name, known) for name in self.figures} - {""}


def _below(path: Path, root: Path) -> Path:
    full = path if path.is_absolute() else root / path
    if not is_file(full):
        raise ConfigError(f"{path}: no such file")
    return full.relative_to(root) if full.is_relative_to(root) else path


def _configured() -> dict[str, dict[str, Any]]:
    """The YAML of every experiment and study, by the file's name, and what is measured on real machines."""
    folders = (project_root() / "config" / name for name in ("experiments", "studies"))
    return MEASURED | {path.stem: load_yaml(path) for folder in folders for path in sorted(folder.glob("*.yaml"))}


def _natural(name: str) -> list[Any]:
    """Sorts ``e2`` before ``e10``."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _owner(figure: str, known: Mapping[str, Any]) -> str:
    """The experiment of a figure, ``e3_tight`` of ``e3_tight_latency``; nothing for a figure of all experiments."""
    return max((name for name in known if f"{figure}_".startswith(f"{name}_")), key=len, default="")


def _experiment(name: str, config: Mapping[str, Any], made: _Made) -> dict[str, Any]:
    """Identity and sizes of an experiment; a study, which has no summary, has no sizes."""
    known = {key: config.get(key) for key in ("title", "hardware", "workload", "semantics", "eviction")}
    about = {"id": name} | known | {"title": config.get("title", name)}
    summary = made.tables.get((name, "summary.csv"))
    if summary is None:
        return about
    rows = load_table(summary)
    about |= {
        "policies": rows["policy"].n_unique(),
        "rates": [rows["rate"].min(), rows["rate"].max()],
        "replications": rows["replications"].max(),
        "requests": [int(rows["requests"].min()), int(rows["requests"].max())],
        "runs": int(rows["replications"].sum()),
        "simulated_requests": int((rows["replications"] * rows["requests"]).sum()),
    }
    thresholds = made.tables.get((name, "thresholds.json"))
    if thresholds is not None:
        fluid = read_json(thresholds, "capacity", "calibrated_boundary")
        about |= {"capacity": fluid["capacity"], "paper_boundary": fluid["boundary_rate"]}
        about |= {"calibrated_boundary": fluid["calibrated_boundary"]["rate"]}
    return about


def _totals(experiments: list[dict[str, Any]]) -> dict[str, Any]:
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


def _claims(made: _Made) -> list[dict[str, Any]]:
    """Judged claims with the experiments that their checks read, and without what the report does not print."""
    path = made.shared.get("claims.json")
    if path is None:
        return []
    kept = ("id", "statement", "experiment", "verdict", "explanation", "remedy", "checks")
    return [
        {key: claim[key] for key in kept}
        | {"reads": _read_by(claim["checks"]), "tries": _read_by(c for r in claim["remedies"] for c in r["checks"])}
        for claim in read_list(path)
    ]


def _read_by(checks: Iterable[Mapping[str, Any]]) -> list[str]:
    """Experiments whose tables the checks read."""
    paths = [path.split("/") for check in checks for path in check["artifact"]]
    return list(dict.fromkeys(parts[2] for parts in paths if parts[0] == "results" and len(parts) > 3))


def _tested(claims: list[dict[str, Any]]) -> set[str]:
    """Experiments that the claims are about."""
    return {name for claim in claims for name in (claim["experiment"], *claim["reads"])}


def _tried(claims: list[dict[str, Any]]) -> set[str]:
    """Experiments that serve as remedies only: other settings of those that claims are about."""
    return {name for claim in claims for name in claim["tries"]} - _tested(claims)


def read_list(path: Path) -> list[dict[str, Any]]:
    """A JSON list of objects.

    Raises:
        ConfigError: it is not.
    """
    data = json_value(path)
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise ConfigError(f"{path}: not a list of objects")
    return data


def _unjudged(claims: list[dict[str, Any]]) -> list[str]:
    judged = {claim["id"] for claim in claims}
    return [claim.id for claim in load_claims() if claim.id not in judged] if claims else []


def _counts(values: Iterable[str]) -> dict[str, int]:
    values = list(values)
    return {value: values.count(value) for value in dict.fromkeys(values)}


def _figures(made: _Made, known: Mapping[str, Any], claims: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """File from the project folder, experiment, kind, caption and whether it is shown, in the order of experiments."""
    root, found = project_root(), {}
    tested, tried = _tested(claims), _tried(claims)
    for name in sorted(made.figures, key=_natural):
        drawing, text = (made.figures[name].with_suffix(suffix) for suffix in (".pdf", ".txt"))
        owner = _owner(name, known)
        kind = name.removeprefix(owner).removeprefix("_")
        shown = SHOWN if owner in tested or not claims else SHOWN[:1]  # without a claim the main figure will do
        found[name] = {
            "file": f"/{drawing.relative_to(root).as_posix()}",
            "experiment": owner,
            "kind": kind,
            "shown": owner in known and owner not in tried and ("policies" not in known[owner] or kind in shown),
            "caption": read_text(text).strip(),
        }
    return found


def hoist(figures: list[dict[str, Any]]) -> dict[str, str]:
    """Take out of the captions what all figures of one kind say; returns it by kind.

    Sentences with the size of the runs (``N =``) stay. Kinds with fewer than :data:`HOISTED` figures keep theirs.
    """
    common: dict[str, str] = {}
    for kind in dict.fromkeys(figure["kind"] for figure in figures):
        alike = [figure for figure in figures if figure["kind"] == kind]
        if len(alike) < HOISTED:
            continue
        sentences = [_sentences(figure["caption"]) for figure in alike]
        shared = [s for s in sentences[0] if "N = " not in s and all(s in others for others in sentences)]
        if shared:
            common[kind] = " ".join(shared)
            for figure, own in zip(alike, sentences, strict=True):
                figure["caption"] = " ".join(s for s in own if s not in shared)
    return common


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=\.) (?=[A-Z(])", text)


def _audit(made: _Made) -> dict[str, Any]:
    """Vidur's repetitions of our runs: how many, and the largest difference in s of any request's times."""
    rows = []
    for (name, table), path in sorted(made.tables.items(), key=lambda item: _natural(item[0][0])):
        if table == "audit.csv":
            rows += [{"experiment": name} | row for row in load_table(path).to_dicts()]
    by_experiment = [
        {"experiment": name} | _audited([row for row in rows if row["experiment"] == name])
        for name in dict.fromkeys(row["experiment"] for row in rows)
    ]
    return {"all": _audited(rows), "experiments": by_experiment}


def _audited(rows: list[dict[str, Any]]) -> dict[str, Any]:
    differences = [row[key] for row in rows for key in ("max_abs_first_token", "max_abs_completion")]
    return {
        "policies": len({row["policy"] for row in rows}),
        "runs": len(rows),
        "native": sum(row["scheduler"] == "Vidur's" for row in rows),
        "requests": sum(row["requests"] for row in rows),
        "evictions": sum(row["evictions"] for row in rows),
        "largest": max(differences, default=None),
    }


def _printed_tables(made: _Made, tried: set[str]) -> dict[str, Any]:
    """Rows of the tables that the report prints, without what is only tried as a remedy; none of what was not made."""
    stability = [(name, table) for name, table in made.tables if table == "stability.csv"]
    tables = {
        "boundaries": _rows(made.shared.get("boundaries.csv")),
        "stability": [
            {"experiment": key[0]} | row
            for key in sorted(stability, key=lambda key: _natural(key[0]))
            for row in _rows(made.tables[key])
        ],
        "exponents": [
            row for (_, table), path in made.tables.items() if table == "exponents.csv" for row in _rows(path)
        ],
    }
    tables = {name: [row for row in rows if row.get("experiment") not in tried] for name, rows in tables.items()}
    parameters = [row for row in _rows(made.shared.get("parameters.csv")) if row["experiment"] not in tried]
    tables |= {"setups": setups(parameters), "settings": settings(parameters)}
    common = take_common(tables["setups"]) | take_common([row["settings"] for row in tables["settings"]])
    return {name: rows for name, rows in tables.items() if rows} | ({"everywhere": common} if parameters else {})


def _rows(path: Path | None) -> list[dict[str, Any]]:
    return [] if path is None else read_rows(path)


def setups(parameters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What all policies of an experiment share: one row for each experiment."""
    rows = [{name: _in_short(row[name]) for name in SETUP if name in row} for row in parameters]
    return [row for i, row in enumerate(rows) if row not in rows[:i]]


def settings(parameters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The policies: one row for each label and settings, with the experiments that have it so."""
    found: dict[str, dict[str, Any]] = {}
    for row in parameters:
        names = list(row)[list(row).index(FIRST_SETTING) :]
        chosen = {name: _in_short(row[name]) for name in names if row[name] not in (None, "none")}
        policy = {"label": row["label"], "policy": row["name"], "combinations": row["grid_size"], "settings": chosen}
        entry = found.setdefault(json.dumps(policy), policy | {"experiments": []})
        entry["experiments"].append(row["experiment"])
    return list(found.values())


def take_common(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Take out of the rows whatever has the same value wherever it is given, in two rows or more; returns it."""
    values: dict[str, list[Any]] = {}
    for name, value in (item for row in rows for item in row.items()):
        values.setdefault(name, []).append(value)
    common = {
        name: found[0] for name, found in values.items() if len(found) > 1 and found.count(found[0]) == len(found)
    }
    for row in rows:
        for name in common.keys() & row.keys():
            del row[name]
    return common


def _in_short(value: Any) -> Any:
    """A setting; of a list of more than two values its ends and how many there are."""
    if not isinstance(value, str):
        return value
    words, numbers = re.fullmatch(r"(tuned: )?(.*)", value).groups(default="")
    listed = numbers.split()
    if len(listed) < 3 or not all(re.fullmatch(r"[\d.]+", item) for item in listed):
        return value
    return f"{words}{listed[0]} to {listed[-1]} ({len(listed)})"


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a CSV file as they are written: numbers as numbers, nothing as None, the rest as text.

    Raises:
        ConfigError: the file is missing or is not text.
    """
    table = csv.DictReader(line for line in read_text(path).splitlines() if not line.startswith("#"))
    return [{key: _value(text) for key, text in row.items()} for row in table]


def _value(text: str | None) -> Any:
    if not text:
        return None
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else str(value)
    return text


def _hardware(experiments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Device, model and the paper's linear iteration time of every hardware file that is used."""
    capacity = {about["hardware"]: about.get("capacity") for about in reversed(experiments) if about.get("hardware")}
    return [_device(name) | {"capacity": capacity[name]} for name in reversed(capacity)]


def _device(name: str) -> dict[str, Any]:
    data = load_yaml(project_root() / "data" / "hardware" / f"{name}.yaml")
    linear = data["timing"].get("linear") or {}
    model = data["model"]["name"]
    return {"name": name, "device": data["device"], "model": model, "d0": linear.get("d0"), "d1": linear.get("d1")}


@cache
def key() -> str:
    """Key of the rules that make the report: its code, the configuration it tells of, and the packages."""
    told = {file.path: file.sha256 for file in map(describe_input, _told())}
    parts = {"code": code_fingerprint(imported_modules(__name__)), "packages": environment(), "told": told}
    return config_hash(parts)[:16]


def _told() -> list[Path]:
    """Configuration files that the report tells of beside the tables: also what was not made has a title."""
    root = project_root()
    folders = ("config/experiments", "config/studies", "data/hardware")
    return [p for folder in folders for p in sorted((root / folder).glob("*.yaml"))] + [claims_path()]


def environment() -> dict[str, str]:
    """Versions that decide the report's bytes."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python} | package_versions((*PACKAGES, "typst"))


# --- writing -------------------------------------------------------------------------------------------------------


def write_data(scale: str, files: Files, out: str | Path) -> None:
    """Write :func:`gather` as JSON, an artifact; the same errors."""
    check_output(out)
    files = sorted(map(str, files))
    data = gather(scale, files)
    write_artifact(
        out,
        lambda path, _: path.write_text(_json(data), encoding="utf-8"),
        config={"scale": scale, "environment": data["packages"]},
        inputs=[*_read_by_gather(files), *_told()],
        code=imported_modules(__name__),
        rule="report_data",
    )


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _read_by_gather(files: list[str]) -> list[Path]:
    """The files themselves, and of each figure the formats that are read instead of the PNG."""
    read = []
    for path in map(Path, files):
        read += [path.with_suffix(".pdf"), path.with_suffix(".txt")] if path.suffix == ".png" else [path]
    return read


def write_pdf(source: str | Path, data: str | Path, out: str | Path) -> None:
    """Typeset ``source``, which reads ``data``, as PDF: no date, fixed fonts, the configuration hash inside.

    Raises:
        ConfigError: a file is missing, or Typst refuses the source; its message names the line.
    """
    root = project_root()
    source, data = root / source, root / data
    for path in (source, data):
        if not resolved(path).is_relative_to(resolved(root)):
            raise ConfigError(f"{path}: must lie in the project folder {root}, the only one that Typst reads")
    check_output(out)
    figures = read_json(data).get("figures", {}).values() if data.suffix == ".json" else ()
    write_artifact(
        out,
        lambda path, key: path.write_bytes(typeset(source, data, key)),
        config={"environment": environment()},
        inputs=[source, data, root / STYLE, *(root / figure["file"].lstrip("/") for figure in figures)],
        code=imported_modules(__name__),
        packages=(*PACKAGES, "typst"),
        rule=source.stem,
    )


def typeset(source: Path, data: Path, key: str, **options: Any) -> Any:
    """Bytes of the PDF, or of what ``options`` of ``typst.compile`` ask for.

    Raises:
        ConfigError: Typst refuses the source.
    """
    import matplotlib
    import typst

    root = resolved(project_root())
    try:
        return typst.compile(
            str(resolved(source)),
            root=str(root),
            font_paths=[f"{matplotlib.get_data_path()}/fonts/ttf"],
            ignore_system_fonts=True,
            sys_inputs={"data": f"/{resolved(data).relative_to(root).as_posix()}", "hash": key},
            **options,
        )
    except typst.TypstError as error:
        raise ConfigError(f"{source}: {' '.join((error.diagnostic or error.message).split())}") from None
