"""`foreword prompts push`, `pull`, `card`, `import` and `export` of other formats, as a user calls them."""

import json
from pathlib import Path
from typing import Any

from foreword.prompts import Prompt
from foreword.table import PromptTable

TINY = ("--backbone", "tiny", "--dtype", "float32")


def test_a_tuned_prompt_is_shared_with_its_card_and_fits_its_backbone_only(call: Any, project: Path) -> None:
    call("tune", "toy.yaml", *TINY, "--steps", 1, "--tokens", 2, "--start", "plain.prompt", "--name", "soft")
    call("compare", "toy.yaml", "plain.prompt", "soft", *TINY, "--out", "out")
    address = call("prompts", "push", "soft", "store", "--result", "out/result.json").stdout.strip()
    again = json.loads(call("prompts", "push", "soft", "store", "--json").stdout)
    assert (again["address"], again["new"]) == (address, False)
    card = (project / address / "card.md").read_text()
    assert "| **soft** | soft | accuracy " in card
    assert "| method | prompt-tuning |" in card

    refused = call("prompts", "pull", address, "--name", "theirs", "-b", "other", "--dtype", "float32")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "prompt 'soft' was learned on 'tiny' and does not fit 'other'; nothing was stored" in refused.stderr
    assert call("prompts", "pull", "store/soft:1", "--name", "theirs", "--alias", "prod", *TINY).stdout == "theirs:1\n"
    ended = json.loads(call("prompts", "pull", "store", "--name", "theirs", "--json").stdout)
    assert (ended["prompt"], ended["bundle"]["name"]) == ("theirs:1", "soft")
    mine, theirs = PromptTable.open().get("soft"), PromptTable.open().get("theirs@prod")
    assert theirs.digest == mine.replace(name="theirs").digest


def test_cards_of_stored_prompts_and_of_files(call: Any, project: Path) -> None:
    call("prompts", "add", "plain.prompt", "-m", "first | try")
    shown = call("prompts", "card", "plain").stdout
    assert shown.startswith("# plain\n")
    assert "| message | first \\| try |" in shown
    assert json.loads(call("prompts", "card", "plain", "--json").stdout) == {"prompt": "plain:1", "card": shown}
    assert call("prompts", "card", "plain.prompt", "--out", "card.md").stdout == ""
    assert "first" not in (project / "card.md").read_text()
    (project / "bad.json").write_text("[1]")
    (project / "worse.json").write_text("[")
    for arguments, code, why in (
        (("card", "plain", "--result", "bad.json"), 2, "no result of 'foreword compare'"),
        (("card", "plain", "--result", "worse.json"), 1, "is no JSON"),
        (("card", "plain", "--result", "none.json"), 1, "cannot read 'none.json'"),
        (("push", "plian", "store"), 2, "did you mean 'plain'?"),
        (("pull", "store"), 1, "there is no bundle at 'store'"),
        (("pull", "store", "--name", "No!"), 2, "prompt name 'No!'"),
    ):
        refused = call("prompts", *arguments)
        assert (refused.exit_code, refused.stdout) == (code, ""), arguments
        assert why in refused.stderr


