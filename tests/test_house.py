"""The house holds: floors, public names, the file tree in the README, a fast --help."""

import ast
import re
import resource
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import foreword

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "foreword"
FLOORS = (
    {"budgets", "errors", "files", "downloads", "forms", "interrupts"}
    | {"listen", "packages", "redact", "registry", "yaml_text"},
    {"prompts", "tasks"},
    {"backbone", "table"},
    {"flows"},
    {"tuning"},
    {"evals"},
    {"optimization"},
    {"jobs"},
    {"serve"},
    {"cli"},
)


def test_no_room_imports_from_its_own_floor_or_above() -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    found = {path.stem if path.parent == SOURCE else path.relative_to(SOURCE).parts[0] for path in SOURCE.rglob("*.py")}
    assert found - {"__init__"} == set(floor), "a room without a floor, or a floor without its room"
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if names == ["foreword"]:
                names = [f"foreword.{alias.name}" for alias in node.names if alias.name in floor]
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                parts = name.split(".")
                if parts[0] != "foreword" or len(parts) == 1 or parts[1] == room:
                    continue
                ground = floor[parts[1]] == floor[room] == 0
                assert ground or floor[parts[1]] < floor[room], f"{path.relative_to(ROOT)} imports {name}"


def test_other_rooms_are_entered_by_their_front_door() -> None:
    """What a room exports is its `__init__`: names, or a whole module as `formats`; nobody reaches past it."""
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("foreword."):
                parts = node.module.split(".")
                names = ", ".join(alias.name for alias in node.names)
                assert len(parts) == 2 or parts[1] == room, (
                    f"{path.relative_to(ROOT)} takes {names} from {node.module}; let foreword.{parts[1]} export it"
                )


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Late imports count, inside functions and for types alone: a circle that only they hide is one all the same."""
    paths = {_module(path): path for path in SOURCE.rglob("*.py")}
    needs: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                named = {_named(node.module or "", alias.name, set(paths)) for alias in node.names}
            elif isinstance(node, ast.Import):
                named = {alias.name for alias in node.names}
            else:
                continue
            needs[name] |= named & set(paths)
    del needs["foreword"]  # it opens the rooms by name, when they are asked for
    assert sum(map(len, needs.values())) > len(paths), "imports were not found"
    TopologicalSorter(needs).prepare()  # raises CycleError, which names the circle


def _module(path: Path) -> str:
    """A room stands for its `__init__`, which is what an import of the room loads."""
    parts = ("foreword", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _named(module: str, name: str, modules: set[str]) -> str:
    """The module that `from module import name` needs."""
    whole = f"{module}.{name}"
    return whole if whole in modules else module


def test_the_public_names_are_there_and_no_others() -> None:
    assert foreword.__all__ == sorted(foreword.__all__, key=lambda name: (name[0].islower(), name))
    for name in foreword.__all__:
        assert getattr(foreword, name).__doc__, name
    assert dir(foreword) == sorted(foreword.__all__)


def test_help_answers_at_once() -> None:
    command = [str(Path(sys.executable).with_name("foreword")), "--help"]
    subprocess.run(command, check=True, capture_output=True)  # the first one compiles
    seconds = []
    for _ in range(5):
        began = _core_seconds()
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds.append(_core_seconds() - began)
    assert {"demo", "tune", "compare", "prompts", "run", "doctor"} <= set(shown.split())
    assert min(seconds) < 0.5
    loaded = "import sys, foreword.cli; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "transformers", "sqlalchemy", "sklearn", "numpy"} & set(modules)


def _core_seconds() -> float:
    """Of a core, by all that has been started and has ended: what else the machine does is not counted."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_readme_has_a_line_for_each_room() -> None:
    tree = re.search(r"```\nsrc/foreword/\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree, "the README does not show the house"
    named = {line.split()[0] for line in tree[1].splitlines()}
    assert named == {f"{path.parent.name}/" for path in SOURCE.glob("*/__init__.py")}
