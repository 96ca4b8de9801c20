"""A workload file: its two laws under a name, and the files that it reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.models import Strict, Words, parse
from fluidwait.base.paths import is_file, project_root, resolved
from fluidwait.base.yaml_files import load_yaml
from fluidwait.workload.arrivals import Arrivals
from fluidwait.workload.lengths import Lengths, Tokens, TraceLengths


class Predictions(Strict):
    """Output lengths that are told to the policy: the output times exp(``error`` z), z standard normal.

    Rounded, at least 1 token, at most what the client allows. With an error of 0 it is the output itself.
    """

    error: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]  # standard deviation of the logarithm


class Workload(Strict):
    """A named workload, one file of ``config/workloads``. File names in it are relative to the project folder."""

    name: Words
    lengths: Lengths
    arrivals: Arrivals
    max_output: Tokens | None = Field(None, description="output tokens that a client allows; null: the longest output")
    predictions: Predictions | None = Field(None, description="of output lengths; null: there are none")

    @model_serializer(mode="wrap")
    def _only_what_is_said(self, standard: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Two settings came later than results that are kept: where they are not set, those are still its results."""
        later = ("max_output", "predictions")
        return {key: value for key, value in standard(self).items() if key not in later or value is not None}

    @model_validator(mode="after")
    def _replay_needs_a_trace(self) -> Workload:
        if self.arrivals.process == "trace" and self.lengths.kind != "trace":
            raise ValueError(
                f"arrivals 'trace' replays the file of lengths 'trace', but lengths are '{self.lengths.kind}'"
            )
        if self.knows_prefixes and self.arrivals.process != "trace":
            raise ValueError(
                f"lengths: hash_tokens: prompts begin alike only in the order of the file, but arrivals are "
                f"'{self.arrivals.process}' (nearest valid value: 'trace')"
            )
        return self

    @property
    def knows_prefixes(self) -> bool:
        """Whether it says which prompts begin alike."""
        return isinstance(self.lengths, TraceLengths) and self.lengths.hash_tokens is not None

    @property
    def prediction_error(self) -> float | None:
        """Standard deviation of the logarithm of its predictions; None without any."""
        return None if self.predictions is None else self.predictions.error

    def allowed_output(self, longest: int) -> int:
        """Output tokens that a client allows, when the longest output has so many.

        Raises:
            ConfigError: it allows less.
        """
        if self.max_output is None:
            return longest
        if self.max_output < longest:
            raise ConfigError(
                f"max_output: {self.max_output} tokens, but there are outputs of {longest} "
                f"(nearest valid value: {longest})"
            )
        return self.max_output

    @property
    def replayed(self) -> TraceLengths:
        """The list of requests of a workload that replays one, in order."""
        assert isinstance(self.lengths, TraceLengths), "nothing is replayed"
        return self.lengths


def load_workload(path_or_name: str | Path) -> Workload:
    """Read a workload file, or the one called ``config/workloads/<name>.yaml`` in the project folder.

    ``lengths.file`` is looked for beside the workload file, then in the project folder. It is kept relative to the
    project folder when it lies inside, so that a workload reads the same on every machine.

    Raises:
        ConfigError: one line; unknown names get the nearest one.
    """
    path = _workload_path(path_or_name)
    data = load_yaml(path)
    workload = parse(Workload, _with_found_file(data, path), path)
    if workload.max_output is not None:
        longest = int(workload.lengths.support().output.max())
        try:
            workload.allowed_output(longest)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    return workload


def input_files(workload: Workload) -> list[Path]:
    """Files whose contents the workload depends on, absolute."""
    file = getattr(workload.lengths, "file", None)
    return [] if file is None else [project_root() / file]


@contextmanager
def named(workload: Workload) -> Iterator[None]:
    """Put the workload's name in front of a ConfigError raised inside."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"workload {workload.name}: {error}") from None


def _workload_path(path_or_name: str | Path) -> Path:
    path = Path(path_or_name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) != 1:
        return path
    folder = project_root() / "config" / "workloads"
    found = folder / f"{path}.yaml"
    if not is_file(found):
        names = sorted(p.stem for p in folder.glob("*.yaml"))
        raise ConfigError(f"workload '{path}': no such file {found}{nearest(str(path), names)}")
    return found


def _with_found_file(data: dict[str, Any], source: Path) -> dict[str, Any]:
    """``data`` with ``lengths.file`` resolved, see :func:`load_workload`."""
    lengths = data.get("lengths")
    if not isinstance(lengths, dict) or not isinstance(lengths.get("file"), str):
        return data
    root, file = project_root(), lengths["file"]
    for folder in (source.parent, root):
        if is_file(folder / file):
            found = resolved(folder / file)
            break
    else:
        there = [
            p.name for folder in (source.parent / file, root / file) for p in folder.parent.glob("*") if is_file(p)
        ]
        hint = nearest(Path(file).name, difflib.get_close_matches(Path(file).name, there, n=1, cutoff=0.5))
        raise ConfigError(f"{source}: lengths.file: no file '{file}' beside this file or in the project folder{hint}")
    inside = found.is_relative_to(resolved(root))
    name = found.relative_to(resolved(root)).as_posix() if inside else str(found)
    return data | {"lengths": lengths | {"file": name}}
