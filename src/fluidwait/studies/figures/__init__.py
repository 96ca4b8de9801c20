"""Figures of the studies, one file each.

Each has ``INPUTS`` (tables below ``results/<scale>/<study>``), ``make(folder, scale) -> figure`` and
``caption(folder, scale) -> text``.
"""

from __future__ import annotations

from types import ModuleType

from fluidwait.studies.figures import e6_memory as memory
from fluidwait.studies.figures import e10_clock as clock
from fluidwait.studies.figures import e11_gap as gap
from fluidwait.studies.figures import e11_overflow as overflow
from fluidwait.studies.figures import e11_scaling as scaling
from fluidwait.studies.figures import e12_envelope as envelope
from fluidwait.studies.figures import e12_frontier as frontier

FIGURES: dict[str, dict[str, ModuleType]] = {
    "e6": {"e6": memory},
    "e10": {"e10_clock": clock},
    "e11": {"e11_scaling": scaling, "e11_gap": gap, "e11_overflow": overflow},
    "e12": {"e12_frontier": frontier, "e12_envelope": envelope},
}
"""Figures of each study by file name without suffix."""
