"""Push and pull: what comes out is what went in, and nothing else gets in."""

import hashlib
import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreword.errors import ForewordError
from foreword.prompts import Input, Output, Prompt, SoftTokens
from foreword.table import PromptTable, bundle
from foreword.table.places import Place
from foreword.table.sharing import pull, push

VECTORS = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
SOFT = SoftTokens({"embeddings": VECTORS}, "tiny", "f" * 64, "prompt-tuning", "run-1", 16)
PROMPT = Prompt("mood", "{{ virtual(2) }}{{ text }}", {"text": Input()}, Output(choices=("a", "b")), SOFT, "Ä mood")
HARD = Prompt("plain", "Say {{ text }}")
RESULT = {
    "task": "toy",
    "backbone": "tiny",
    "test_rows": 20,
    "verdict": "mood wins.",
    "strategies": [
        {"name": "mood", "kind": "soft", "metrics": {"accuracy": {"value": 0.8, "low": 0.7, "high": 0.9}}, "rows": 5}
    ],
}


@pytest.fixture
def table(tmp_path: Path) -> PromptTable:
    made = PromptTable.open(tmp_path / "mine.db")
    made.put(PROMPT, alias="prod", message="from token=abcdefghijk at https://me:secret@host/x")
    return made


@pytest.fixture
def other(tmp_path: Path) -> PromptTable:
    return PromptTable.open(tmp_path / "other" / "theirs.db")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "folder":
        return str(tmp_path / "a store")
    name = f"store-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"
    if request.param == "memory":
        return f"memory://{name}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("server"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3").mkdir(f"s3://{name}")
    return f"s3://{name}/prompts"


def test_a_team_shares_versions_through_a_folder_memory_and_s3(
    table: PromptTable, other: PromptTable, store: str
) -> None:
    pushed = push(table, "mood@prod", store)
    assert pushed.new
    assert pushed.address == f"{store}/mood/1-{PROMPT.digest[:12]}"
    again = push(table, "mood", store)
    assert (again.new, again.manifest) == (False, pushed.manifest), "a push again changes nothing"

    pulled = pull(other, pushed.address, alias="staging")
    assert pulled.stored.ref == "mood:1"
    assert other.get("mood@staging").digest == PROMPT.digest
    assert pulled.stored.message == pushed.manifest.message
    assert pulled.stored.origin["pulled from"] == pushed.address
    assert pulled.stored.origin["pulled version"] == "mood:1"

    second = PROMPT.replace(description="better")
    table.put(second)
    push(table, "mood:2", store, RESULT)
    assert pull(other, f"{store}/mood").stored.ref == "mood:2", "the newest"
    assert other.get("mood:2").digest == second.digest
    assert pull(other, f"{store}/mood:1", name="old").stored.ref == "old:1"
    assert pull(other, store, name="mood").stored.ref == "mood:2", "a store of one prompt needs no name"
    table.put(HARD)
    push(table, "plain", store)
    with pytest.raises(ForewordError, match="holds 2 prompts: mood, plain; name one"):
        pull(other, store)
    for wrong, why in (
        ("mood:7", f"{store!r} holds no version 7 of 'mood'; its versions there: 1, 2"),
        ("mod", f"{store!r} holds no 'mod'; did you mean 'mood'? prompts there: mood, plain"),
        ("plian:1", f"{store!r} holds no 'plian'; did you mean 'plain'? prompts there: mood, plain"),
    ):
        with pytest.raises(ForewordError, match=f"^{re.escape(why)}$"):
            pull(other, f"{store}/{wrong}")
    with pytest.raises(ForewordError, match="there is no bundle at"):
        pull(other, f"{store}/none/at-all")

    place = Place(store)
    index = place.read("index.md", 10_000).decode()
    assert index.index(f"mood/2-{second.digest[:12]}/card.md") < index.index(f"mood/1-{PROMPT.digest[:12]}/card.md")
    card = place.read(f"mood/2-{second.digest[:12]}/card.md", 10_000).decode()
    assert "| **mood** | soft | accuracy 0.800 (0.700 to 0.900) | 5 |" in card
    assert place.names(f"mood/2-{second.digest[:12]}") == ["bundle.json", "card.md", "mood.prompt", "mood.safetensors"]

    pushed = push(table, "mood:1", store, RESULT)  # a card learns its scores later
    assert not pushed.new
    assert b"mood wins" in place.read(f"mood/1-{PROMPT.digest[:12]}/card.md", 10_000)
    assert pull(other, pushed.address).stored.ref == "mood:3"

    everything = b"".join(
        place.read(f"{folder}/{file}", 10**6)
        for folder in (f"mood/{name}" for name in place.names("mood"))
        for file in place.names(folder)
    )
    assert b"secret" not in everything
    assert b"abcdefghijk" not in everything