def test_a_prompt_goes_to_other_programs_and_comes_back(call: Any, project: Path) -> None:
    (project / "chat.prompt").write_text("---\nname: chat\n---\n{{ system() }}Be kind.{{ user() }}{{ text }}\n")
    call("prompts", "add", "chat.prompt")
    for form, file in (("dotprompt", "chat.prompt"), ("langchain", "chat.json"), ("mlflow", "registry.json")):
        assert call("prompts", "export", "chat", file, "--format", form, "--force").stdout == f"{file}\n"
        assert call("prompts", "import", file).stdout == "chat:1\n", "the same prompt"
    assert call("prompts", "export", "chat", "chat.prompty").stdout == "chat.prompty\n", "its ending tells"
    for more in ((), ("--tag", "x")):
        imported = call("prompts", "import", "chat.prompty", "--name", "lines", "-m", "theirs", *more)
        assert imported.stdout == "lines:1\n"
    assert (
        imported.stderr
        == "lines:1 (unchanged): it says the same already; the message is dropped: a version keeps its own\n"
    )
    kept = PromptTable.open().find("lines")
    assert (kept.message, kept.tags) == ("theirs", ("x",))
    assert PromptTable.open().get("lines").body == "{{ system() }}Be kind.\n{{ user() }}{{ text }}"
    sent = json.loads(call("prompts", "export", "plain.prompt", "plain.txt", "--format", "fstring", "--json").stdout)
    assert sent["losses"] == ["'inputs'", "'output'"]
    assert (project / "plain.txt").read_text() == "Review: {text}\nSentiment:"
    assert "not kept: 'output'" in call("prompts", "export", "plain.prompt", "x.json", "--format", "openai").stderr

    unclear = call("prompts", "import", "plain.txt")
    assert (unclear.exit_code, unclear.stdout) == (2, "")
    assert "say which it is: --format" in unclear.stderr
    back = json.loads(call("prompts", "import", "plain.txt", "--format", "fstring", "--name", "two", "--json").stdout)
    assert back == {"prompt": "two:1", "new": True, "format": "fstring", "losses": []}
    assert PromptTable.open().get("two").body == Prompt.load("plain.prompt").body
    assert PromptTable.open().list("two")[0].message == "from fstring, plain.txt"

    front = "---\nmodel: {configuration: {api_key: sk-abcdefgh}}\n---\n"
    (project / "bad.prompty").write_text(front + "{% import 'os' as os %}")
    for arguments, code, why in (
        (("import", "bad.prompty"), 1, "'bad.prompty' as prompty: prompt 'bad', line 1: 'import' is not part"),
        (("import", "none.json"), 1, "there is no file 'none.json'"),
        (("import", "bad.prompty", "--format", "pickle"), 2, "there is no format 'pickle'"),
        (("export", "chat", "x.txt", "--format", "text"), 1, "a turn cannot be written in plain text"),
        (("import", str(project)), 2, "give it one with --name"),
        (("export", "chat", "chat.prompty"), 2, "'chat.prompty' is there already; --force writes over it"),
        (("export", "chat", "chat.new.json"), 2, "does not say which format it shall be: --format dotprompt|fstring"),
        (
            ("export", "chat", "folder"),
            1,
            "is a hard prompt and PEFT holds virtual tokens only; give a soft prompt, or",
        ),
        (("export", "chat", "folder"), 1, "another format: --format dotprompt|fstring|"),
    ):
        refused = call("prompts", *arguments)
        assert (refused.exit_code, refused.stdout) == (code, ""), arguments
        assert why in refused.stderr
        assert "sk-abc" not in refused.stderr
    assert not (project / "x.txt").exists()


def test_a_message_and_tags_travel_and_more_are_added(call: Any, project: Path) -> None:
    (project / "style.prompt").write_text("Be kind.")
    (project / "top.prompt").write_text('{% include "style" %} {{ text }}')
    for name in ("style", "top"):
        call("prompts", "add", f"{name}.prompt", "--tag", "mail", "-m", f"their {name}")
    address = call("prompts", "push", "top", "store").stdout.strip()
    for extra, tags, message in (((), ("mail",), "their top"), (("--tag", "x", "-m", "mine"), ("mail", "x"), "mine")):
        file = f"{len(tags)}.db"
        pulled = call("prompts", "pull", "store/top", "--table", file, *extra)
        assert (pulled.stdout, pulled.stderr) == ("top:1\n", "with style:1, which it includes\n")
        kept = PromptTable.open(file).find("top")
        assert (kept.tags, kept.message, kept.origin["pulled from"]) == (tags, message, address)
        assert PromptTable.open(file).find("style").message == f"included by top, pulled from {address}"
    again = call("prompts", "pull", "store/top", "--table", file)
    assert (again.stdout, again.stderr) == ("top:1\n", "top:1 (unchanged): it says the same already\n")
    assert "'store' holds no 'tpo'; did you mean 'top'" in call("prompts", "pull", "store/tpo").stderr
