"""The README's scorecard says what the committed scorecard says, and its first screen has the two commands."""

from __future__ import annotations

import re

import polars as pl

from fluidwait.base.paths import project_root
from fluidwait.claims.claim import load_claims

ROOT = project_root()
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCORECARD = pl.read_csv(ROOT / "paper" / "scorecard.csv")


def test_the_committed_scorecard_judges_every_claim():
    assert SCORECARD["id"].to_list() == [claim.id for claim in load_claims()]


def test_verdicts_in_the_readme_are_those_of_the_scorecard():
    shown = dict(re.findall(r"^\| (C\d+) \|.*\| \**([a-z ]+?)\** \|.*\|$", README, flags=re.MULTILINE))
    assert shown == dict(zip(SCORECARD["id"], SCORECARD["verdict"], strict=True))


def test_counts_in_the_readme_are_those_of_the_scorecard():
    counts = dict(SCORECARD["verdict"].value_counts().iter_rows())
    (sentence,) = re.findall(r"Of the paper's \d+ claims .*?\.", README, flags=re.DOTALL)
    found = {
        verdict: int(n) for n, verdict in re.findall(r"(\d+)\s+(?:are|is)\s+([a-z ]+?)(?:,|\s+and\b|\.)", sentence)
    }
    assert found == counts


def test_the_first_screen_has_the_two_commands():
    screen = "\n".join(README.splitlines()[:40])
    assert "./run.sh  " in screen and "./run.sh test" in screen
