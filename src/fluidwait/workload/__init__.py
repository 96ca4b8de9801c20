"""Workloads: which requests arrive when, and how long their prompts and outputs are.

A workload is two laws: the joint law of (prompt, output) lengths in tokens, and the arrival process. :func:`generate`
draws from both with separate random streams, and errors of predictions from a third, so that

- the same (seed, replication) gives the same requests to every policy and every engine,
- the first n requests do not depend on how many are drawn,
- lengths do not depend on the rate, and gaps of one rate are those of another rescaled (common random numbers).

A replayed trace draws nothing but those errors: its replications are different stretches of the file, and a rate that
is asked for is the mean rate of exactly the rows used.
"""

from fluidwait.workload.arrivals import Positive, TruncatedPoissonArrivals
from fluidwait.workload.definition import Workload, input_files, load_workload
from fluidwait.workload.lengths import MixtureLengths
from fluidwait.workload.limits import check_fits, check_offered, check_span
from fluidwait.workload.requests import LengthLaw, Requests, most_output, predicted_output
from fluidwait.workload.sampling import MOST_REQUESTS, generate, is_random, length_law, mean_rate, rows_used

__all__ = [
    "MOST_REQUESTS",
    "LengthLaw",
    "MixtureLengths",
    "Positive",
    "Requests",
    "TruncatedPoissonArrivals",
    "Workload",
    "check_fits",
    "check_offered",
    "check_span",
    "generate",
    "input_files",
    "is_random",
    "length_law",
    "load_workload",
    "mean_rate",
    "most_output",
    "predicted_output",
    "rows_used",
]
