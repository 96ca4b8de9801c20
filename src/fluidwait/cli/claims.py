"""``fluidwait claims``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from fluidwait.cli.exits import FAILED


def claims(
    scale: Annotated[str, typer.Option(help="scale whose results are judged")] = "paper",
    file: Annotated[Path | None, typer.Option(help="claims of your own; nothing is written")] = None,
    only: Annotated[str | None, typer.Option(help="claims to judge, e.g. C1,C7 (default: all)")] = None,
    experiments: Annotated[str | None, typer.Option(help="judge only by these experiments")] = None,
    compare: Annotated[Path | None, typer.Option(help="another claims.json; exit code 1 if a verdict differs")] = None,
    write: Annotated[bool, typer.Option(help="write claims.json and the scorecard to the results")] = True,
) -> None:
    """Judge every claim of the paper from the available results, after verifying them."""
    from fluidwait.base.paths import project_root
    from fluidwait.claims import scorecard
    from fluidwait.claims.claim import load_claims
    from fluidwait.claims.evidence import Evidence
    from fluidwait.claims.judge import judge
    from fluidwait.claims.select import chosen, within

    wanted = load_claims(file)
    if only is not None:
        wanted = chosen(wanted, only.split(","))
    if experiments is not None:
        wanted = within(wanted, set(experiments.split(",")))
    evidence = Evidence(scale)
    judgements = [judge(claim, evidence) for claim in wanted]
    data = [scorecard.as_data(judgement, scale) for judgement in judgements]
    if write and only is None and file is None:
        folder = project_root() / "results" / scale
        with contextlib.chdir(project_root()):  # inputs are told from there
            for name, product in zip(scorecard.FILES, scorecard.products(judgements, scale), strict=True):
                product.make(folder / name)
    scorecard.show(data, scale)
    if compare is not None:
        different = scorecard.differences(data, compare, common=only is not None)
        for line in different:
            print(line)
        print(f"{len(different)} verdicts differ from {compare}")
        if different:
            raise typer.Exit(FAILED)
