"""Which row goes into which split. Knows positions, labels and a seed; not what a row holds.

The draw depends on the rows' order and the seed alone, never on the process or the machine.
"""

import random
from collections.abc import Hashable, Mapping, Sequence

from foreword.errors import ForewordError


def input_key(values: Sequence[str]) -> tuple[str, ...]:
    """Equal for inputs that differ in white space and case only: such rows would leak from one split to another."""
    return tuple(" ".join(value.split()).casefold() for value in values)


def draw(strata: Sequence[Hashable], sizes: Mapping[str, int | float], seed: int) -> dict[str, list[int]]:
    """Positions for "train", "dev" and "test", disjoint, each with every stratum close to its share of the whole.

    `strata` holds one stratum (a label, say) per row. A size is a count of rows, or a share of all rows in (0, 1);
    train is what dev and test leave, or the first of that when `sizes` caps it; without a cap the three cover all
    rows. Any beginning of a split is a fair sample too.
    Raises ForewordError when the rows do not suffice or a split would be empty.
    """
    counts = {name: size if isinstance(size, int) else round(size * len(strata)) for name, size in sizes.items()}
    for name, count in counts.items():
        if count < 1:
            raise ForewordError(f"split {name!r} of {sizes[name]!r} is empty: there are only {len(strata):,} rows")
    held_out = counts.get("test", 0) + counts.get("dev", 0)
    left = len(strata) - held_out
    train = counts.get("train", left)
    if left < 1 or train > left:
        wanted = " + ".join(f"{count:,} {name}" for name, count in counts.items())
        raise ForewordError(
            f"split asks for {wanted} rows, but there are {len(strata):,}"
            + ("" if "train" in counts else ", which leaves none for train")
        )
    order = _interleaved(strata, seed)
    return {
        "test": order[: counts.get("test", 0)],
        "dev": order[counts.get("test", 0) : held_out],
        "train": order[held_out : held_out + train],
    }


def _interleaved(strata: Sequence[Hashable], seed: int) -> list[int]:
    """A random order in which every stretch holds each stratum about in proportion.

    Systematic sampling: the rows of a stratum, shuffled, are laid out at equal distances on [0, 1) from a random
    start, and all rows are then read off from left to right. A stratum of one row may so land anywhere.
    """
    generator = random.Random(seed)
    members: dict[Hashable, list[int]] = {}
    for position, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(position)
    placed: list[tuple[float, int]] = []
    for positions in members.values():
        generator.shuffle(positions)
        start = generator.random()
        placed += [((rank + start) / len(positions), position) for rank, position in enumerate(positions)]
    return [position for _, position in sorted(placed)]
