# Helpers of the rules for the real engine: which bundles there are, and what belongs to them.
import os

from fluidwait.real import jobs as real

REAL = SELECTION.real
MEASURE = not SELECTION.is_quick  # recording takes minutes, alone on the machine

try:
    real.check(REAL)
    BUNDLES = real.sources(real.TARGETS, MEASURE)
except FluidwaitError as error:
    sys.exit(f"fluidwait: error: {error}")


def bundle_of(machine):
    """Folder of the bundle that a machine's results come from."""
    return BUNDLES.get(machine, f"{real.RECORDINGS}/{machine}")


def real_engine(scale):
    """Figures of every bundle there is, or that can be recorded here."""
    machines = real.sources(tuple(REAL), MEASURE)
    return [f"figures/{scale}/{figure}_{machine}.png" for machine in machines for figure in real.figures()]


def real_figure_tables(wildcards):
    """Tables of the experiment that a figure shows."""
    folder = f"results/{wildcards.scale}/{wildcards.real_figure}/{wildcards.machine}"
    return [f"{folder}/{table}.csv" for table in real.TABLES[wildcards.real_figure]]