def test_a_version_is_never_overwritten(table: PromptTable, other: PromptTable, tmp_path: Path) -> None:
    store = tmp_path / "store"
    push(table, "mood", store)
    other.put(PROMPT.replace(description="another"))
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    with pytest.raises(ForewordError, match=r"holds another 'mood:1' already.*a version never changes"):
        push(other, "mood", store)
    assert before == {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    (store / "index.md").write_text("# My notes\n")
    table.put(HARD)
    push(table, "plain", store)
    assert (store / "index.md").read_text() == "# My notes\n", "somebody else's file stays"


@pytest.mark.parametrize(
    "body", ["key sk-abcdefghijklmnopqrstuvwx", "https://me:secret@host/", "-----BEGIN PRIVATE KEY-----"]
)
def test_a_prompt_with_a_key_in_it_is_not_pushed(table: PromptTable, tmp_path: Path, body: str) -> None:
    table.put(Prompt("leaky", f"line\n{body}"))
    with pytest.raises(ForewordError, match=r"line 5 of 'leaky:1' holds what looks like a key") as caught:
        push(table, "leaky", tmp_path / "store")
    assert body[-10:] not in str(caught.value)
    assert not (tmp_path / "store").exists()


def remade(folder: Path, **changes: Any) -> None:
    """Another manifest with a right sha256, as somebody with bad intent would write it."""
    path = folder / "bundle.json"
    fields = {**json.loads(path.read_text()), **changes}
    del fields["sha256"]
    path.write_bytes(bundle._written(fields))


def replaced(folder: Path, name: str, data: bytes) -> None:
    """Another file with a manifest that says so."""
    (folder / name).write_bytes(data)
    files = json.loads((folder / "bundle.json").read_text())["files"]
    remade(folder, files={**files, name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}})


def with_tensor(values: np.ndarray) -> bytes:
    data = SOFT.to_bytes()
    return data[: len(data) - values.nbytes] + values.tobytes()


