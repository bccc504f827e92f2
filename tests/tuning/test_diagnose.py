"""A warning for each way a run goes wrong, with the switch to try; none for a run that goes well."""

from collections.abc import Sequence
from typing import Any

import pytest

from foreword.tuning import CurvePoint, TuneOptions
from foreword.tuning.diagnose import diagnose

FALLING = (0.70, 0.52, 0.44, 0.40, 0.38)
GAINING = (0.74, 0.78, 0.81, 0.83, 0.83, 0.84)
FLAT = (0.70, 0.66, 0.66, 0.665, 0.66)
STUCK = (0.74, 0.743, 0.737, 0.74, 0.743, 0.737)


def curve(
    losses: Sequence[float] = FALLING, dev: Sequence[float | None] = GAINING, every: int = 50, **changes: Any
) -> tuple[CurvePoint, ...]:
    """A healthy run of 16 rows a step and 300 dev rows, but for what is changed; a list has a value for each point."""
    columns = {
        "dev_rows": 300,
        "norm_ratio": [1.0, 1.1, 1.2, 1.25, 1.3, 1.3],
        "moved": [0.0, 0.3, 0.5, 0.6, 0.65, 0.67],
        "gradient": [None, 1.4, 0.8, 0.6, 0.5, 0.5],
        "clipped": [None, 0.7, 0.3, 0.1, 0.0, 0.0],
        **changes,
    }
    return tuple(
        CurvePoint(
            step=i * every,
            rows=i * every * 16,
            loss=loss,
            dev=dev[i],
            seconds=float(i),
            **{name: value[i] if isinstance(value, list) else value for name, value in columns.items()},
        )
        for i, loss in enumerate((None, *losses))
    )


