"""vLLM started beside this process, with the settings that Foreword must have, and ended with it. Knows no requests.

vLLM's own processes import this too, so it takes no more than it must.
"""

import dataclasses
import multiprocessing
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from foreword.errors import ForewordError, UsageError

if TYPE_CHECKING:
    from foreword.backbone import Backbone

ON_CPU = {
    "kv_cache_memory_bytes": 2 * 1024**3,
    "enforce_eager": True,  # a compiler is little help there, and takes minutes
    "block_size": 32,  # small ones are found again more often
}
"""What differs from vLLM's own defaults where there is no GPU."""
OTHERWISE = {
    "another model than the one whose embeddings are here": (
        "revision", "code_revision", "hf_config_path", "hf_overrides", "config_format", "model_class_overrides",
        "model_weights", "runner", "convert", "diffusion_config",
    ),
    "another tokenizer than the one whose tokens it is given": (
        "tokenizer", "tokenizer_revision", "tokenizer_mode", "skip_tokenizer_init",
    ),
    "a cache that prefixes do not reach": (
        "kv_offloading_size", "kv_offloading_backend", "prefill_context_parallel_size", "decode_context_parallel_size",
        "speculative_config", "spec_method", "spec_model", "spec_tokens",
    ),
    "a second queue behind Foreword's own": ("max_num_queued_reqs", "max_num_queued_tokens"),
}  # fmt: skip
"""Engine arguments that would go unnoticed and make answers wrong, by what they would give."""


def launch(backbone: "Backbone", source: str, prefixes: Path, options: Mapping[str, Any], figures: Any) -> Any:
    """An AsyncLLM on the model at `source`, of which `backbone` holds all but the layers. Takes seconds to minutes.

    `options` are vLLM's own engine arguments. Raises UsageError for those that it does not have, or that are ours to
    set; ForewordError where it does not start.
    """
    from vllm.config import KVTransferConfig, StructuredOutputsConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    ours: dict[str, Any] = {
        "model": source,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "trust_remote_code": False,
        "enable_prompt_embeds": True,
        "logprobs_mode": "raw_logprobs",  # scoring leaves one token to choose, which would be certain by any other
        "generation_config": "vllm",  # the model's own sampling settings give way, as everywhere
        "structured_outputs_config": StructuredOutputsConfig(backend="guidance"),
        "kv_transfer_config": KVTransferConfig(
            kv_connector="PrefixConnector",
            kv_connector_module_path="foreword.serve.engines.vllm.connector",
            kv_role="kv_consumer",
            kv_connector_extra_config={"folder": str(prefixes)},
        ),
        "scheduling_policy": "priority",  # by `FairPriority`
        "enable_log_requests": False,
        "use_tqdm_on_load": False,
        "disable_log_stats": True,  # those that it prints; `figures` has its own
    }
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    wrong = {name: f"would give {what}" for what, names in OTHERWISE.items() for name in names}
    for name in options:
        if name not in known or name in ours or name in wrong:
            why = "is set by Foreword" if name in ours else wrong.get(name, "is none of vLLM's engine arguments")
            raise UsageError(f"engine option {name!r} {why}; see docs.vllm.ai, 'Engine Arguments'")
    if not torch.cuda.is_available():
        # A first request for log-probabilities would wait for a C++ compiler, and fail where there is none.
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    given = {"enable_prefix_caching": True} | ({} if torch.cuda.is_available() else ON_CPU) | dict(options)
    try:
        args = AsyncEngineArgs(**ours, **given)
        return AsyncLLM.from_engine_args(args, stat_loggers=[lambda *_: figures])
    except Exception as error:  # pydantic's, torch's, and its own
        reason = " ".join(str(error).split())
        raise ForewordError(
            f"vLLM does not start on {backbone.name!r}: {reason:.400}. What its process wrote above may say more"
        ) from error


def end_with_the_server() -> None:
    """Called in a process of vLLM's, which would go on for good, and keep the GPU's memory from the next server."""
    server = multiprocessing.parent_process()
    if server is None:  # something else made this process, and looks after it
        return

    def wait() -> None:
        server.join()
        os._exit(1)

    threading.Thread(target=wait, name="foreword-orphans", daemon=True).start()
