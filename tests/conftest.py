"""Settings of all tests, and which of them are slow."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("fluidwait", deadline=None)  # a slow machine is no failure: nothing here tests time
settings.load_profile("fluidwait")

SLOW = {
    # start Snakemake
    "test_docs",
    "test_workflow",
    # start vLLM, or step its scheduler
    "test_auto_clock",
    "test_loadgen_engine",
    "test_loadgen_http",
    "test_planned_is_plug_in",
    "test_record",
    "test_scheduler_auto",
    "test_scheduler_behaviours",
    "test_scheduler_clock",
    "test_scheduler_engine",
    "test_scheduler_features",
    "test_scheduler_like_stock",
    "test_scheduler_own_policy",
    "test_scheduler_parallel",
    "test_scheduler_server",
    "test_scheduler_steps",
    "test_simulator_is_vllm",
    # many random runs, in Vidur too
    "test_fuzz",
    "test_vidur_agreement",
}
"""Modules that the fast selection leaves out: ``pytest -m "not slow"``."""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


def slow_modules_without_a_file() -> set[str]:
    """Names in :data:`SLOW` that no module has."""
    return SLOW - {path.stem for path in Path(__file__).parent.rglob("test_*.py")}
