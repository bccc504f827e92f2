"""The engine against PEFT, which switches adapters per request. Knows PEFT; knows no HTTP.

PEFT ignores `adapter_names` for prompt learning, so that all rows of a call have one adapter. `peft` answers requests
in their order, one by one, as a server must that switches; `grouped` is kinder than that: it knows all requests
beforehand and puts those of one adapter into one batch. PEFT gives no positions to the model, so that padding would
move them: the rows of a batch are of one length here.
"""

import argparse
import asyncio
import copy
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from serve_parts import Row, at_once, in_turn, rates, ratio, request, soft

from foreword.backbone import Backbone
from foreword.prompts import Prompt
from foreword.serve.engines.local import LocalEngine
from foreword.serve.engines.seam import Request

PROMPTS, ROWS, TOKENS, WRITE = 16, 32, 16, 16


async def peft(backbone: Backbone, options: argparse.Namespace) -> list[Row]:
    """Thirty-two requests over sixteen prompts in turn: the same prompts, rows and tokens on all sides."""
    prompts = [soft(backbone, i, TOKENS) for i in range(PROMPTS)]
    requests = [request(prompts[i % PROMPTS], 10 + i, WRITE) for i in range(ROWS)]
    engine, adapters = LocalEngine(backbone), Adapters(backbone, prompts)
    written: dict[str, list[tuple[int, ...]]] = {}

    async def ours() -> float:
        rate, said = await at_once(engine, requests)
        written["ours"] = [one.ids for one in said]
        return rate

    def theirs(name: str, groups: Iterable[Sequence[int]]) -> float:
        began, found = time.perf_counter(), dict[int, tuple[int, ...]]()
        for group in groups:
            found |= zip(group, adapters.generate([requests[i] for i in group]), strict=True)
        written[name] = [found[i] for i in range(ROWS)]
        return ROWS * WRITE / (time.perf_counter() - began)

    alone = [[i] for i in range(ROWS)]
    together = [range(i, ROWS, PROMPTS) for i in range(PROMPTS)]
    found = await in_turn(
        options.rounds,
        ours=ours,
        peft=lambda: asyncio.to_thread(theirs, "peft", alone),
        grouped=lambda: asyncio.to_thread(theirs, "grouped", together),
    )
    await engine.close(5)
    if backbone.dtype == torch.float32:
        assert written["ours"] == written["peft"] == written["grouped"], "the sides do not write the same"
    grouped = rates(found, "ours", "grouped")
    return [
        {
            **rates(found, "ours", "peft"),
            "goal": 5,
            "tokens_per_s_grouped": grouped["tokens_per_s_grouped"],
            "ratio_grouped": ratio(found["ours"], found["grouped"]),
            "same_tokens": written["ours"] == written["peft"] == written["grouped"],
        }
    ]


class Adapters:
    """All prompts as prompt-tuning adapters of one PeftModel."""

    def __init__(self, backbone: Backbone, prompts: Sequence[Prompt]) -> None:
        self._backbone, self._active = backbone, ""
        with warnings.catch_warnings():  # PEFT uses names that transformers is about to drop
            warnings.simplefilter("ignore")
            from peft import PromptTuningConfig, get_peft_model

            plain: Any = copy.deepcopy(backbone.model)
            plain.set_attn_implementation("sdpa")
            config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS, inference_mode=True)
            self._model = get_peft_model(plain, config, adapter_name=prompts[0].name)
            for prompt in prompts[1:]:
                self._model.add_adapter(prompt.name, config)
        for prompt in prompts:
            weight, vectors = self._model.prompt_encoder[prompt.name].embedding.weight, backbone.vectors(prompt)
            assert vectors.embeddings is not None
            weight.data = vectors.embeddings.to(weight)
        self._model.eval()
        self._with_a_cache()

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        """New tokens of requests for one prompt; as a server does it, templates and tokenizing included."""
        name = requests[0].prompt.name
        if name != self._active:
            self._model.set_adapter(name)
            self._active = name
        rows = [self._backbone.encode(r.prompt, r.inputs).ids[TOKENS:] for r in requests]
        ids = torch.from_numpy(np.stack(rows)).to(self._backbone.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            new = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=WRITE,
                do_sample=False,
                pad_token_id=0,
            )
        return [tuple(row[-WRITE:]) for row in new.tolist()]

    def _with_a_cache(self) -> None:
        """Call the cache what PEFT looks for: transformers 5.24 has renamed it, and PEFT 0.21 then puts the prompt in
        anew before every token, which is slow and wrong."""
        before, after = self._model.base_model_prepare_inputs_for_generation, self._model.prepare_inputs_for_generation

        def theirs(*args: Any, **kwargs: Any) -> dict[str, Any]:
            return _renamed(before(*args, **kwargs), "cache", "past_key_values")

        def ours(*args: Any, **kwargs: Any) -> dict[str, Any]:
            return _renamed(after(*args, **kwargs), "past_key_values", self._backbone.embedder.takes_cache)

        self._model.base_model_prepare_inputs_for_generation = theirs
        self._model.prepare_inputs_for_generation = ours


def _renamed(given: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if name == old else name: value for name, value in given.items()}
