"""``fluidwait verify`` and ``fluidwait schemas``: are the files what they say they are?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fluidwait.cli.exits import FAILED


def verify(
    results: Annotated[Path | None, typer.Argument(help="folder; without it, the project's results")] = None,
) -> None:
    """Name every artifact that is stale, missing, altered, untracked or made in another environment."""
    from fluidwait.artifacts import verify as verification
    from fluidwait.base.paths import project_root

    folder = project_root() / "results" if results is None else results
    findings = verification.verify(folder)
    for finding in findings:
        print(f"{finding.path}: {finding.status}: {finding.detail}")
    checked = len(verification.artifacts(folder))
    print(f"{checked} artifacts checked, {len(findings)} findings")
    if findings:
        raise typer.Exit(FAILED)


def schemas(
    check: Annotated[bool, typer.Option("--check", help="compare only; exit code 1 when a file differs")] = False,
) -> None:
    """Write the JSON Schemas of the configuration files to workflow/schemas."""
    from fluidwait.pipeline import schemas as models

    folder = models.schema_folder()
    if not check:
        print(f"wrote {len(models.write_schemas(folder))} schemas to {folder}")
        return
    different = models.differences(folder)
    for line in different:
        print(line)
    if different:
        raise typer.Exit(FAILED)
    print(f"{len(models.schemas())} schemas match their models")
