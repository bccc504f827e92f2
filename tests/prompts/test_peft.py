"""Prompts from PEFT and for PEFT, against PEFT itself; and folders from strangers."""

import copy
import json
import os
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny
from foreword.backbone import Backbone, Example
from foreword.errors import ForewordError, UsageError
from foreword.prompts import Prompt, SoftTokens
from foreword.prompts.peft import CONFIG, WEIGHTS, Adapter, Base, text_behind, write

with warnings.catch_warnings():  # PEFT uses names that transformers is about to drop
    warnings.simplefilter("ignore")
    import peft

P, TEXT = 5, "a quiet film, silly and generous; what is the sentiment?"
CONFIGS: dict[str, Any] = {
    "PROMPT_TUNING": peft.PromptTuningConfig,
    "P_TUNING": peft.PromptEncoderConfig,
    "MULTITASK_PROMPT_TUNING": peft.MultitaskPromptTuningConfig,
    "PREFIX_TUNING": peft.PrefixTuningConfig,
    "CARTRIDGE": peft.CartridgeConfig,
}
PLAIN = {"MULTITASK_PROMPT_TUNING": {"num_tasks": 3, "num_ranks": 2}, "CARTRIDGE": {"num_frozen_tokens": 2}}
LSTM = {"encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 7, "encoder_num_layers": 3}
CASES = [
    *((family, kind, PLAIN.get(kind, {})) for family in tiny.FAMILIES for kind in CONFIGS),
    ("llama", "P_TUNING", LSTM),
    ("llama", "P_TUNING", {"encoder_hidden_size": 7}),
    ("llama", "PREFIX_TUNING", {"prefix_projection": True, "encoder_hidden_size": 7}),
]


backbone = cache(tiny.backbone)


def base(ours: Backbone) -> Base:
    heads = ours.model.config.num_attention_heads
    return Base(ours.name, None, ours.fingerprint, ours.dimension, heads, ours.cache_shape)


def plain(ours: Backbone) -> Any:
    """The same model as transformers runs it."""
    model = copy.deepcopy(ours.model)
    model.set_attn_implementation("eager")
    return model


def here(ours: Backbone, prompt: Prompt) -> Tensor:
    """Log-probabilities of the text's tokens but the first, then of every token that could come next [T - 1 + V]."""
    ids = ours.encode(prompt, {"text": TEXT}).ids
    text = ids[P:].tolist()
    assert text == ours.tokenizer.encode(TEXT), "virtual tokens stand before everything"
    words = tuple((token,) for token in range(len(ours.tokenizer)))
    with torch.no_grad():
        rows = [Example(ids[P : P + 1], (tuple(text[1:]),)), Example(ids[P:], words)]
        return ours.log_probs(rows, ids[:P], ours.vectors(prompt))


def there(ours: Backbone, model: Any, task: int | None) -> Tensor:
    """The same from PEFT."""
    ids = torch.tensor([ours.tokenizer.encode(TEXT)])
    tasks = {} if task is None else {"task_ids": torch.tensor([task])}
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **tasks).logits[0, -ids.shape[1] :]
    found = torch.log_softmax(logits.float(), -1)
    return torch.cat([found[:-1].gather(1, ids[0, 1:, None])[:, 0], found[-1]])


