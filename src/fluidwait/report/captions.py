"""Figures with their captions, and what the captions have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fluidwait.base.paths import project_root
from fluidwait.base.text_files import read_text
from fluidwait.report.claimed import experiments_tested, experiments_tried
from fluidwait.report.made import Made, natural, owner_of

SHOWN = ("latency", "horizon", "mstar", "memory")
"""Kinds of figures of experiments that the report shows, the main one first."""

HOISTED = 2
"""A sentence is told once for all when this many captions share it."""


def figures_of(made: Made, known: Mapping[str, Any], claims: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """File from the project folder, experiment, kind, caption and whether it is shown, in the order of experiments."""
    root, found = project_root(), {}
    tested, tried = experiments_tested(claims), experiments_tried(claims)
    for name in sorted(made.figures, key=natural):
        drawing, text = (made.figures[name].with_suffix(suffix) for suffix in (".pdf", ".txt"))
        owner = owner_of(name, known)
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
