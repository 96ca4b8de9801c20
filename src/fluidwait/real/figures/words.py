"""What both figures say of a bundle."""

from __future__ import annotations

from fluidwait.drawing import style
from fluidwait.drawing.style import Style
from fluidwait.real.bundle import Bundle

SINGLE = {"stock": style.FAMILIES["vllm_v1"][0]}


def looks(bundle: Bundle) -> dict[str, Style]:
    """A style for each policy: vLLM's own scheduler as ``vllm_v1``, the others by their keys."""
    ours = style.styles([key for key in bundle.target.policies if key != "stock"])
    return SINGLE | ours


def origin(bundle: Bundle, fresh: bool) -> str:
    """Where the numbers come from, for a caption."""
    about = bundle.about
    how = (
        "Measured by this run"
        if fresh
        else "Drawn from a recording that comes with the project, not measured by this run"
    )
    part = "" if about.complete else f"; cut short: {about.points} of {about.planned} points"
    busy = " (the machine was busy with other work)" if about.load[1] > 1.5 * about.device["cores"] else ""
    return (
        f"{how}: vLLM {about.engine['version']} on {about.device['name']}, {about.recorded} UTC{part}{busy}; "
        f"{bundle.target.model.name} with random weights."
    )


def stamp(bundle: Bundle, fresh: bool) -> str:
    """The same in a few words, for a corner of the figure."""
    about = bundle.about
    return f"{about.device['name']}, vLLM {about.engine['version']}" + (
        "" if fresh else f", recorded {about.recorded[:10]}"
    )