@pytest.mark.filterwarnings("ignore")  # PEFT's own
@pytest.mark.parametrize(("family", "kind", "options"), CASES)
def test_both_ways_with_the_logits_of_peft(family: str, kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    ours = backbone(family)
    task = 1 if kind == "MULTITASK_PROMPT_TUNING" else None
    wide = {} if kind in ("PREFIX_TUNING", "CARTRIDGE") else {"token_dim": ours.dimension}  # OPT: PEFT guesses wrong
    torch.manual_seed(1)
    learned = peft.get_peft_model(
        plain(ours), CONFIGS[kind](task_type="CAUSAL_LM", num_virtual_tokens=P, **options, **wide)
    ).eval()
    if task is not None:  # as far from nothing as after training
        for parameter in learned.prompt_encoder.parameters():
            torch.nn.init.normal_(parameter)
    learned.save_pretrained(tmp_path / "theirs")

    adapter = Adapter.read(tmp_path / "theirs", task)
    assert adapter.trained_parameters == learned.get_nb_trainable_parameters()[0]
    prompt = Prompt("mine", adapter.body, soft=adapter.soft(base(ours)))
    assert prompt.body == "{{ virtual(5) }}{{ text }}"
    mine = here(ours, prompt)
    assert (mine - there(ours, learned, task)).abs().max() < 1e-4

    assert write(prompt, tmp_path / "ours", base(ours), kind) == kind
    again = peft.PeftModel.from_pretrained(plain(ours), tmp_path / "ours").eval()
    assert (mine - there(ours, again, None if task is None else 0)).abs().max() < 1e-4
    again.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / WEIGHTS).read_bytes() == (tmp_path / "ours" / WEIGHTS).read_bytes()
    assert (tmp_path / "saved" / CONFIG).read_bytes() == (tmp_path / "ours" / CONFIG).read_bytes()


LLAMA = Base("tiny", "models/tiny", "f" * 64, 32, 4, (3, 2, 8))
FIELDS: dict[str, Any] = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 2}
PREFIX = FIELDS | {"peft_type": "PREFIX_TUNING"}
SHARED = np.arange(64, dtype=np.float32).reshape(2, 32)
MULTI = FIELDS | {"peft_type": "MULTITASK_PROMPT_TUNING", "num_tasks": 2, "num_ranks": 3}
TASKS = {
    "prompt_embeddings": SHARED,
    "prefix_task_cols": np.ones((2, 2, 3), np.float32),
    "prefix_task_rows": np.ones((2, 3, 32), np.float32),
}


def folder(at: Path, fields: object = FIELDS, tensors: Any = None) -> Path:
    at.mkdir(exist_ok=True)
    (at / CONFIG).write_bytes(fields if isinstance(fields, bytes) else json.dumps(fields).encode())
    data = tensors if isinstance(tensors, bytes) else save(tensors or {"prompt_embeddings": SHARED})
    (at / WEIGHTS).write_bytes(data)
    return at


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_is_read_as_what_it_stands_for(dtype: torch.dtype, tmp_path: Path) -> None:
    vectors = torch.randn(2, 32).to(dtype)
    save_file({"prompt_embeddings": vectors}, folder(tmp_path) / WEIGHTS)
    assert torch.equal(torch.from_numpy(Adapter.read(tmp_path).soft(LLAMA).embeddings), vectors.float())


def changed(**fields: object) -> dict[str, Any]:
    return FIELDS | fields


