"""fluidwait in a notebook: ``import fluidwait as fw`` gives every name of this room, loaded when first used.

::

    import fluidwait as fw

    traffic = fw.generate("p512d20", rate=20, requests=2000)
    run = fw.simulate("wait_chunked", traffic, hardware="a100-80g_llama-2-7b")
    print(f"mean latency {run.metrics.mean_latency:.3f} s, {run.metrics.evictions} evictions")
    print(run.requests.head())

    sarathi = fw.load_policy({"policy": "sarathi", "token_budget": 1024})
    table = fw.sweep(["wait_chunked", sarathi], "p512d20", rates=[8, 14, 20], requests=1000, replications=3)
    fw.plot(table, "mean_latency").savefig("latency.png")

``fw.sweep_experiment("e3_tight", scale="quick")`` runs an experiment, with its memory, evictions and tuned policies.

Hardware, workloads, policies and experiments are given by their names in ``data/`` and ``config/``, as paths of YAML
files, or loaded. Every mistake is a :class:`FluidwaitError` with one line. Numbers are those of ``fluidwait simulate``
and of an experiment's sweep with the same seed.
"""

from fluidwait.api.plotting import plot
from fluidwait.api.simulation import Simulation, Traffic, generate, simulate
from fluidwait.api.sweeping import sweep, sweep_experiment
from fluidwait.base.errors import FluidwaitError
from fluidwait.device.hardware import load_hardware
from fluidwait.experiments.experiment import load_experiment
from fluidwait.policies import load_policy
from fluidwait.workload import load_workload

__all__ = [
    "FluidwaitError",
    "Simulation",
    "Traffic",
    "generate",
    "load_experiment",
    "load_hardware",
    "load_policy",
    "load_workload",
    "plot",
    "simulate",
    "sweep",
    "sweep_experiment",
]
