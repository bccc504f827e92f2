"""The prompt table against a plain dictionary, and against everything that can be wrong on a disk."""

import os
import random
import resource
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError

from foreword.errors import ForewordError, UsageError
from foreword.prompts import Input, Output, Prompt, SoftTokens
from foreword.table import PromptTable

Execute = Callable[..., int]


def soft_prompt(name: str = "soft", value: float = 0.5) -> Prompt:
    vectors = SoftTokens(
        {"embeddings": np.full((2, 4), value, np.float32)}, "tiny", "f" * 64, "prompt-tuning", "run-1", 8
    )
    return Prompt(name, "{{ virtual(2) }}{{ text }}", soft=vectors)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "prompts.db"


def test_it_behaves_like_a_dictionary_of_lists_over_many_random_steps(address: str) -> None:
    rng = random.Random(7)
    versions: dict[str, list[Prompt]] = {}
    aliases: dict[tuple[str, str], int] = {}
    for _ in range(60):
        table = PromptTable.open(address)  # nothing is kept in the object
        name = rng.choice(["ab", "a.b", "a-b"])
        alias = rng.choice([None, "prod", "staging"])
        known = versions.get(name, [])
        if rng.random() < 0.5 or not known:
            prompt = rng.choice(
                [Prompt(name, "hard"), Prompt(name, "{{ text }}"), soft_prompt(name), soft_prompt(name, 2)]
            )
            stored = table.put(prompt, alias)
            if not known or known[-1].digest != prompt.digest:
                known = versions.setdefault(name, [])
                known.append(prompt)
            assert (stored.version, stored.digest) == (len(known), prompt.digest)
            if alias:
                aliases[name, alias] = len(known)
        else:
            version = rng.randint(1, len(known))
            table.alias(name, alias or "prod", version)
            aliases[name, alias or "prod"] = version
    assert max(map(len, versions.values())) > 5
    for name, prompts in versions.items():
        assert table.get(name).digest == table.get(f"{name}@latest").digest == prompts[-1].digest
        for version, prompt in enumerate(prompts, 1):
            assert table.get(f"{name}:{version}").digest == prompt.digest
        listed = table.list(name)
        assert [(row.ref, row.digest) for row in listed] == [
            (f"{name}:{version}", prompts[version - 1].digest) for version in range(len(prompts), 0, -1)
        ]
        for row in listed:
            theirs = sorted(alias for (who, alias), version in aliases.items() if (who, version) == (name, row.version))
            assert row.aliases == tuple(theirs)
    for (name, alias), version in aliases.items():
        assert table.get(f"{name}@{alias}").digest == versions[name][version - 1].digest
    assert [(row.name, row.version) for row in table.list()] == [
        (name, len(versions[name])) for name in sorted(versions)
    ]