@pytest.mark.parametrize(
    ("fields", "tensors", "why"),
    [
        (changed(peft_type="LORA"), None, "'peft_type': 'LORA', that is not a prompt; what can be read: PROMPT_TUNING"),
        (changed(peft_type=None), None, "'peft_type': None, that is not a prompt"),
        (changed(peft_type=["LORA"]), None, "'peft_type': a list"),
        (changed(peft_type="CPT"), None, "context-aware"),
        (changed(task_type="SEQ_2_SEQ_LM"), None, "'task_type': 'SEQ_2_SEQ_LM', a prompt for an encoder and a decoder"),
        (changed(num_transformer_submodules=2), None, "'num_transformer_submodules': 2, a prompt for an encoder and"),
        (changed(task_type="SEQ_CLS"), None, "'task_type': 'SEQ_CLS', a prompt for another head"),
        (changed(num_virtual_tokens="2"), None, "'num_virtual_tokens': '2', Input should be a valid integer"),
        (changed(num_virtual_tokens=True), None, "'num_virtual_tokens': True"),
        (changed(num_virtual_tokens=0), None, "'num_virtual_tokens': 0"),
        (changed(num_virtual_tokens=4097), None, "'num_virtual_tokens': 4097"),
        ({"peft_type": "P_TUNING"}, None, "'num_virtual_tokens': None, Field required"),
        (changed(num_virtual_tokens=3), None, r"'prompt_embeddings' is \[2, 32\] where .* says \[3, 32\]"),
        (changed(token_dim=64), None, r"'prompt_embeddings' is \[2, 32\] where .* says \[2, 64\]"),
        (changed(peft_type="CARTRIDGE", num_frozen_tokens=3), None, "'num_frozen_tokens': 3, more than"),
        (changed(base_model_name_or_path=7), None, "'base_model_name_or_path': 7"),
        ([FIELDS], None, "no JSON object"),
        (b"{", None, "no JSON"),
        (b"\xff\xfe", None, "no JSON"),
        (b"[" * 99_999, None, "no JSON"),
        (b'{"num_virtual_tokens": ' + b"9" * 9_999 + b"}", None, "no JSON"),
        (b" " * 100_001, None, "100,001 bytes, 100,000 at most"),
        (FIELDS, b"", "no safetensors file"),
        (FIELDS, b"\xff" * 99, "no safetensors file"),
        (FIELDS, {"other": SHARED}, "lacks the tensor 'prompt_embeddings'"),
        (FIELDS, {"prompt_embeddings": SHARED, "score.weight": SHARED}, "'score.weight', which is no part of a prompt"),
        (FIELDS, {"prompt_embeddings": SHARED[0]}, r"is \[32\] where .* says \[2, 32\]"),
        (FIELDS, {"prompt_embeddings": SHARED[None]}, r"is \[1, 2, 32\] where"),
        (FIELDS, {"prompt_embeddings": SHARED[:, :0]}, r"is \[2, 0\]"),
        (FIELDS, {"prompt_embeddings": np.array(1, np.float32)}, r"is \[\] where"),
        (FIELDS, {"prompt_embeddings": SHARED.astype(np.float64)}, "is F64; save it as F32, BF16 or F16"),
        (FIELDS, {"prompt_embeddings": SHARED.astype(np.int32)}, "is I32"),
        (FIELDS, {"prompt_embeddings": SHARED * np.nan}, "'prompt_embeddings' holds NaN"),
        (FIELDS, {"prompt_embeddings": np.full((2, 32), np.inf, np.float16)}, "NaN or infinity"),
        (FIELDS, {"prompt_embeddings": SHARED[:, :16].copy()}, r"\[2, 16\] where the backbone 'tiny' takes \[2, 32\]"),
        (PREFIX, None, r"\[2, 32\] where the backbone 'tiny' takes \[2, 96\]"),
        (
            PREFIX | {"num_layers": 2, "base_model_name_or_path": "big"},
            {"prompt_embeddings": np.ones((2, 96), np.float32)},
            "'num_layers': 2 where the backbone 'tiny' takes 3.*; the folder names 'big'",
        ),
        (
            PREFIX | {"num_layers": 3, "token_dim": 16, "num_attention_heads": 4},
            {"prompt_embeddings": np.ones((2, 96), np.float32)},
            "'num_attention_heads': 4 where the backbone 'tiny' takes 2; give the backbone",
        ),
        (MULTI, None, "lacks the tensor 'prefix_task_cols'"),
        (MULTI | {"num_ranks": 2}, TASKS, r"'prefix_task_cols' is \[2, 2, 3\] where .* says \[2, 2, 2\]"),
        (MULTI, TASKS | {"prefix_task_rows": TASKS["prefix_task_rows"] * np.float32(3e38)}, "product for task 1"),
    ],
)  # fmt: skip
def test_a_strangers_folder_is_refused_by_name_and_reason(fields: Any, tensors: Any, why: str, tmp_path: Path) -> None:
    task = 1 if isinstance(fields, dict) and fields["peft_type"].__class__ is str and "num_tasks" in fields else None
    with pytest.raises(ForewordError, match=why) as caught:
        Adapter.read(folder(tmp_path / "strange", fields, tensors), task).soft(LLAMA)
    assert str(tmp_path / "strange" / "adapter_") in str(caught.value)


