"""The steps of the report and its appendix."""

from __future__ import annotations

from collections.abc import Iterable

from fluidwait.artifacts.step import Exhibit, Rule, Step
from fluidwait.report.document import data_product, pdf_product
from fluidwait.report.rule_times import times_product


def _exhibit(file: str, caption: str, words: str) -> dict[str, Exhibit]:
    return {file: Exhibit(caption, "Report", {"document": words, "scale": "{scale}"})}


REPORT = Rule(
    "report",
    ("results/{scale}/report.json", "results/{scale}/report.pdf"),
    _exhibit("results/{scale}/report.pdf", "report", "report"),
    wanted=("results/{scale}/report.pdf",),
)
"""Every number that the report prints, and the report."""

APPENDIX = Rule(
    "appendix",
    ("results/{scale}/rule_times.csv", "results/{scale}/appendix.pdf"),
    _exhibit("results/{scale}/appendix.pdf", "appendix", "appendix: times"),
    wanted=("results/{scale}/appendix.pdf",),
)
"""Times of all jobs by rule, and the appendix that prints them. Both differ from run to run."""


def report_steps(scale: str, files: Iterable[str]) -> list[Step]:
    """The report of these tables and figures, and its appendix, which comes last: all jobs have left their times."""
    report = Step(
        REPORT,
        (),
        {"scale": scale},
        (data_product(scale, files), pdf_product("paper/report.typ", _file(REPORT, scale))),
    )
    appendix = Step(
        APPENDIX,
        (),
        {"scale": scale},
        (times_product(scale), pdf_product("paper/appendix.typ", _file(APPENDIX, scale))),
        after=report.outputs[1:],
    )
    return [report, appendix]


def _file(rule: Rule, scale: str) -> str:
    return rule.outputs[0].format(scale=scale)
