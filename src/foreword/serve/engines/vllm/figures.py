"""vLLM's own figures, as they come with each of its steps. Knows no requests."""

from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase


class Figures(StatLoggerBase):  # type: ignore[misc]
    """The last step's, and sums over all."""

    def __init__(self) -> None:
        self.waiting = 0
        """Requests without a place in the batch."""
        self.usage = 0.0
        """Share of the blocks that are in use, 0 to 1."""
        self.steps = self.step_rows = self.last_rows = 0

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        """A step is over."""
        if scheduler_stats is not None:
            self.waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self.usage = scheduler_stats.kv_cache_usage
        if iteration_stats is not None and iteration_stats.num_generation_tokens:
            self.steps += 1
            self.step_rows += iteration_stats.num_generation_tokens
            self.last_rows = iteration_stats.num_generation_tokens

    def log_engine_initialized(self) -> None:
        """Nothing to tell."""
