"""Time that other work does not lengthen, for the benchmarks of learning."""

import time

import torch


def clock() -> float:
    """Seconds that this process has had of its core, or of a GPU once that has done what it was given."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()
