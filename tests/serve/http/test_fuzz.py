"""The HTTP surface, fuzzed from its own OpenAPI description: whatever is sent, the server does not fail."""

import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving import House, launch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    import schemathesis

EXAMPLES = 10
"""Of each route and kind."""


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = launch(tmp_path_factory.mktemp("fuzz"))
    yield house
    house.stop()


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_nothing_that_is_sent_makes_it_fail(fuzzed: House, mode: Any) -> None:
    surface = schemathesis.openapi.from_dict(fuzzed.ask("GET", "/openapi.json")[2])
    paths = set()
    codes = set()
    for found in surface.get_all_operations():
        operation = found.ok()
        paths.add(operation.path)

        @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
        def send(case: Any, known: bool) -> None:
            if isinstance(case.body, dict) and known:  # else nearly everything ends at an unknown name
                case.body |= {name: "echo" for name in ("model", "prompt") if isinstance(case.body.get(name), str)}
            reply = case.call(base_url=fuzzed.url)
            codes.add(reply.status_code)
            assert reply.status_code < 500, (case.as_curl_command(), reply.text)
            if reply.status_code >= 400:
                assert set(json.loads(reply.content)["error"]) == {"message", "type", "param", "code"}

        send()
    assert {"/v1/chat/completions", "/v1/completions", "/v1/classify", "/admin/load", "/v1/models/{model}"} <= paths
    assert {200, 400, 404} <= codes
