"""Tables that claims are judged by: where they lie, and proof that they are what the workflow wrote."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from fluidwait.artifacts.canonical import file_sha256
from fluidwait.artifacts.sidecar import read_sidecar
from fluidwait.artifacts.verify import ENVIRONMENT, verify_artifact
from fluidwait.base.errors import ConfigError, FluidwaitError
from fluidwait.base.paths import is_file, project_root
from fluidwait.base.tables import load_table
from fluidwait.claims.claim import Check, Claim

RECORDINGS = "data/gpu"


class EvidenceError(FluidwaitError):
    """An artifact that is not what its sidecar says, or is out of date: nothing can be judged by it."""


def tables(claim: Claim, check: Check, scale: str, device: str | None = None) -> dict[str, str] | None:
    """Files of a check, relative to the project, by their name in SQL; None when no recording can provide them.

    Args:
        device: folder of a recording to take instead of the one that the claim is about.
    """
    if not claim.recording:
        return tables_in(f"results/{scale}/{check.experiment or claim.experiment}", check)
    folder = device or recording(claim.recording)
    return None if folder is None else tables_in(folder, check)


def tables_in(folder: str, check: Check) -> dict[str, str]:
    """Files of a check below a folder, by their name in SQL."""
    if check.table is None:
        return {policy: f"{folder}/{check.runs}/{policy}.csv" for policy in check.policies}
    return {"data": check.table if check.table.startswith("data/") else f"{folder}/{check.table}"}


def recording(pattern: str) -> str | None:
    """The first folder of ``data/gpu`` that the pattern matches, relative to the project."""
    root = project_root()
    found = sorted(path for path in (root / RECORDINGS).glob(pattern) if path.is_dir())
    return found[0].relative_to(root).as_posix() if found else None


def other_recordings(claim: Claim, check: Check) -> list[str]:
    """Recordings of other devices that have what the check of a claim about a device needs, relative to the project."""
    root, own = project_root(), recording(claim.recording) if claim.recording else None
    found = sorted(path.relative_to(root).as_posix() for path in (root / RECORDINGS).glob("*") if path.is_dir())
    return [
        folder
        for folder in found
        if folder != own and all((root / file).is_file() for file in tables_in(folder, check).values())
    ]


def experiments(claim: Claim, checks: Iterable[Check]) -> set[str]:
    """Experiments that the workflow must have made for these checks of a claim."""
    needed = {check.experiment or claim.experiment for check in checks if not (check.table or "").startswith("data/")}
    return set() if claim.recording else needed


class Evidence:
    """Artifacts of one scale; each is verified once, when it is first read."""

    def __init__(self, scale: str) -> None:
        self.scale = scale
        self.root = project_root()
        self.sha256: dict[str, str] = {}
        self._frames: dict[str, pl.DataFrame] = {}

    def frame(self, path: str) -> pl.DataFrame:
        """The table of a file, by its path relative to the project.

        Raises:
            ConfigError: it has not been made yet, or is no table.
            EvidenceError: it is not what its sidecar says.
        """
        if path not in self._frames:
            self._check(path)
            self.sha256[path] = file_sha256(self.root / path)
            self._frames[path] = load_table(self.root / path, comment_prefix="#", infer_schema_length=None)
        return self._frames[path]

    def _check(self, path: str) -> None:
        if not is_file(self.root / path):
            raise ConfigError(f"{path}: not made yet{self._how(path)}")
        if not path.startswith("results/"):
            return  # a file of the project itself
        for finding in verify_artifact(self.root / path, self.root):
            if finding.status != ENVIRONMENT:
                raise EvidenceError(f"{finding.path}: {finding.status}: {finding.detail}")
        self._check_experiment(path)

    def _check_experiment(self, path: str) -> None:
        """A table moved here from another experiment is intact, and evidence of something else."""
        folder, sidecar = Path(path).parts[:3], read_sidecar(self.root / path)
        made_from = [Path(i.path).parts[:3] for i in sidecar.inputs if i.path.startswith("results/")]
        origins = {"/".join(parts) for parts in made_from if parts != folder}
        named = sidecar.config.get("experiment")
        if isinstance(named, str) and named != folder[2]:
            origins.add(named)
        if origins:
            raise EvidenceError(f"{path}: altered: it was made for {sorted(origins)[0]}")

    def _how(self, path: str) -> str:
        parts = Path(path).parts
        if parts[0] != "results":
            return ""
        return f" (snakemake --cores all --config scale={self.scale} experiments={parts[2]})"
