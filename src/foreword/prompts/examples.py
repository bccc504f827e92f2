"""Examples of a prompt: rows that stand in its file or in a small CSV or JSONL file beside it, and which of them a row
is shown. Knows no templates, no models.

Which they are depends on the prompt alone (`fixed`, `random`, `balanced`), so that the text in front of the row stays
the same, or on the row (`similarity`).
"""

import csv
import io
import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from foreword.errors import ForewordError
from foreword.files import read_text
from foreword.forms import validation_message

MAX_BYTES = 1_000_000
"""Of a file of examples."""
MAX_ROWS = 1_000
MAX_CHARACTERS = 40_000
"""In all rows: they are kept in the front matter."""
MAX_QUERY = 2_000
"""Characters of a row that are compared with examples."""

Value = bool | int | FiniteFloat | Annotated[str, Field(max_length=MAX_CHARACTERS)]
Length = Callable[[str], int]
"""How many tokens a text has."""


class Examples(BaseModel):
    """`rows`, or in a file on disk the `file` that they come from; how they are chosen, and how many.

    With `maxLength` or `maxTokens` as many as fit are shown: the values of a row are counted, in order of choice, and
    one that does not fit is passed over.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: str | None = None
    """CSV or JSONL, beside the prompt file or below it. Its rows take its place when the prompt is read."""
    choose: Literal["fixed", "random", "balanced", "similarity"] = "fixed"
    count: int | None = Field(default=None, ge=1)
    """At most; None: all that fit."""
    label: str = "label"
    """The column that `balanced` takes in turns."""
    seed: int = 0
    maxLength: int | None = Field(default=None, ge=1)  # noqa: N815 - the words of `inputs`
    """Characters, over all that are shown."""
    maxTokens: int | None = Field(default=None, ge=1)  # noqa: N815
    rows: tuple[dict[str, Value], ...] | None = Field(default=None, min_length=1, max_length=MAX_ROWS)

    @model_validator(mode="after")
    def _fits(self) -> "Examples":
        if (self.file is None) == (self.rows is None):
            raise ValueError("give either a 'file' or 'rows'")
        rows = self.rows or ()
        if (size := sum(len(key) + len(str(value)) for row in rows for key, value in row.items())) > MAX_CHARACTERS:
            raise ValueError(f"{len(rows):,} rows of {size:,} characters, {MAX_CHARACTERS:,} at most; keep fewer")
        if rows and self.choose == "balanced" and any(self.label not in row for row in rows):
            raise ValueError(f"'balanced' needs the column {self.label!r} in every row; name another one as 'label'")
        return self

    def embedded(self, folder: Path | None, source: str) -> "Examples":
        """With rows in the place of a file. Raises ForewordError where the file cannot be one of this prompt's."""
        if self.file is None:
            return self
        if folder is None:
            raise ForewordError(f"{source!r}: examples stand in 'rows'; a 'file' is read beside a prompt file only")
        if "\0" in self.file:
            raise ForewordError(f"{source!r}: examples {self.file!r:.100} are no file; name one beside the prompt")
        path = (folder / self.file).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ForewordError(f"{source!r}: examples {self.file!r} lie outside of the prompt's folder; move them in")
        settings = self.model_dump(exclude_unset=True, exclude={"file"})
        if not path.exists():
            raise ForewordError(f"{source!r}, 'examples.file': there is no {self.file!r} beside it; look at the name")
        try:
            return Examples.model_validate({**settings, "rows": _read_records(path, MAX_ROWS)})
        except ValidationError as error:
            raise ForewordError(validation_message(f"examples {str(path)!r}", error)) from error

    @cached_property
    def text(self) -> str:
        """All values, to be searched for what no data may say."""
        return "\n".join(str(value) for row in self.rows or () for value in row.values())

    def chosen(self, inputs: Mapping[str, object], length: Length) -> list[dict[str, Any]]:
        """The rows to show before `inputs`, in the order in which they are shown; the most similar one last."""
        rows = self.rows or ()
        order = self._by_similarity(inputs) if self.choose == "similarity" else self._order
        taken: list[int] = []
        characters = tokens = 0
        for i in order:
            if len(taken) == self.count:
                break
            values = " ".join(map(str, rows[i].values()))
            longer = characters + len(values), tokens + (length(values) if self.maxTokens is not None else 0)
            if longer[0] > (self.maxLength or longer[0]) or longer[1] > (self.maxTokens or longer[1]):
                continue
            characters, tokens = longer
            taken.append(i)
        if self.choose == "similarity":
            taken.reverse()
        return [dict(rows[i]) for i in taken]

    @cached_property
    def _order(self) -> Sequence[int]:
        numbers = list(range(len(self.rows or ())))
        if self.choose == "fixed":
            return numbers
        random.Random(self.seed).shuffle(numbers)
        return numbers if self.choose == "random" else self._in_turns(numbers)

    def _in_turns(self, numbers: Sequence[int]) -> Sequence[int]:
        """One of each label, then another of each, in the order in which the rows first name them."""
        assert self.rows is not None
        labels: dict[object, list[int]] = {row[self.label]: [] for row in self.rows}
        for i in numbers:
            labels[self.rows[i][self.label]].append(i)
        rounds: dict[int, list[int]] = defaultdict(list)
        for those in labels.values():
            for turn, i in enumerate(those):
                rounds[turn].append(i)
        return [i for turn in sorted(rounds) for i in rounds[turn]]

    def _by_similarity(self, inputs: Mapping[str, object]) -> Sequence[int]:
        """The most similar first: cosine of TF-IDF over pieces of words, in the columns named as inputs are."""
        shared = tuple(name for name in inputs if name in self.columns)
        if not shared:
            raise ForewordError(
                f"examples by similarity need a column named as an input is: the inputs are {list(inputs)}, "
                f"the columns {sorted(self.columns)}"
            )
        query = "\n".join(str(inputs[name])[:MAX_QUERY] for name in shared)
        index = self._indices.get(shared)
        if index is None:
            index = self._indices[shared] = _index(
                ["\n".join(str(row.get(n, "")) for n in shared) for row in self.rows or ()]
            )
        vectorizer, matrix = index
        similarity = (matrix @ vectorizer.transform([query]).T).toarray()[:, 0]
        return sorted(range(len(similarity)), key=lambda i: (-round(float(similarity[i]), 9), i))

    @cached_property
    def columns(self) -> frozenset[str]:
        """All that a row may have."""
        return frozenset(name for row in self.rows or () for name in row)

    @cached_property
    def _indices(self) -> dict[tuple[str, ...], Any]:
        return {}