HEALTHY = {
    "as most": (curve(), {}),
    "few rows a point, so losses by chance up and down": (
        curve((0.50, 0.42, 0.46, 0.41, 0.45), (0.775, 0.79, 0.80, 0.795, 0.82, 0.83), every=20, dev_rows=200),
        {"steps": 100, "eval_every": 20},
    ),
    "clipped all the time, and gaining": (curve(clipped=[None, *[1.0] * 5], gradient=[None, *[4.0] * 5]), {}),
    "converged early": (curve((0.45, 0.32, 0.32, 0.325, 0.32), (0.74, 0.84, 0.83, 0.84, 0.835, 0.83)), {}),
    "a little past its best, within noise": (curve(dev=(0.74, 0.80, 0.85, 0.84, 0.83, 0.82)), {}),
    "few dev rows that are enough": (curve(dev=(0.4, 0.7, 0.9, 0.95, 1.0, 1.0), dev_rows=40), {}),
    "without dev": (curve(dev=[None] * 6, dev_rows=None), {}),
    "just begun": (curve(FLAT[:1], STUCK, moved=0.001, clipped=1.0), {}),
    "not yet measured twice": (curve(())[:1], {}),
    "nothing yet": ((), {}),
    "keys and values that hardly move, and gain": (curve(moved=0.005), {"method": "prefix-tuning"}),
    "written by an older version": (
        curve(norm_ratio=None, moved=None, gradient=None, clipped=None, dev_rows=None),
        {},
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_is_left_alone(name: str) -> None:
    points, settings = HEALTHY[name]
    for length in range(len(points) + 1):  # nor while it is under way
        assert diagnose(points[:length], TuneOptions(**settings)) == ()


@pytest.mark.parametrize(
    ("points", "settings", "said"),
    [
        (
            curve(norm_ratio=[1.0, 1.4, 1.9, 2.2, 2.4, 2.4]),
            {},
            ["the vectors' norm is 2.4 times that of real tokens", "--lr 0.0067"],
        ),
        (
            curve(norm_ratio=[1.0, 1.4, 1.9, 2.2, 2.4, 2.4]),
            {"method": "prefix-tuning"},
            ["the vectors' norm is 2.4 times that of their start", "--lr 0.0033"],
        ),
        (
            curve(norm_ratio=[7.5] * 6),
            {},
            ["7.5 times that of real tokens", "was 7.5 times at the start", "--init text"],
        ),
        (
            curve(FLAT, STUCK, moved=[0.0, 0.001, 0.002, 0.003, 0.004, 0.004]),
            {"learning_rate": 1e-5},
            ["the vectors have moved by 0.4% of their length in 250 steps", "--lr 3e-05"],
        ),
        (
            curve(FLAT[:4], STUCK[1:], moved=0.004),  # its patience ended it long before half of the steps
            {"steps": 1000},
            ["the vectors have moved by 0.4% of their length in 200 steps", "--lr 0.06"],
        ),
        (
            curve(FLAT, STUCK, gradient=[None, *[37.0] * 5], clipped=[None, 1.0, 1.0, 0.9, 0.8, 0.7]),
            {},
            ["the gradient was clipped on 80% of the later steps (its norm is 37, the clip 1)", "--lr 0.0067"],
        ),
        (
            curve(FLAT, STUCK),
            {},
            [
                "the loss has not fallen over the last third (0.660 to 0.663) and dev is not better than the start",
                "another --init, a higher --lr 0.06 or --method residual-prompt-tuning",
            ],
        ),
        (curve(FLAT, STUCK), {"method": "p-tuning-tpmlp"}, ["--method prefix-tuning"]),
        (
            curve([0.7] * 5, [None] * 6, dev_rows=None),
            {},
            ["over the last third (0.700 to 0.700) or since the start: "],
        ),
        (
            curve((0.70, 0.68, 0.72, 0.90, 1.10), STUCK),
            {},
            ["the loss has risen over the last third (0.700 to 1.000)", "lower the learning rate, --lr 0.0067"],
        ),
        (
            curve((0.50, 0.30, 0.15, 0.08, 0.04), (0.74, 0.80, 0.85, 0.82, 0.79, 0.76)),
            {},
            [
                "dev has fallen from 0.850 at step 100 to 0.760",
                "try --steps 100, --tokens 8 (fewer places where the start has its own) or more training rows",
            ],
        ),
        (
            curve((0.50, 0.30, 0.15, 0.08, 0.04), (0.85, 0.80, 0.79, 0.79, 0.77, 0.76)),
            {"tokens": 1},
            ["dev has fallen from 0.850 at step 0 to 0.760", "by heart; try more training rows"],
        ),
        (
            curve(dev=(0.70, 0.75, 0.75, 0.75, 0.80, 0.80), dev_rows=20),
            {},
            ["dev has 20 rows, which cannot show a difference below 27 points", "10 points above", "more dev rows"],
        ),
        (
            curve(dev=(0.50, 0.50, 0.50, 0.50, 0.50, 0.75), dev_rows=1),
            {},
            ["dev has 1 rows, which are too few to show any difference, and"],
        ),
        (
            curve((0.50, 0.90, 0.45, 0.85, 0.40)),
            {},
            ["the loss swings up and down, by 0.45 nats and more than chance", "--lr 0.0067", "--batch 32"],
        ),
    ],
)
def test_a_cause_is_named_with_what_to_try(
    points: tuple[CurvePoint, ...], settings: dict[str, Any], said: list[str]
) -> None:
    (found,) = diagnose(points, TuneOptions(**settings))
    for part in said:
        assert part in found
    assert "\n" not in found


@pytest.mark.parametrize(("method", "rate"), [("dept", "0.06"), ("p-tuning-multitask", "0.006")])
def test_the_last_method_of_its_kind_names_no_other(method: str, rate: str) -> None:
    (found,) = diagnose(curve(FLAT, STUCK), TuneOptions(method=method))
    assert found.endswith(f"try another --init or a higher --lr {rate}")


def test_a_plateau_is_not_told_beside_its_cause() -> None:
    """Raise the rate, and lower it: two such sentences would help nobody."""
    points = curve(FLAT, STUCK, clipped=[None, *[1.0] * 5], dev_rows=20)
    clipped, coarse = diagnose(points, TuneOptions())
    assert "was clipped on 100%" in clipped
    assert "dev has 20 rows" in coarse
