"""Fluid model: equilibrium, thresholds, segments and safety buffer of the paper, and their calibrated counterparts."""

from fluidwait.fluid.calibrated import (
    CalibratedBoundary,
    CalibratedEquilibrium,
    LifeSums,
    calibrated_boundary,
    calibrated_equilibrium,
    calibrated_thresholds,
    life_sums,
)
from fluidwait.fluid.equilibrium import Equilibrium, boundary, equilibrium, kv_work
from fluidwait.fluid.lives import LifeDesign, batch_room, cheapest_batch, life_design
from fluidwait.fluid.report import threshold_table
from fluidwait.fluid.safety import RequiredMemory, required_memory, theta, theta_bound
from fluidwait.fluid.segments import (
    NestedThresholds,
    SegmentDesign,
    design,
    equal_mass_boundaries,
    even_boundaries,
    nested_memory,
    nested_thresholds,
    real_nested_thresholds,
)
from fluidwait.fluid.thresholds import Infeasible, Thresholds, wait_thresholds
from fluidwait.fluid.varying import continuation_sup, peak_arrivals, varying_thresholds, window_arrivals

__all__ = [
    "CalibratedBoundary",
    "CalibratedEquilibrium",
    "Equilibrium",
    "Infeasible",
    "LifeDesign",
    "LifeSums",
    "NestedThresholds",
    "RequiredMemory",
    "SegmentDesign",
    "Thresholds",
    "batch_room",
    "boundary",
    "calibrated_boundary",
    "calibrated_equilibrium",
    "calibrated_thresholds",
    "cheapest_batch",
    "continuation_sup",
    "design",
    "equal_mass_boundaries",
    "equilibrium",
    "even_boundaries",
    "kv_work",
    "life_design",
    "life_sums",
    "nested_memory",
    "nested_thresholds",
    "peak_arrivals",
    "real_nested_thresholds",
    "required_memory",
    "theta",
    "theta_bound",
    "threshold_table",
    "varying_thresholds",
    "wait_thresholds",
    "window_arrivals",
]
