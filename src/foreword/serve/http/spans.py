"""OpenTelemetry spans with its names for generative models (semconv gen-ai), without contents.

Nothing is done unless OTEL_EXPORTER_OTLP_ENDPOINT is set, or whoever embeds the server hands over a tracer.
"""

import os
from typing import TYPE_CHECKING, Any

from foreword.errors import ForewordError

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def tracer() -> "Tracer | None":
    """One that exports where the environment says; None where it says nothing."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ForewordError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, and spans need more: pip install 'foreword[otel]'"
        ) from None
    name = os.environ.get("OTEL_SERVICE_NAME", "foreword")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("foreword.serve")


def begin(tracer: "Tracer | None", operation: str, model: str, key: str, **request: object) -> "Span | None":
    """A span for one call; `request` are attributes under gen_ai.request."""
    if tracer is None:
        return None
    from opentelemetry.trace import SpanKind

    attributes: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "foreword",
        "gen_ai.request.model": model,
        "gen_ai.response.model": key,
        **{f"gen_ai.request.{name}": value for name, value in request.items() if value is not None},
    }
    return tracer.start_span(f"{operation} {model}", kind=SpanKind.SERVER, attributes=attributes)


def end(span: "Span | None", read: int, written: int, reasons: list[str], error: str | None) -> None:
    """Close it with what the call took."""
    if span is None:
        return
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("gen_ai.usage.input_tokens", read)
    span.set_attribute("gen_ai.usage.output_tokens", written)
    span.set_attribute("gen_ai.response.finish_reasons", reasons)
    if error is not None:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR))
    span.end()