def _index(texts: Sequence[str]) -> tuple[Any, Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    try:
        return vectorizer, vectorizer.fit_transform(texts)
    except ValueError:  # not one text of two letters
        raise ForewordError("examples by similarity have no text to compare; choose them otherwise") from None


def _read_records(path: Path, limit: int) -> list[dict[str, Any]]:
    """All rows, `limit` at most. Raises ForewordError with the line of one that cannot be read."""
    text = read_text(path, "examples", MAX_BYTES)
    match path.suffix.lower():
        case ".csv":
            rows = _csv(text, str(path))
        case ".jsonl":
            rows = _jsonl(text, str(path))
        case suffix:
            raise ForewordError(f"cannot read examples {str(path)!r}: {suffix!r} is neither '.csv' nor '.jsonl'")
    if not 1 <= len(rows) <= limit:
        raise ForewordError(f"{str(path)!r} has {len(rows):,} rows; a prompt takes 1 to {limit:,} examples")
    return rows


def _csv(text: str, place: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restkey="")
    rows = []
    try:
        names = reader.fieldnames or ()
        if len(set(names)) < len(names):
            raise ForewordError(f"{place!r}, line 1: two columns have one name, {', '.join(names):.200}; rename one")
        for row in reader:
            if None in row.values() or "" in row:
                raise ForewordError(f"{place!r}, line {reader.line_num}: not {len(reader.fieldnames or ())} fields")
            rows.append(dict(row))
    except csv.Error as error:
        raise ForewordError(f"{place!r}, line {reader.line_num}: malformed CSV ({error})") from error
    return rows


def _jsonl(text: str, place: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ForewordError(f"{place!r}, line {number}: malformed JSON ({error})") from error
        if not isinstance(row, dict):
            raise ForewordError(f"{place!r}, line {number}: not a JSON object")
        rows.append(row)
    return rows
