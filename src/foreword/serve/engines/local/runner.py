"""The seam between the loop and the two ways to run rows. Knows no model."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from foreword.serve.engines.local.fronts import Fronts
from foreword.serve.engines.local.rows import Row


class Runner(Protocol):
    """Runs rows a step at a time."""

    fronts: Fronts

    @property
    def used(self) -> int:
        """Bytes of keys and values that rows have reserved."""
        ...

    @property
    def total(self) -> int:
        """Bytes that there are."""
        ...

    def fits(self, row: Row) -> bool:
        """Whether there would be room for the row if it were alone."""
        ...

    def admit(self, row: Row) -> bool:
        """Reserve all that the row will need; False while there is no room."""
        ...

    def release(self, row: Row, *, spoiled: bool) -> None:
        """Give it back; wiped, where the row's numbers were `spoiled`."""
        ...

    def step(self) -> tuple[Sequence[Row], Tensor | None, int]:
        """Run the model once: the rows that can write a token now, their logits [M, V], and the tokens read.

        Rows whose front turns out not to be finite are finished with an error.
        """
        ...
