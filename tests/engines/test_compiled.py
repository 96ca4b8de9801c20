"""Compiled code that is kept on disk is made anew when a file changes that it is made of."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from numba.core.registry import CPUDispatcher

from fluidwait.engines import core, simulator
from fluidwait.engines.v1 import planned, run
from fluidwait.policies import contract, tools


def test_another_text_is_another_function(tmp_path):
    part = ModuleType("part")
    part.__file__ = str(tmp_path / "part.py")
    names = []
    for text in ("a = 1", "a = 2", "a = 1"):
        (tmp_path / "part.py").write_text(text)
        names.append(core.kept(simulator._holds.py_func, [part]).__name__)
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize("module", [run, planned], ids=["run", "planned"])
def test_every_file_with_compiled_code_of_vllms_rules_counts(module):
    """The parts call nothing compiled that lies elsewhere; the contract and its tools count everywhere."""
    called = {
        value.__module__ for part in module.PARTS for value in vars(part).values() if isinstance(value, CPUDispatcher)
    }
    known = {part.__name__ for part in module.PARTS}
    assert called - known <= {contract.__name__, tools.__name__}
    assert module.__name__ in known and all(name in sys.modules for name in called)
