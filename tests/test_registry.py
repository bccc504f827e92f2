"""Names that installed packages add by entry point: real metadata on `sys.path`, and packages that are broken."""

from pathlib import Path

import pytest

from foreword.errors import ForewordError, UsageError
from foreword.prompts import Prompt, formats
from foreword.registry import Registry
from foreword.tasks import METRICS, Row, Task, metrics
from installed import install

CODE = """
from foreword.prompts import Prompt

def length(prediction, target):
    return min(len(prediction), len(target)) / max(len(prediction), len(target), 1)

class Wide:
    def __call__(self, prediction, target):
        return 2.0

wide = Wide()

class Shout:
    def read(self, text, name):
        return Prompt(name, text.lower()), ["capitals"]

    def write(self, prompt):
        return prompt.body.upper(), []

shout = Shout()
number = 7
"""
BROKEN = "raise RuntimeError('no such device')"
METRIC_POINTS = {"length": "extras:length", "wide": "extras:wide", "number": "extras:number", "f1": "extras:wide"}
ROWS = (Row("a", {}, "four"), Row("b", {}, "no"))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with metrics and formats, and one whose module raises when it is imported."""
    points = {"foreword.metrics": METRIC_POINTS, "foreword.formats": {"shout": "extras:shout", "odd": "extras:length"}}
    install(tmp_path / "one", monkeypatch, "extras", CODE, points)
    points = {"foreword.metrics": {"lost": "broken:metric"}, "foreword.formats": {"lost": "broken:form"}}
    install(tmp_path / "two", monkeypatch, "broken", BROKEN, points)
    for room, name in ((metrics, "METRICS"), (formats, "FORMATS")):
        kept = getattr(room, name)
        monkeypatch.setattr(room, name, Registry(kept.group, kept._built_in, kept._fits))
    monkeypatch.setattr("foreword.tasks.task.METRICS", metrics.METRICS)


def task(metric: str) -> Task:
    return Task("t", ("text",), None, metric, 0, ROWS, (), ROWS, ())


def test_without_packages_there_is_what_is_built_in() -> None:
    assert {"accuracy", "exact_match", "f1"} <= set(METRICS)
    assert {"dotprompt", "fstring", "jinja", "langchain", "mlflow", "openai", "prompty", "text"} <= set(formats.FORMATS)


@pytest.mark.usefixtures("installed")
def test_a_packages_metric_scores_a_task(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{i},{'yn'[i % 2]}\n" for i in range(9)))
    (tmp_path / "t.yaml").write_text(
        "name: t\ndata: rows.csv\ninputs: [text]\ntarget: {column: label}\nmetric: length\nsplit: {dev: 2, test: 2}\n"
    )
    assert Task.load(tmp_path / "t.yaml").metric == "length"
    assert task("length").score(["four", "nope"], ROWS) == [1.0, 0.5]
    assert task("f1").score(["four", "yes"], ROWS) == [1.0, 0.0], "what is built in cannot be replaced"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("metric", "why"),
    [
        ("lost", r"foreword.metrics 'lost' of the package 'broken' cannot be loaded: no such device; mend or remove"),
        ("number", "foreword.metrics 'number' of the package 'extras' is of type 'int', which does not fit"),
        ("wide", "the metric 'wide' gives 2.0 for row 'a'; it must be from 0 to 1"),
    ],
)
def test_a_bad_metric_is_told_by_name_and_harms_no_other(metric: str, why: str) -> None:
    with pytest.raises(ForewordError, match=why):
        task(metric).score(["four", "nope"], ROWS)
    assert task("accuracy").score(["four", "nope"], ROWS) == [1.0, 0.0]


@pytest.mark.usefixtures("installed")
def test_a_packages_format_is_read_and_written() -> None:
    assert formats.read("BE BRIEF {{ X }}", "shout", "p", "file") == (Prompt("p", "be brief {{ x }}"), ["capitals"])
    assert formats.write(Prompt("p", "be {{ x }}"), "shout") == ("BE {{ X }}", [])
    with pytest.raises(UsageError, match=r"there is no format 'pickle'; there are dotprompt, .*shout"):
        formats.format_of("pickle")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("form", "why"),
    [
        ("lost", "foreword.formats 'lost' of the package 'broken' cannot be loaded: no such device"),
        ("odd", "foreword.formats 'odd' of the package 'extras' is of type 'function', which does not fit"),
    ],
)
def test_a_bad_format_is_told_by_name_and_harms_no_other(form: str, why: str) -> None:
    with pytest.raises(ForewordError, match=why):
        formats.format_of(form)
    assert formats.guess("{}", Path("a.prompty")) == "prompty"
    assert formats.write(Prompt("p", "be {x}"), "fstring") == ("be {{x}}", [])
