"""What a model is, as JSON for the launcher: sizes, formats, text files; refused here what no worker would load.

No torch: it answers in a fraction of a second, before any worker starts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forebay_worker.hub import ResolvedModel, reported_errors, resolve, source_parser
from forebay_worker.models.source import ModelSource, open_model
from forebay_worker.weights.gguf import GgufFile

TEXT_FILES = {
    "config": "config.json",
    "generation_config": "generation_config.json",
    "tokenizer_json": "tokenizer.json",
    "tokenizer_config": "tokenizer_config.json",
    "chat_template_jinja": "chat_template.jinja",
    "chat_template_json": "chat_template.json",
}


def describe(model: ResolvedModel, num_shards: int = 1) -> dict[str, Any]:
    """Everything that the router and the launcher need to know of a model before workers run.

    Raises: ModelRefusedError for a model that cannot be served, or not by that many shards.
    """
    source = open_model(model.path)
    source.check_num_shards(num_shards)
    spec = source.spec
    is_gguf = isinstance(source.tensors, GgufFile)
    return {
        "model_id": model.model_id,
        "revision": model.revision,
        "path": str(model.path),
        "format": "gguf" if is_gguf else "safetensors",
        "architecture": spec.architecture,
        "model_type": _model_type(source),
        "num_layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_heads": spec.num_heads,
        "num_kv_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab_size,
        "max_position_embeddings": spec.max_position_embeddings,
        "dtype": source.dtype,
        "quantization": _quantization(source),
        "num_parameters": source.tensors.num_parameters,
        "pipeline_tag": "text-generation",
        "text_files": text_files(model.path),
    }


def text_files(path: Path) -> dict[str, str | None]:
    """Each kind of text file -> its path, or None where the model has none. A GGUF file is its own."""
    if path.is_file():
        return {"gguf": str(path), **dict.fromkeys(TEXT_FILES)}
    found = {kind: path / name for kind, name in TEXT_FILES.items()}
    return {"gguf": None, **{kind: str(file) if file.is_file() else None for kind, file in found.items()}}


def _model_type(source: ModelSource) -> str:
    if isinstance(source.tensors, GgufFile):
        return source.tensors.text("general.architecture")
    return str(json.loads((source.path / "config.json").read_bytes()).get("model_type", ""))


def _quantization(source: ModelSource) -> str | None:
    """The storage type of most weights, as "Q4_1"; None for plain floats."""
    if not source.is_quantized or not isinstance(source.tensors, GgufFile):
        return None
    counts = source.tensors.storage_types
    return max(counts, key=lambda name: counts[name])


def run_model_info(argv: Sequence[str]) -> int:
    """`model-info [source] [--num-shard N]`: one JSON object on stdout, see `describe`.

    Returns the exit code: 0; 1 if the model cannot be had; 2 if it is refused.
    """
    parser = source_parser("model-info")
    parser.add_argument("--num-shard", type=int, default=1)
    arguments = parser.parse_args(argv)
    exit_codes: list[int] = []
    with reported_errors(exit_codes):
        model = resolve(arguments.source, arguments.revision, arguments.weights_cache_dir)
        sys.stdout.write(json.dumps(describe(model, arguments.num_shard)) + "\n")
    return exit_codes[0]
