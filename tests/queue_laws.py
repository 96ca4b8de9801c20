"""Queues whose capacity is known: a single server, and one that serves batches."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit
def single_server(arrival, service):
    """Completion times of a FIFO queue with fixed service time (Lindley's recursion); stable below 1/service."""
    completion = np.empty_like(arrival)
    free = 0.0
    for i in range(len(arrival)):
        free = max(free, arrival[i]) + service
        completion[i] = free
    return completion


@numba.njit
def batch_server(arrival, size, service):
    """Completion times when up to ``size`` waiting requests are served together; stable below size/service."""
    completion = np.empty_like(arrival)
    free, i = 0.0, 0
    while i < len(arrival):
        free = max(free, arrival[i])
        last = i
        while last < len(arrival) and last < i + size and arrival[last] <= free:
            last += 1
        free += service
        completion[i:last] = free
        i = last
    return completion
