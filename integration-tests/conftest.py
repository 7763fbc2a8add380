"""The servers that tests share; `binary.py` runs them."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from binary import ROOT, Server, running_server


@pytest.fixture(scope="session")
def logs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="session")
def server(logs) -> Iterator[Server]:
    """One server with the bundled model, shared by the tests that only talk to it."""
    with running_server(logs / "default.log") as server:
        yield server


@pytest.fixture
def start_server(tmp_path) -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """Start further servers with their own arguments."""
    counter = iter(range(100))

    def start(*arguments: str) -> contextlib.AbstractContextManager[Server]:
        return running_server(tmp_path / f"server-{next(counter)}.log", *arguments)

    return start


@pytest.fixture(scope="session")
def float32_folder() -> Path:
    """The bundled model as a float32 folder; written once, kept in the project's cache."""
    folder = ROOT / ".cache/smollm2-float32"
    if not (folder / "config.json").exists():
        subprocess.run([ROOT / ".venv/bin/python", ROOT / "tools/make_smollm2_folder.py", folder], check=True)
    return folder


@pytest.fixture(scope="session")
def tiny_llama_folder(tmp_path_factory, float32_folder) -> Path:
    """A random two-layer Llama with the bundled model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    vocab_size = json.loads((float32_folder / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=vocab_size, max_position_embeddings=2048, tie_word_embeddings=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny-llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((float32_folder / name).read_bytes())
    return folder
