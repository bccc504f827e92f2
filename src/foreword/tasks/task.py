"""A task: rows with inputs and a target, a metric, and splits that share no input. Knows nothing of prompts or models.

A task file is YAML; `_TaskFile` is its format.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from foreword.errors import ForewordError
from foreword.files import read_text
from foreword.forms import validation_message
from foreword.listen import SILENT, Listener
from foreword.tasks import sources, splits
from foreword.tasks.metrics import METRICS
from foreword.yaml_text import read_yaml


@dataclass(frozen=True)
class Row:
    """One example."""

    id: str
    """`<base name of the source>:<line>`, the same in every split and for every seed."""
    inputs: Mapping[str, str]
    target: str
    """One of the task's choices where it has them."""


@dataclass(frozen=True)
class Task:
    """What is asked, on which rows, and how answers are scored."""

    name: str
    inputs: tuple[str, ...]
    """Columns that a prompt's variables take."""
    choices: tuple[str, ...] | None
    """All possible targets; None where the target is free text."""
    metric: str
    """A name in `metrics.METRICS`."""
    seed: int
    train: tuple[Row, ...]
    """In random order, so that any beginning of a split is a fair sample; rows of named files keep their order."""
    dev: tuple[Row, ...]
    """Empty where the task file has none; so too `test`."""
    test: tuple[Row, ...]
    notes: tuple[str, ...]
    """What was left out of the data, and why, a sentence each."""

    @classmethod
    def load(cls, path: str | Path, seed: int | None = None, listener: Listener = SILENT) -> "Task":
        """Reads a task file and its data; `seed` takes the place of the file's.

        Raises ForewordError naming the file and its field, or the data's line, column and value.
        """
        path = Path(path)
        form = _read_form(path)
        seed = form.seed if seed is None else seed
        try:
            rows, notes = _one_source(form, path, seed, listener) if form.data.source else _named(form, path, listener)
        except ForewordError as error:
            raise ForewordError(f"task {str(path)!r}: {error}") from error
        metric = form.metric or ("accuracy" if form.target.choices else "exact_match")
        choices = None if form.target.choices is None else tuple(form.target.choices)
        return cls(form.name, tuple(form.inputs), choices, metric, seed, **rows, notes=tuple(notes))

    @cached_property
    def data_hash(self) -> str:
        """sha256 over the inputs and targets of all splits: equal only for the same rows in the same places."""
        digest = hashlib.sha256()
        for name in ("train", "dev", "test"):
            for row in getattr(self, name):
                digest.update(json.dumps([name, dict(row.inputs), row.target], sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def score(self, predictions: Sequence[str], rows: Sequence[Row]) -> list[float]:
        """The metric of each prediction on its row, from 0 to 1.

        Raises ValueError when the lengths differ, ForewordError where a package's metric gives anything else.
        """
        metric = METRICS[self.metric]
        scores = [metric(prediction, row.target) for prediction, row in zip(predictions, rows, strict=True)]
        for score, row in zip(scores, rows, strict=True):
            if not isinstance(score, int | float) or not 0 <= score <= 1:
                raise ForewordError(
                    f"the metric {self.metric!r} gives {score!r} for row {row.id!r}; it must be from 0 to 1"
                )
        return scores


# The file format


def _text(value: object) -> object:
    """YAML reads a bare 1 as a number and a bare yes as true; the first can only mean the text, the second cannot."""
    if isinstance(value, bool) or value is None:
        raise ValueError(f"YAML reads this as {value!r}; put it in quotes")
    return str(value) if isinstance(value, int | float) else value


def _size(value: object) -> object:
    whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
    if not whole and not (isinstance(value, float) and 0 < value < 1):
        raise ValueError(f"{value!r} is neither a count of rows nor a share between 0 and 1")
    return value


def _metric(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"{name!r} is none of the metrics {', '.join(map(repr, METRICS))}")
    return name


Text = Annotated[str, Field(min_length=1), BeforeValidator(_text)]
Size = Annotated[int | float, Field(union_mode="left_to_right"), BeforeValidator(_size)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Data(_Form):
    """Either one source, or a file for each split."""

    source: Text | None = None
    sha256: Text | None = None
    where: dict[Text, Text] = {}
    train: Text | None = None
    dev: Text | None = None
    test: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: object) -> object:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.source is None) == (self.train is None):
            raise ValueError("give either `source` or `train` (with `dev` and `test` beside it)")
        if self.source is not None and (self.dev or self.test):
            raise ValueError("`dev` and `test` go with `train`; to divide one source, say `split: {dev: …, test: …}`")
        if self.source is None and (self.sha256 or self.where):
            raise ValueError("`sha256` and `where` go with `source`")
        return self


class _Split(_Form):
    train: Size | None = None
    dev: Size | None = None
    test: Size | None = None


class _Target(_Form):
    column: Text
    choices: list[Text] | None = Field(default=None, min_length=2)
    labels: dict[Text, Text] = {}

    @model_validator(mode="after")
    def _fit(self) -> Self:
        choices = self.choices or []
        if len(set(choices)) < len(choices):
            raise ValueError("a choice stands twice")
        for value, choice in self.labels.items():
            if choice not in choices:
                raise ValueError(f"labels maps {value!r} to {choice!r}, which is none of the choices {choices}")
        return self


class _TaskFile(_Form):
    name: Annotated[Text, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    data: _Data
    split: _Split = _Split()
    inputs: list[Text] = Field(min_length=1)
    target: _Target
    metric: Annotated[Text, AfterValidator(_metric)] | None = None
    seed: int = Field(default=0, ge=0, strict=True)

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if len(set(self.inputs)) < len(self.inputs):
            raise ValueError("a column stands twice in `inputs`")
        if self.target.column in self.inputs:
            raise ValueError(f"the target column {self.target.column!r} stands among `inputs`, which gives it away")
        if self.split.model_fields_set and self.data.source is None:
            raise ValueError("`split` divides one source, but `data` names a file for each split")
        return self


def _read_form(path: Path) -> _TaskFile:
    content = read_yaml(read_text(path, "task file"), str(path))
    if not isinstance(content, dict):
        raise ForewordError(f"task file {str(path)!r} is not a mapping of `name`, `data`, `inputs`, `target`, …")
    try:
        return _TaskFile.model_validate(content)
    except ValidationError as error:
        raise ForewordError(validation_message(f"task file {str(path)!r}", error, _TaskFile)) from error


# The rows


def _one_source(
    form: _TaskFile, path: Path, seed: int, listener: Listener
) -> tuple[dict[str, tuple[Row, ...]], list[str]]:
    """Rows of one source, each input once, drawn into the splits."""
    data, notes = form.data, []
    assert data.source is not None
    columns = [*form.inputs, form.target.column]
    source = sources.read(data.source, path.parent, columns, data.where, data.sha256, listener)
    if source.left_out:
        notes.append(f"`where` left out {source.left_out:,} of {source.left_out + len(source.records):,} rows")
    unique: dict[tuple[str, ...], Row] = {}
    repeated, contradicted = 0, 0
    for row in _rows(form, source, source.name):
        first = unique.setdefault(splits.input_key(list(row.inputs.values())), row)
        repeated += first is not row
        contradicted += first.target != row.target
    if repeated:
        notes.append(
            f"dropped {repeated:,} rows whose inputs stand earlier in the source"
            + (f", {contradicted:,} of them with another target there" if contradicted else "")
        )
    rows = list(unique.values())
    strata = [row.target if form.target.choices else None for row in rows]
    sizes = form.split.model_dump(exclude_none=True)
    return {name: tuple(rows[i] for i in drawn) for name, drawn in splits.draw(strata, sizes, seed).items()}, notes


def _named(form: _TaskFile, path: Path, listener: Listener) -> tuple[dict[str, tuple[Row, ...]], list[str]]:
    """Rows of a file per split. What stands in test leaves dev and train, and what stands in dev leaves train."""
    places = {name: place for name in ("test", "dev", "train") if (place := getattr(form.data, name)) is not None}
    columns = [*form.inputs, form.target.column]
    read = {name: sources.read(place, path.parent, columns, listener=listener) for name, place in places.items()}
    namesakes = Counter(source.name for source in read.values())
    rows: dict[str, tuple[Row, ...]] = {"train": (), "dev": (), "test": ()}
    notes = []
    seen: set[tuple[str, ...]] = set()
    for name, source in read.items():
        # Files of one name in different folders: only the path as written tells their rows apart.
        of_file = _rows(form, source, source.name if namesakes[source.name] == 1 else places[name])
        keys = [splits.input_key(list(row.inputs.values())) for row in of_file]
        rows[name] = tuple(row for row, key in zip(of_file, keys, strict=True) if key not in seen)
        if dropped := len(of_file) - len(rows[name]):
            notes.append(f"dropped {dropped:,} {name} rows whose inputs also stand in dev or test")
        if not rows[name]:
            raise ForewordError(f"split {name!r} is empty: all rows of {source.place!r} also stand in dev or test")
        seen.update(keys)
    return rows, notes


def _rows(form: _TaskFile, source: sources.Source, name: str) -> list[Row]:
    target, choices = form.target, set(form.target.choices or ())
    rows = []
    for record in source.records:
        for column, value in record.values.items():
            if not value.strip():
                raise source.error(record, column, f"the value {value!r} is empty")
        value = record.values[target.column]
        label = target.labels.get(value, value)
        if choices and label not in choices:
            listed = ", ".join(map(repr, target.choices or ()))
            problem = f"{value!r} is none of the choices {listed}; correct it, or map it in the task file's `labels`"
            raise source.error(record, target.column, problem)
        rows.append(Row(f"{name}:{record.line}", {column: record.values[column] for column in form.inputs}, label))
    return rows
