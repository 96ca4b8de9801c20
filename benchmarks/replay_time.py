"""How long the simulator takes to replay the published recordings, compiled: milliseconds, and times faster than real.

python benchmarks/replay_time.py [--repeats 20]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from fluidwait.engines.v1.run import serve
from fluidwait.real.published import names, read_published


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    print("record                      scheduling    median ms  fastest ms  iterations  recorded s / replay s")
    for name in names():
        published = read_published(name)
        requests, hashes, time_model = published.sent, published.hashes(), published.hardware().time_model()
        for asynchronous in (False, True):
            rules = published.rules(asynchronous=asynchronous)
            served = serve(requests, time_model, rules, hashes=hashes)  # compiles
            seconds = []
            for _ in range(repeats):
                start = time.perf_counter()
                serve(requests, time_model, rules, hashes=hashes)
                seconds.append(time.perf_counter() - start)
            median, recorded = float(np.median(seconds)), float(published.table["last_token_s"].to_numpy().max())
            print(
                f"{name:27} {'asynchronous' if asynchronous else 'synchronous':13} {1e3 * median:9.1f} "
                f"{1e3 * min(seconds):11.1f} {served.iterations:11} {recorded / median:22,.0f}"
            )


if __name__ == "__main__":
    main()
