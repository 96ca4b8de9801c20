"""Figures of the real engine, one file each: ``make(folder, bundle) -> figure`` and ``caption(folder, bundle, fresh)``.

``folder`` has the tables of the bundle for that experiment; ``INPUTS`` names those that are read.
"""

from __future__ import annotations

from types import ModuleType

from fluidwait.real.figures import e9, e10

FIGURES: dict[str, ModuleType] = {"e9": e9, "e10": e10}