def test_everything_about_a_prompt_comes_back(table: PromptTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    prompt = soft_prompt("sentiment").replace(
        inputs={"text": Input(maxLength=4000)}, output=Output(choices=("no", "yes")), description="Is it näce?\n"
    )
    stored = table.put(prompt, alias="prod", message="first é\udcff\0")
    again = table.get("sentiment@prod")
    assert again.soft is not None
    assert prompt.soft is not None
    assert np.array_equal(again.soft.embeddings, prompt.soft.embeddings)
    assert (again.inputs, again.output, again.description) == (prompt.inputs, prompt.output, prompt.description)
    assert again.digest == prompt.digest == stored.digest
    assert stored == table.list("sentiment")[0]
    assert (stored.ref, stored.kind, stored.virtual_tokens, stored.aliases) == ("sentiment:1", "soft", 2, ("prod",))
    assert (stored.author, stored.message) == ("ada", "first é?")
    assert stored.created.tzinfo is UTC
    assert timedelta(0) <= datetime.now(UTC) - stored.created < timedelta(minutes=1)


def test_a_start_for_tuning_is_soft_and_has_no_vectors(table: PromptTable) -> None:
    assert table.put(Prompt("start", "{{ virtual(3) }}")).kind == "soft"
    assert table.get("start").soft is None
    assert table.put(Prompt("plain", "x")).kind == "hard"


@pytest.mark.parametrize(
    ("ref", "why"),
    [
        ("sentimant", "no prompt 'sentimant'; did you mean 'sentiment'.*stored prompts: other, sentiment"),
        ("zzz", "no prompt 'zzz'; stored prompts: other, sentiment"),
        ("sentiment:3", "no version 3; there are 1 to 2"),
        ("sentiment@prodd", "no alias 'prodd'; did you mean 'prod'.*its aliases: prod, staging"),
        ("other@prod", "no alias 'prod'; its aliases: none yet"),
    ],
)
def test_an_unknown_reference_is_answered_with_what_there_is(table: PromptTable, ref: str, why: str) -> None:
    table.put(Prompt("sentiment", "a"), alias="prod")
    table.put(Prompt("sentiment", "b"), alias="staging")
    table.put(Prompt("other", "b"))
    with pytest.raises(UsageError, match=why):
        table.get(ref)


def test_what_cannot_be_stored_or_moved_is_refused_before_anything_changes(table: PromptTable) -> None:
    with pytest.raises(UsageError, match="no prompt 'x'; stored prompts: none yet"):
        table.list("x")
    for alias in ("latest", "Prod", "1", "a b", ""):
        with pytest.raises(UsageError, match=r"alias|latest"):
            table.put(Prompt("x", "a"), alias=alias)
    with pytest.raises(ForewordError, match="at most"):
        table.put(Prompt("x", "a", description="d" * 60_000))  # could not be read again
    assert table.list() == []
    table.put(Prompt("x", "a"))
    with pytest.raises(UsageError, match="no version 2"):
        table.alias("x", "prod", 2)
    with pytest.raises(UsageError, match="version '0'"):
        table.alias("x", "prod", 0)
    with pytest.raises(UsageError, match="latest"):
        table.alias("x", "latest", 1)
    assert table.list("x")[0].aliases == ()


def test_the_database_itself_keeps_versions_as_they_are(table: PromptTable, execute: Execute) -> None:
    table.put(Prompt("x", "a"))
    for column in ("name", "version", "text", "digest", "kind", "virtual_tokens", "tensors", "fingerprint", "author",
                   "message", "created", "parent", "origin", "words"):  # fmt: skip
        with pytest.raises(DBAPIError, match="never changes"):
            execute(f"UPDATE prompts SET {column} = {column}")
    with pytest.raises(IntegrityError, match=r"(?i)unique"):
        execute("INSERT INTO prompts SELECT * FROM prompts")


def drop_trigger(address: str) -> str:
    return "DROP TRIGGER versions_never_change" + (" ON prompts" if "://" in address else "")


def test_an_altered_text_is_not_handed_out(table: PromptTable, address: str, execute: Execute) -> None:
    table.put(Prompt("x", "a"))
    execute(drop_trigger(address), "UPDATE prompts SET text = replace(text, 'a', 'b')")
    with pytest.raises(ForewordError, match="'x:1' is not what was stored"):
        table.get("x")


@pytest.mark.parametrize(("damage", "why"), [(b"", "altered"), (b"x" * 100, "altered"), (None, "missing")])
def test_altered_or_missing_vectors_are_named_and_mended_by_storing_again(
    path: Path, damage: bytes | None, why: str
) -> None:
    table = PromptTable.open(path)
    table.put(soft_prompt())
    (file,) = (path.parent / "tensors").iterdir()
    whole = file.read_bytes()
    assert file.name == f"{soft_prompt().soft.digest}.safetensors"  # type: ignore[union-attr]
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    with pytest.raises(ForewordError, match=f"vectors of 'soft:1' are {why}.*{file.name}"):
        table.get("soft")
    assert table.put(soft_prompt()).version == 1
    assert table.get("soft").digest == soft_prompt().digest
    assert file.read_bytes() == whole


@pytest.mark.parametrize("damage", ["UPDATE prompt_tensors SET data = 'x'", "DELETE FROM prompt_tensors"])
@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
def test_a_servers_vectors_are_in_its_database_and_mended_by_storing_again(
    table: PromptTable, execute: Execute, tmp_path: Path, damage: str
) -> None:
    table.put(soft_prompt())
    table.put(soft_prompt("other"))
    assert not (tmp_path / "home").exists()
    assert execute(damage) == 1, "equal bytes are kept once"
    with pytest.raises(ForewordError, match=r"vectors of 'soft:1' are (not what was stored|missing)"):
        table.get("soft")
    assert table.put(soft_prompt()).version == 1
    assert table.get("soft").digest == soft_prompt().digest


def test_a_version_number_taken_by_another_writer_is_tried_again(path: Path) -> None:
    """SQLite's lock rules this out, so here the database is told to report a clash, as a server would."""
    table = PromptTable.open(path)
    clashes = iter([1, 1, 1])
    event.listen(
        table._database._engine,
        "connect",
        lambda connection, _: connection.create_function("clash", 0, lambda: next(clashes, 0)),
    )
    database = sqlite3.connect(path)
    database.execute(
        "CREATE TRIGGER clash BEFORE INSERT ON prompts WHEN clash() BEGIN SELECT RAISE(ABORT, 'UNIQUE failed'); END"
    )
    database.close()
    assert table.put(Prompt("x", "a"), alias="prod").aliases == ("prod",)
    assert next(clashes, None) is None
    clashes = iter([1] * 100)
    with pytest.raises(ForewordError, match="kept taking the next version of 'x'"):
        table.put(Prompt("x", "b"))
    assert [row.ref for row in table.list("x")] == ["x:1"]


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow past 64 KiB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_full_disk_loses_nothing_that_was_stored(path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    table = PromptTable.open(path)
    table.put(Prompt("x", "a"))
    vectors = SoftTokens({"embeddings": np.ones((100, 500), np.float32)}, "tiny", "f", "m", "r", 8)
    large = Prompt("x", "{{ virtual(100) }}", soft=vectors) if kind == "soft" else Prompt("x", "a" * 190_000)
    request.getfixturevalue("small_disk")
    with pytest.raises(ForewordError, match=r"(?i)cannot (use|write).*free (some )?space"):
        table.put(large)
    assert table.put(Prompt("x", "b")).version == 2
    assert [row.ref for row in table.list("x")] == ["x:2", "x:1"]
    assert not list(path.parent.glob("tensors/*"))


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that this user can read and not write; for root, who can write anywhere, as another user."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        PromptTable.open(folder / "prompts.db").put(Prompt("x", "a"))
        for file in folder.iterdir():
            file.chmod(0o444)
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65_534)
        yield folder
        os.seteuid(user)
        folder.chmod(0o755)


def test_a_read_only_folder_is_said_to_be_one(read_only: Path) -> None:
    with pytest.raises(ForewordError, match=r"unable to open.*choose another place"):
        PromptTable.open(read_only / "new.db")
    with pytest.raises(ForewordError, match=r"cannot make a folder.*choose another place"):
        PromptTable.open(read_only / "new" / "prompts.db")
    with pytest.raises(ForewordError, match=r"(unable to open|readonly).*choose another place"):
        PromptTable.open(read_only / "prompts.db").put(Prompt("x", "b"))


def test_a_current_table_opens_fast(path: Path) -> None:
    PromptTable.open(path)
    seconds = []
    for _ in range(5):
        begun = time.process_time()  # what else the machine does is not counted
        PromptTable.open(path)
        seconds.append(time.process_time() - begun)
    assert min(seconds) < 0.1


def test_without_an_address_it_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREWORD_HOME", str(tmp_path / "home"))
    PromptTable.open().put(soft_prompt())
    assert sorted(file.name for file in (tmp_path / "home").iterdir()) == ["prompts.db", "tensors"]
    assert PromptTable.open(f"sqlite:///{tmp_path}/home/prompts.db").get("soft").digest == soft_prompt().digest