NAN = np.full((2, 8), np.nan, np.float32)
LONG = {"sha256": "0" * 64, "size": 10**12}
FILE = {"sha256": "0" * 64, "size": 1}
ATTACKS: dict[str, tuple[Any, str]] = {
    "an altered prompt": (lambda f: (f / "mood.prompt").write_text("x"), "'mood.prompt' is not what"),
    "cut vectors": (lambda f: os.truncate(f / "mood.safetensors", 100), "'mood.safetensors' is not what"),
    "a missing file": (lambda f: (f / "mood.prompt").unlink(), "there is no"),
    "an altered manifest": (
        lambda f: (f / "bundle.json").write_text((f / "bundle.json").read_text().replace("from", "form")),
        "is altered",
    ),
    "a newer form": (lambda f: remade(f, foreword_bundle=2), "newer foreword"),
    "another schema": (lambda f: remade(f, extra=1), "no key 'extra'"),
    "a list": (lambda f: (f / "bundle.json").write_text("[]"), "is no manifest"),
    "deep JSON": (lambda f: (f / "bundle.json").write_text("[" * 90_000), "is no manifest"),
    "a huge manifest": (lambda f: (f / "bundle.json").write_bytes(b" " * 300_000), "larger than"),
    "a huge file": (lambda f: remade(f, files={"mood.prompt": LONG, "card.md": FILE}), "mood.prompt"),
    "a path up": (lambda f: remade(f, files={"../x.prompt": FILE}), "no file of a bundle"),
    "an absolute path": (lambda f: remade(f, files={"/etc/passwd": FILE}), "no file of a bundle"),
    "a name up": (lambda f: remade(f, name="../../x"), "is no name of a prompt"),
    "a name in Unicode": (lambda f: remade(f, name="mооd"), "is no name of a prompt"),
    "no card": (lambda f: remade(f, files={"mood.prompt": FILE}), "lists no 'card.md'"),
    "a pickle": (lambda f: replaced(f, "mood.safetensors", pickle.dumps({"a": 1})), "refused|not a soft"),
    "NaN": (lambda f: replaced(f, "mood.safetensors", with_tensor(NAN)), "NaN or infinity"),
    "other vectors": (lambda f: replaced(f, "mood.safetensors", with_tensor(VECTORS + 1)), "the 'digest'"),
    "another backbone": (lambda f: remade(f, fingerprint="e" * 64), "the 'fingerprint'"),
    "another name": (lambda f: replaced(f, "mood.prompt", b"---\nname: x\n---\n{{ virtual(2) }}"), "the 'name'"),
    "a template that calls": (
        lambda f: replaced(f, "mood.prompt", b"---\nname: mood\n---\n{{ virtual(2) }}{{ text.__class__() }}"),
        "cannot call",
    ),
    "YAML that makes objects": (
        lambda f: replaced(f, "mood.prompt", b"---\nname: !!python/object/apply:os.system [ls]\n---\n"),
        "no YAML",
    ),
    "no UTF-8": (lambda f: replaced(f, "mood.prompt", b"\xff"), "not UTF-8"),
    "a folder of another digest": (lambda f: f.rename(f.with_name("1-" + "0" * 12)), "another digest than its folder"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_does_not_fit_is_refused_before_anything_is_stored(
    table: PromptTable, other: PromptTable, tmp_path: Path, attack: str
) -> None:
    store = tmp_path / "store"
    folder = Path(push(table, "mood", store).address)
    change, why = ATTACKS[attack]
    change(folder)
    with pytest.raises(ForewordError, match=why):
        pull(other, f"{store}/mood")
    assert other.list() == []
    assert not list((tmp_path / "other").rglob("*.safetensors"))


def test_no_link_and_no_pipe_is_followed(table: PromptTable, other: PromptTable, tmp_path: Path) -> None:
    store = tmp_path / "store"
    folder = Path(push(table, "mood", store).address)
    outside = tmp_path / "outside"
    outside.mkdir()
    kept = (folder / "mood.prompt").read_bytes()
    (outside / "x").write_bytes(kept)
    (folder / "mood.prompt").unlink()
    (folder / "mood.prompt").symlink_to(outside / "x")
    with pytest.raises(ForewordError, match="is a link; links are not followed"):
        pull(other, store)
    (folder / "mood.prompt").unlink()
    os.mkfifo(folder / "mood.prompt")
    with pytest.raises(ForewordError, match="no ordinary file"):
        pull(other, store)
    (store / "plain").symlink_to(outside)
    table.put(HARD)
    with pytest.raises(ForewordError, match="is a link"):
        push(table, "plain", store)
    assert [path.name for path in outside.iterdir()] == ["x"]
    with pytest.raises(ForewordError, match="leads out of"):
        Place(store).read("../outside/x", 10)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("s3://me:hunter2hunter2@bucket/x", "holds a name or a password"),
        ("zip://x::/tmp/a.zip", "is no place for prompts"),
        ("simplecache::s3://x", "is no place for prompts"),
        ("https://me:hunter2hunter2@host/x", "is no place for prompts"),
        ("ftp://host", "is no place for prompts"),
        ("a\0b", "embedded null byte; check the address"),
    ],
)
def test_addresses_that_cannot_be_used_are_named_without_their_password(
    other: PromptTable, address: str, why: str
) -> None:
    with pytest.raises(ForewordError, match=why) as caught:
        pull(other, address)
    assert "hunter2" not in str(caught.value)


def test_a_check_of_the_caller_comes_before_the_table(table: PromptTable, other: PromptTable, tmp_path: Path) -> None:
    def refuse(prompt: Prompt) -> None:
        raise ForewordError(f"{prompt.name} does not fit")

    with pytest.raises(ForewordError, match="mood does not fit"):
        pull(other, push(table, "mood", tmp_path / "store").address, check=refuse)
    assert other.list() == []


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_bundle_with_any_byte_changed_is_refused(table: PromptTable, data: st.DataObject) -> None:
    files = bundle.build(PROMPT, table.list("mood")[0], "card")
    name = data.draw(st.sampled_from(sorted(files)))
    place = data.draw(st.integers(0, len(files[name]) - 1))
    byte = data.draw(st.integers(1, 255))
    changed = bytearray(files[name])
    changed[place] ^= byte
    altered = {**files, name: bytes(changed)}
    try:
        manifest = bundle.read_manifest(altered["bundle.json"], "b")
        assert bundle.read(manifest, lambda file, size: altered[file][: size + 1], "b").digest == PROMPT.digest
        assert json.loads(altered["bundle.json"]) == json.loads(files["bundle.json"]), "only blanks may change"
        assert altered == {**files, "bundle.json": altered["bundle.json"]}
    except ForewordError:
        pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()), st.data())
def test_no_manifest_breaks_the_reader(table: PromptTable, noise: bytes, data: st.DataObject) -> None:
    fields = json.loads(bundle.build(HARD, table.list("mood")[0], "card")["bundle.json"])
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(JSON)
    fields.pop("sha256", None)
    said = []
    for document in (noise, bundle._written(fields)):
        try:
            assert isinstance(bundle.read_manifest(document, "b"), bundle.Manifest)
        except ForewordError as error:
            said.append(str(error))
    assert all(len(text) < 500 for text in said)
