"""Other engines that decode, where they are installed: llama.cpp and OpenVINO GenAI, on a GGUF file of the model."""

import sys
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from decode_variants import Decoded, Variant
from torch import Tensor

ENGINES = ("llama.cpp", "OpenVINO GenAI")
CONTEXT = 4096  # tokens that llama.cpp makes room for


def engines(gguf: Path | None) -> dict[str, Variant]:
    """By name, with the precision of the file's weights. Says on stderr which are left out, and why."""
    found: dict[str, Variant] = {}
    packages = ("llama_cpp", _llama_cpp), ("openvino_genai", _openvino)
    for name, (package, decode) in zip(ENGINES, packages, strict=True):
        if gguf is None:
            print(f"{name} is left out: there is no GGUF file of this model, see --gguf", file=sys.stderr)
        elif find_spec(package) is None:
            print(f"{name} is left out: the package {package} is not installed", file=sys.stderr)
        else:
            found[f"{name} {_precision(gguf)}"] = partial(_timed, partial(decode, gguf))
    return found


def _precision(gguf: Path) -> str:
    """As the file names it, such as Q4_1."""
    from gguf import GGUFReader, LlamaFileType

    field = GGUFReader(gguf).fields["general.file_type"]
    name: str = LlamaFileType(int(field.contents())).name
    return name.removeprefix("MOSTLY_")


def _timed(decode: Callable[[list[int], int, Callable[[int], None]], None], ids: Tensor, new_tokens: int) -> Decoded:
    """One run of an engine that hands out each token as it is decoded."""
    tokens: list[int] = []
    times: list[float] = []

    def note(token: int) -> None:
        tokens.append(token)
        times.append(perf_counter())

    begin = perf_counter()
    decode(ids[0].tolist(), new_tokens, note)
    return Decoded(tokens, times[0] - begin, times[-1] - times[0])


@cache
def _llama(gguf: Path, threads: int) -> Any:
    from llama_cpp import Llama

    return Llama(str(gguf), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False)


def _llama_cpp(gguf: Path, prompt: list[int], new_tokens: int, note: Callable[[int], None]) -> None:
    llama = _llama(gguf, torch.get_num_threads())
    llama.reset()  # or it would keep what the last prompt has in common with this one
    for count, token in enumerate(llama.generate(prompt, temp=0.0, repeat_penalty=1.0), 1):
        note(token)
        if count == new_tokens:
            return


@cache
def _pipeline(gguf: Path, threads: int) -> Any:
    from openvino_genai import LLMPipeline

    return LLMPipeline(str(gguf), "CPU", INFERENCE_NUM_THREADS=threads)


def _openvino(gguf: Path, prompt: list[int], new_tokens: int, note: Callable[[int], None]) -> None:
    import openvino
    import openvino_genai

    class Noting(openvino_genai.StreamerBase):  # type: ignore[misc]  # openvino_genai is not looked into
        def write(self, token: Any) -> Any:
            for one in token if isinstance(token, list) else [token]:
                note(one)
            return openvino_genai.StreamingStatus.RUNNING

        def end(self) -> None:
            pass

    settings = openvino_genai.GenerationConfig(max_new_tokens=new_tokens, do_sample=False, ignore_eos=True)
    ids = torch.tensor([prompt])
    inputs = openvino_genai.TokenizedInputs(*(openvino.Tensor(x.numpy()) for x in (ids, torch.ones_like(ids))))
    _pipeline(gguf, torch.get_num_threads()).generate(inputs, settings, Noting())
