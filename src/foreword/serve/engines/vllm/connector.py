"""Learned keys and values on their way into vLLM's cache. Runs in vLLM's own processes, which make it by its name.

To the scheduler a prefix is the part of a prompt that another machine has computed already: its P placeholders cost
nothing but their room. To the worker it is a file, whose tensors go into the blocks that the scheduler has found.
"""

import logging
import multiprocessing
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
)
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.models.utils import extract_layer_index

from foreword.serve.engines.vllm.launch import end_with_the_server

log = logging.getLogger("vllm.foreword")


@dataclass(frozen=True)
class Load:
    """A prefix, or the rest of one, for one request."""

    name: str
    start: int
    """The first of its P places that is not in the cache."""
    end: int
    """P"""
    blocks: tuple[int, ...]
    """All blocks of the request, in order."""


@dataclass
class Loads(KVConnectorMetadata):  # type: ignore[misc]
    """What the scheduler tells the workers in one step."""

    loads: list[Load] = field(default_factory=list)


class PrefixConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """vLLM makes one for its scheduler and one in each worker."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        # A terminal's Ctrl-C goes to a whole group. The server alone is to hear it: it finishes what it has accepted.
        if multiprocessing.parent_process() is not None:
            os.setpgid(0, 0)
        if role is KVConnectorRole.SCHEDULER:  # workers end with its process
            end_with_the_server()
        folder = Path(self._kv_transfer_config.get_from_extra_config("folder", ""))
        self._block_size = vllm_config.cache_config.block_size
        self._dtype = vllm_config.model_config.dtype  # the cache may be of another, which the layer sees to
        self._pending: dict[str, tuple[str, int, int]] = {}
        self._layers: list[str] = []
        self._failed: set[int] = set()
        self._file = lru_cache(8)(lambda name: load_file(folder / f"{name}.safetensors"))

    # In the scheduler.

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """What of a prefix is not in the cache."""
        wanted = request.kv_transfer_params or {}
        return max(0, int(wanted.get("tokens", 0)) - num_computed_tokens), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:  # noqa: ARG002
        """There is room for it."""
        if num_external_tokens > 0:
            P = int(request.kv_transfer_params["tokens"])
            name = request.kv_transfer_params["prefix"]
            self._pending[request.request_id] = (name, P - num_external_tokens, P)

    def build_connector_meta(self, scheduler_output: Any) -> Loads:
        """The prefixes of those requests that run for the first time, or again after they were thrown out."""
        again = scheduler_output.scheduled_cached_reqs
        starting = [(new.req_id, new.block_ids) for new in scheduler_output.scheduled_new_reqs]
        starting += [
            (name, blocks)
            for name, blocks in zip(again.req_ids, again.new_block_ids, strict=True)
            if name in again.resumed_req_ids
        ]
        loads = Loads()
        for name, blocks in starting:
            if name in self._pending:
                loads.loads.append(Load(*self._pending.pop(name), tuple(blocks[0])))
        return loads

    # In the workers.

    def register_kv_caches(self, kv_caches: dict[str, Tensor]) -> None:
        """Which layers have keys and values."""
        self._layers = list(kv_caches)

    def start_load_kv(self, forward_context: Any, **_: Any) -> None:
        """Fill the blocks. A prefix that cannot be loaded fails its own request, and no other."""
        for load in self._get_connector_metadata().loads:
            try:
                self._fill(load, forward_context.no_compile_layers)
            except Exception:
                log.exception("a prefix could not be loaded")
                blocks = load.blocks[load.start // self._block_size : -(-load.end // self._block_size)]
                self._failed |= set(blocks)

    def _fill(self, load: Load, layers: Any) -> None:
        tensors, size = self._file(load.name), self._block_size
        places = range(load.start, load.end)
        slots = [load.blocks[i // size] * size + i % size for i in places]
        for name in self._layers:
            layer, number = layers[name], extract_layer_index(name)
            cache, H = layer.kv_cache, layer.num_kv_heads
            keys, values = (
                _heads(tensors[kind][number], H)[:, load.start : load.end].transpose(0, 1).to(cache.device, self._dtype)
                for kind in ("keys", "values")
            )
            where = torch.tensor(slots, device=cache.device)
            layer.impl.do_kv_cache_update(layer, keys.contiguous(), values.contiguous(), cache, where)

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks that hold nothing of use."""
        failed, self._failed = self._failed, set()
        return failed

    def wait_for_layer_load(self, layer_name: str) -> None:
        """They have been filled before the first layer runs."""

    def save_kv_layer(self, *_: Any, **__: Any) -> None:
        """Nothing is taken out."""

    def wait_for_save(self) -> None:
        """Nor waited for."""


def _heads(tensor: Tensor, ours: int) -> Tensor:
    """Those of [H, P, head_dim] that this process has, where several share a layer's heads."""
    ranks = get_tensor_model_parallel_world_size()
    first = get_tensor_model_parallel_rank() * len(tensor) // ranks
    return tensor[first : first + ours]