def test_a_task_is_chosen_where_there_are_several_and_only_there(tmp_path: Path) -> None:
    folder(tmp_path, MULTI, TASKS)
    for task, why in ((None, r"2 tasks; choose one: --task 0 to 1"), (2, "tasks 0 to 1"), (-1, "tasks 0 to 1")):
        with pytest.raises(UsageError, match=why):
            Adapter.read(tmp_path, task)
    assert np.array_equal(Adapter.read(tmp_path, 1).vectors, SHARED * 3)
    with pytest.raises(UsageError, match="holds one prompt"):
        Adapter.read(folder(tmp_path), 0)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ForewordError, match="'nowhere' is no folder"):
        Adapter.read(Path("nowhere"))
    made = folder(tmp_path / "made")
    linked = tmp_path / "linked"  # as in a hub cache
    linked.mkdir()
    for name in (CONFIG, WEIGHTS):
        (linked / name).symlink_to(made / name)
    assert np.array_equal(Adapter.read(linked).vectors, SHARED)
    for name in (CONFIG, WEIGHTS):
        strange = folder(tmp_path / f"strange-{name}")
        for replace, why in (
            (Path.exists, "no file"),
            (os.mkfifo, "no ordinary file"),
            (Path.mkdir, "directory|no ordinary file"),
            (lambda path: path.symlink_to("/dev/zero"), "no ordinary file"),
            (lambda path: path.symlink_to(path), "cannot read"),
        ):
            path = strange / name
            path.rmdir() if path.is_dir() else path.unlink()
            replace(path)
            with pytest.raises(ForewordError, match=why) as caught:
                Adapter.read(strange)
            assert name in str(caught.value)
            if not os.path.lexists(path):
                path.touch()
    pickled = folder(tmp_path / "pickled")
    (pickled / WEIGHTS).rename(pickled / "adapter_model.bin")
    with pytest.raises(ForewordError, match="pickle, which can run anything"):
        Adapter.read(pickled)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 16, 32, 48, 10**6, 10**30])


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([FIELDS, PREFIX, MULTI]),
    st.dictionaries(st.sampled_from([*json.loads(json.dumps(MULTI)), "token_dim", "num_layers", "num_attention_heads",
        "prefix_projection", "num_transformer_submodules", "encoder_hidden_size"]), ANYTHING | NUMBERS, max_size=2),
    st.integers(0, 400), st.binary(max_size=2),
)  # fmt: skip
def test_any_folder_is_read_or_refused_but_never_a_crash(
    fields: dict[str, Any], changes: dict[str, Any], place: int, patch: bytes
) -> None:
    tensors = {"prompt_embeddings": np.ones((2, 96), np.float32)} if fields is PREFIX else None
    data = save(TASKS) if fields is MULTI else save(tensors or {"prompt_embeddings": SHARED})
    with tempfile.TemporaryDirectory() as at:
        folder(Path(at), fields | changes, data[:place] + patch + data[place + len(patch) :])
        try:
            soft = Adapter.read(Path(at), 0 if fields is MULTI else None).soft(LLAMA)
        except ForewordError:
            return
        assert len(soft) == 2


def prompt(body: str = "{{ virtual(2) }}{{ text }}", method: str = "prompt-tuning", **tensors: np.ndarray) -> Prompt:
    soft = SoftTokens(tensors or {"embeddings": SHARED}, "tiny", "f" * 64, method, "r", 64)
    return Prompt("mine", body, soft=soft)


CACHE = np.zeros((3, 2, 2, 8), np.float32)


def test_each_method_becomes_its_type(tmp_path: Path) -> None:
    for method, kind in (("prompt-tuning", "PROMPT_TUNING"), ("p-tuning-lstm", "P_TUNING"), ("other", "PROMPT_TUNING")):
        assert write(prompt(method=method), tmp_path / method, LLAMA) == kind
    assert write(prompt(keys=CACHE, values=CACHE), tmp_path / "prefix", LLAMA) == "PREFIX_TUNING"
    text = (tmp_path / "prefix" / CONFIG).read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True)
    assert json.loads(text)["base_model_name_or_path"] == "models/tiny"
    assert set(load_file(tmp_path / "prefix" / WEIGHTS)) == {"prompt_embeddings"}


