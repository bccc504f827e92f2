"""Splits as properties: disjoint, of the asked size, in proportion, and a function of the seed alone."""

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreword.errors import ForewordError
from foreword.tasks.splits import draw, input_key


@given(st.data(), st.lists(st.sampled_from("aabc"), min_size=3, max_size=200), st.integers(0, 2**32))
def test_parts_are_disjoint_sized_proportional_and_cover_all(data: st.DataObject, labels: list[str], seed: int) -> None:
    dev = data.draw(st.integers(1, len(labels) - 2))
    test = data.draw(st.integers(1, len(labels) - dev - 1))
    parts = draw(labels, {"dev": dev, "test": test}, seed)
    assert {name: len(part) for name, part in parts.items()} == {
        "dev": dev,
        "test": test,
        "train": len(labels) - dev - test,
    }
    assert sorted(parts["train"] + parts["dev"] + parts["test"]) == list(range(len(labels)))
    for part in parts.values():
        found = Counter(labels[position] for position in part)
        for label, count in Counter(labels).items():
            # Laying rows out at equal distances leaves each label within a few rows of its share, whatever the size.
            assert abs(found[label] - count * len(part) / len(labels)) < len(set(labels)) + 1
    capped = draw(labels, {"dev": dev, "test": test, "train": 1}, seed)
    assert (capped["dev"], capped["test"], capped["train"]) == (parts["dev"], parts["test"], parts["train"][:1])


def test_equal_labels_split_equally() -> None:
    labels = ["negative"] * 4265 + ["positive"] * 4265
    parts = draw(labels, {"dev": 500, "test": 1000}, seed=7)
    assert {name: Counter(labels[i] for i in part) for name, part in parts.items()} == {
        "train": {"negative": 3515, "positive": 3515},
        "dev": {"negative": 250, "positive": 250},
        "test": {"negative": 500, "positive": 500},
    }


def test_a_label_of_one_row_may_land_in_any_split() -> None:
    labels = ["common"] * 60 + [f"rare {i}" for i in range(40)]
    parts = draw(labels, {"dev": 25, "test": 25}, seed=0)
    assert all(any(position >= 60 for position in part) for part in parts.values())


def test_the_seed_alone_decides_in_every_process() -> None:
    labels, sizes = ["a", "b", "b", "a"] * 9, {"test": 0.25, "dev": 5}
    call = f"from foreword.tasks.splits import draw; print([draw({labels}, {sizes}, seed) for seed in (3, 4)])"
    elsewhere = subprocess.check_output([sys.executable, "-c", call], text=True)
    here = [draw(labels, sizes, seed) for seed in (3, 4)]
    assert elsewhere == f"{here}\n"
    assert here[0] != here[1]
    assert len(draw(["a"] * 36, {"test": 0.25}, 0)["test"]) == 9


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"dev": 5, "test": 5}, "5 dev [+] 5 test rows, but there are 10, which leaves none for train"),
        ({"dev": 5, "train": 6}, "5 dev [+] 6 train rows, but there are 10"),
        ({"dev": 0.01}, "split 'dev' of 0.01 is empty"),
    ],
)
def test_too_few_rows_are_named(sizes: dict[str, int | float], said: str) -> None:
    with pytest.raises(ForewordError, match=said):
        draw(["a"] * 10, sizes, 0)


def test_white_space_and_case_do_not_tell_inputs_apart() -> None:
    assert input_key([" A\tgood\n film", "STRASSE"]) == input_key(["a good film ", "straße"])
    assert input_key(["a b", "c"]) != input_key(["a", "b c"])
