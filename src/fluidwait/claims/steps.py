"""The step that judges the claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact, Deferred, Exhibit, Rule, Step, names
from fluidwait.claims import scorecard
from fluidwait.claims.claim import claims_path, load_claims
from fluidwait.claims.evidence import Evidence
from fluidwait.claims.judge import judge
from fluidwait.claims.select import within, workflow_inputs

_SCORECARD = "results/{scale}/scorecard.csv"
CLAIMS = Rule(
    "claims",
    tuple("results/{scale}/" + file for file in scorecard.FILES),
    {_SCORECARD: Exhibit("scorecard", "Report", {"document": "scorecard", "scale": "{scale}"})},
    wanted=("results/{scale}/claims.json",),
)
"""The claims of the experiments made, judged: verdicts, numbers, explanations."""


def claims_step(made: Sequence[str], scale: str) -> Step | None:
    """The step for these experiments and studies; None when they have no claim to decide."""
    evidence = workflow_inputs(scale, made)
    if not evidence:
        return None
    judged = cache(lambda: _judged(made, scale))
    inputs = (*names([claims_path()]), *evidence)
    products = tuple(
        Deferred(_part(judged, place), {"made": sorted(made), "scale": scale}, imported_modules(__name__), inputs)
        for place in range(len(scorecard.FILES))
    )
    return Step(CLAIMS, (), {"scale": scale}, products)


def _part(judged: Callable[[], tuple[Artifact, ...]], place: int) -> Callable[[], Artifact]:
    return lambda: judged()[place]


def _judged(made: Sequence[str], scale: str) -> tuple[Artifact, ...]:
    evidence = Evidence(scale)
    judgements = [judge(claim, evidence) for claim in within(load_claims(), set(made))]
    scorecard.show([scorecard.as_data(judgement, scale) for judgement in judgements], scale)
    return scorecard.products(judgements, scale)