def test_what_peft_cannot_hold_is_refused_with_the_reason(tmp_path: Path) -> None:
    for refused, kind, why in (
        (Prompt("mine", "{{ text }}"), None, "'mine' is a hard prompt"),
        (Prompt("mine", "{{ virtual(2) }}{{ text }}"), None, "no vectors yet; tune it first"),
        (prompt(embeddings=SHARED, offsets=SHARED), None, "DePT"),
        (prompt("Review: {{ virtual(2) }}{{ text }}"), None, "virtual tokens behind other text"),
        (prompt(" {{ virtual(2) }}{{ text }}"), None, "virtual tokens behind other text"),
        (prompt("{{ virtual(1) }}{{ text }}{{ virtual(1) }}"), None, "virtual tokens behind other text"),
        (prompt(), "CARTRIDGE", r"--type 'CARTRIDGE': prompt 'mine' holds virtual tokens; choose one of \['PROMPT_"),
        (prompt(keys=CACHE, values=CACHE), "P_TUNING", r"holds keys and values; choose one of \['PREFIX_TUNING'"),
        (prompt(), "LORA", "--type 'LORA'"),
        (prompt(embeddings=SHARED[:, :16].copy()), None, "tuned on 'tiny' .*give the backbone"),
    ):
        with pytest.raises(ForewordError, match=why):
            write(refused, tmp_path / "out", LLAMA, kind)
    with pytest.raises(ForewordError, match=r"tuned on 'tiny' \(ffff.* this is 'tiny' \(aaaa"):
        write(prompt(), tmp_path / "out", Base("tiny", None, "a" * 64, 32, 4, (3, 2, 8)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("{{ virtual(2) }}{{ text }}", "{{ text }}"),
        ("\n{{- virtual(1)}}\n{{- virtual( 1 ) }} A: {{ text }}\nB: ", " A: {{ text }}\nB:"),
        ("{{ virtual(2) -}}\n\n{{ user() }}{{ text }}", "{{ user() }}{{ text }}"),
    ],
)
def test_the_text_behind_the_virtual_tokens_is_the_callers(body: str, text: str) -> None:
    assert text_behind(prompt(body)) == text
    ours, row = backbone("llama"), {"text": "a film"}
    assert ours.encode(prompt(body), row).ids[2:].tolist() == ours.encode(Prompt("rest", text), row).ids.tolist()


def test_only_a_prompt_of_pefts_is_written_over(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(prompt(method="p-tuning"), out, LLAMA)
    (out / "README.md").write_text("mine")
    write(prompt(), out, LLAMA)
    assert json.loads((out / CONFIG).read_text())["peft_type"] == "PROMPT_TUNING"
    assert {path.name for path in out.iterdir()} == {"README.md", CONFIG, WEIGHTS}
    (tmp_path / "empty").mkdir()
    write(prompt(), tmp_path / "empty", LLAMA)

    secret = tmp_path / "secret"
    secret.write_text("kept")
    (out / WEIGHTS).unlink()
    (out / WEIGHTS).symlink_to(secret)
    write(prompt(), out, LLAMA)
    assert (secret.read_text(), (out / WEIGHTS).is_symlink()) == ("kept", False)

    lora = folder(tmp_path / "lora", changed(peft_type="LORA"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    (tmp_path / "link").symlink_to("nowhere")
    for place, why in (
        (lora, "holds an adapter of type 'LORA'"),
        (other, "'thesis.txt', and no 'adapter_config.json'; choose a new folder"),
        (secret, "Not a directory"),
        (tmp_path / "link", "a link that leads nowhere"),
    ):
        with pytest.raises(ForewordError, match=why):
            write(prompt(), place, LLAMA)
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
