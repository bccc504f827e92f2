"""What Prometheus and OpenTelemetry are told."""

import threading
from dataclasses import replace
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from foreword.errors import ForewordError
from foreword.prompts import Prompt
from foreword.serve.engines.seam import Stats
from foreword.serve.http import spans
from foreword.serve.http.metrics import Metrics
from foreword.serve.http.service import Limits
from serving import House, Start


def figures(house: House) -> dict[tuple[str, ...], float]:
    """(name, label values …) to value."""
    page = house.ask("GET", "/metrics")[2]
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    return {(s.name.removeprefix("foreword:"), *_ordered(s.labels)): s.value for s in samples}


def _ordered(labels: dict[str, str]) -> list[str]:
    return [labels[name] for name in sorted(labels, key=lambda name: (name != "prompt", name))]


def say(house: House, text: str = "one two three", model: str = "echo", **options: Any) -> None:
    message: Any = {"role": "user", "content": text}
    list(house.client().chat.completions.create(model=model, messages=[message], stream=True, **options))


def test_figures_by_prompt(house: House) -> None:
    say(house)
    say(house, n=2)
    with pytest.raises(openai.RateLimitError):
        say(house, "!full")
    house.wait(lambda: house.service.under_way == 0)
    got = figures(house)
    assert got["request_success_total", "echo:2", "stop"] == 3
    assert got["request_errors_total", "echo:2", "429"] == 1
    assert got["generation_tokens_total", "echo:2"] == 18
    assert got["prompt_tokens_total", "echo:2"] == 24
    assert got["prompt_tokens_cached_total", "echo:2"] == 6
    assert got["request_prefix_cache_hits_total", "echo:2"] == 3
    assert got["time_to_first_token_seconds_count", "echo:2"] == 3
    assert got["inter_token_latency_seconds_count", "echo:2"] == 15
    assert got["e2e_request_latency_seconds_count", "echo:2"] == 3
    assert got["requests_in_flight", "echo:2"] == 0
    assert got["prefix_cache_hits_total",] == 3
    assert {("num_requests_running",), ("num_requests_waiting",), ("kv_cache_usage_perc",)} <= set(got)


def test_labels_are_bounded(start: Start) -> None:
    house = start(limits=replace(Limits(), labels=3, prompt_bytes=1))
    for i in range(6):
        house.table.put(Prompt(f"p{i}", "{{ text }}"))
        say(house, model=f"p{i}")
    for model in ("unknown", "x" * 50):
        with pytest.raises(openai.NotFoundError):
            say(house, model=model)
    labels = {key[1] for key in figures(house) if key[0] == "request_success_total"}
    assert len(labels) <= 4
    assert not labels & {"unknown", "x" * 50}


def test_versions_that_nothing_stands_for_any_more_leave_their_labels(start: Start) -> None:
    """Even the one that was being written when its alias moved: else old versions would take all labels in time."""
    house = start(limits=replace(Limits(), labels=3))
    house.table.put(Prompt("moving", "{{ text }}"))
    for i in range(1, 6):
        writing = threading.Thread(target=say, args=(house, "!slow " + "w " * 12, "moving"))
        writing.start()
        house.wait(lambda: house.engine.running)
        house.table.put(Prompt("moving", f"{i} {{{{ text }}}}"))
        assert house.ask("POST", "/admin/refresh", {})[0] == 200
        writing.join()
    say(house, model="moving")
    house.wait(lambda: house.service.under_way == 0)
    assert {key[1] for key in figures(house) if key[0] == "request_success_total"} == {"moving:6"}


def test_a_version_that_has_left_does_not_come_back_by_an_error() -> None:
    metrics = Metrics(lambda: Stats(*[0] * 15), 5)
    label = metrics.began("gone:1")
    metrics.forget("gone:1")
    metrics.ended(label, 1.0)
    metrics.refused("gone:1", 504)
    assert b"gone:1" not in metrics.text()
    assert b'request_errors_total{prompt="other",status="504"} 1.0' in metrics.text()


def test_spans_have_opentelemetrys_names_and_no_contents(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    house = start(tracer=provider.get_tracer("test"))
    say(house, "sesame", model="echo@prod", temperature=0.5, max_tokens=3)
    with pytest.raises(openai.InternalServerError):
        say(house, "!bug sesame")
    house.wait(lambda: len(exporter.get_finished_spans()) == 2)
    good, bad = exporter.get_finished_spans()
    assert good.name == "chat echo@prod"
    assert dict(good.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "foreword",
        "gen_ai.request.model": "echo@prod",
        "gen_ai.response.model": "echo:1",
        "gen_ai.request.max_tokens": 3,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ("stop",),
    }
    assert (bad.attributes or {})["error.type"] == "RuntimeError"
    assert "sesame" not in good.to_json() + bad.to_json()

    assert spans.tracer() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    try:
        import opentelemetry.exporter.otlp.proto.http  # noqa: F401
    except ImportError:
        with pytest.raises(ForewordError, match="otel"):
            spans.tracer()


def test_a_server_whose_engine_is_gone_is_not_ready(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = house.engine.stats()
    monkeypatch.setattr(house.engine, "stats", lambda: replace(stats, broken=True))
    assert house.ask("GET", "/ready")[::2] == (503, {"status": "broken"})
    assert house.ask("GET", "/health")[0] == 200
