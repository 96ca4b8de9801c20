"""Which claims to judge, and the files that the workflow must make for them."""

from __future__ import annotations

from collections.abc import Iterable

from fluidwait.base.errors import ConfigError, nearest
from fluidwait.claims.claim import Check, Claim, load_claims
from fluidwait.claims.evidence import experiments, other_recordings, tables, tables_in


def chosen(claims: list[Claim], names: list[str]) -> list[Claim]:
    """The claims of these names.

    Raises:
        ConfigError: there is no such claim.
    """
    known = {claim.id: claim for claim in claims}
    for name in names:
        if name not in known:
            raise ConfigError(f"--only: no claim '{name}'{nearest(name, list(known))}")
    return [known[name] for name in names]


def within(claims: list[Claim], made: set[str]) -> list[Claim]:
    """Claims that need no experiments but those made, each with the remedies of which that is true as well."""
    kept = [claim for claim in claims if experiments(claim, claim.checks) <= made]
    return [
        claim.model_copy(update={"remedies": [r for r in claim.remedies if set(r.experiments.values()) <= made]})
        for claim in kept
    ]


def files(claims: Iterable[Claim], scale: str) -> list[str]:
    """Artifacts that judging these claims may read, relative to the project, sorted."""
    found: set[str] = set()
    for claim in claims:
        for check in _all_checks(claim):
            found |= set((tables(claim, check, scale) or {}).values())
            for folder in other_recordings(claim, check) if claim.recording else ():
                found |= set(tables_in(folder, check).values())
    return sorted(found)


def workflow_inputs(scale: str, made: Iterable[str]) -> list[str]:
    """Artifacts that the claims of these experiments need; none when the experiments have no claim to decide."""
    found = files(within(load_claims(), set(made)), scale)
    return found if any(name.startswith("results/") for name in found) else []


def _all_checks(claim: Claim) -> Iterable[Check]:
    yield from claim.checks
    for remedy in claim.remedies:
        yield from (again for check in claim.checks if (again := remedy.applied(check, claim.experiment)))
