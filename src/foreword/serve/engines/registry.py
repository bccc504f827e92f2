"""Engines by name: those built in, and those that other packages add. Imports none of them before it is asked for.

A package adds an engine by an entry point in the group `foreword.engines`, which leads to a `MakeEngine`. Knows how
engines are made; knows no requests and no HTTP.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from foreword.backbone import BUILT_IN_BACKBONES, Backbone, built_in_folder
from foreword.errors import ForewordError, UsageError
from foreword.listen import SILENT, Listener
from foreword.registry import Registry
from foreword.serve.engines.seam import Engine


class MakeEngine(Protocol):
    """Makes an engine, and the part of its backbone that encodes and checks requests in this process."""

    def __call__(
        self, backbone: str, dtype: str, options: Mapping[str, Any], listener: Listener
    ) -> tuple[Backbone, Engine]:
        """An engine on the model `backbone`: a built-in name, a folder, a `.gguf` file or a hub id.

        `dtype` is `auto`, `float32` or `bfloat16`; `options` are the engine's own. Raises UsageError for options that
        it does not have, ForewordError where it does not start. `listener` hears what is loaded, and how it will run.
        """
        ...


def make_engine(
    engine: str,
    backbone: str,
    dtype: str = "auto",
    options: Mapping[str, Any] | None = None,
    listener: Listener = SILENT,
) -> tuple[Backbone, Engine]:
    """The engine of this name on the model `backbone`. Raises as `check_engine` and its `MakeEngine` do."""
    check_engine(engine)
    return ENGINES[engine](backbone, dtype, options or {}, listener)


def check_engine(engine: str) -> None:
    """Raises UsageError, which lists the engines that there are, where none has this name. Imports none."""
    if engine not in ENGINES:
        raise UsageError(f"engine {engine!r}: choose one of {', '.join(sorted(ENGINES))}")


def _local(backbone: str, dtype: str, options: Mapping[str, Any], listener: Listener) -> tuple[Backbone, Engine]:
    from foreword.jobs import load_backbone
    from foreword.serve.engines.local import LocalEngine

    for name in options:
        raise UsageError(f"engine option {name!r}: the engine 'local' has none; 'vllm' has vLLM's engine arguments")
    loaded = load_backbone(backbone, dtype, listener)
    return loaded, LocalEngine(loaded)


def _vllm(backbone: str, dtype: str, options: Mapping[str, Any], listener: Listener) -> tuple[Backbone, Engine]:
    from foreword.jobs import begin_loading, dtype_name

    begin_loading(backbone, listener)
    try:
        from foreword.serve.engines.vllm.vllm_engine import VllmEngine
    except ImportError as error:
        raise ForewordError(
            f"--engine vllm needs vLLM 0.32 in an environment of its own ({error}): "
            "python -m venv vllm && vllm/bin/pip install 'foreword[vllm]', and vllm/bin/foreword serve --engine vllm; "
            "for a machine without a GPU see docs/how-to/gpu.md"
        ) from error
    loaded = Backbone.load(backbone, dtype, listener, layers=False)
    source = str(built_in_folder(backbone)) if backbone in BUILT_IN_BACKBONES else backbone
    engine = VllmEngine(loaded, source, options=options)
    listener.say(f"Backbone {loaded.name}: {dtype_name(loaded.dtype)}, {engine.context:,} tokens, on vLLM.")
    return loaded, engine


ENGINES: Registry[MakeEngine] = Registry("foreword.engines", {"local": _local, "vllm": _vllm}, callable)
"""By name: what `foreword serve --engine` takes."""
