"""Opens a model: folder or GGUF file -> description and tensors, checked as far as headers go. No torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from forebay_worker.models.hf_config import HfConfig
from forebay_worker.models.registry import spec_from_config, spec_from_gguf
from forebay_worker.models.sharding import check_num_shards
from forebay_worker.models.spec import DecoderSpec
from forebay_worker.weights.errors import ModelRefusedError
from forebay_worker.weights.gguf import GgufFile
from forebay_worker.weights.gguf_parts import GgufModel
from forebay_worker.weights.names import Checkpoint
from forebay_worker.weights.safetensors import SafetensorsFolder

HF_DTYPES = ("float32", "float16", "bfloat16")

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """A model's files, opened."""

    path: Path
    spec: DecoderSpec
    tensors: GgufFile | SafetensorsFolder
    dtype: str
    """The checkpoint's own type for activations: config.json's, or float32 for GGUF."""
    is_quantized: bool

    def checkpoint(self) -> Checkpoint:
        """The tensors by role."""
        return Checkpoint(self.tensors, self.spec.names)

    def check_num_shards(self, num_shards: int) -> None:
        """Refuse a number of shards that cannot be. Raises: ModelRefusedError saying which can."""
        check_num_shards(self.spec, num_shards, lambda name: self.tensors.read(name).storage)


def open_model(path: Path) -> ModelSource:
    """Open a folder with config.json and safetensors, or a `.gguf` file (the first, if it has parts).

    Raises: ModelRefusedError naming what is missing, broken or not supported.
    """
    if path.is_dir():
        return _open_folder(path)
    if path.suffix == ".gguf" and path.is_file():
        return _open_gguf(path)
    if path.exists():
        raise ModelRefusedError(f"`{path}` is neither a folder nor a .gguf file")
    raise ModelRefusedError(f"`{path}` does not exist")


def _open_gguf(path: Path) -> ModelSource:
    file = GgufModel(path)
    is_quantized = any(file.read(name).storage.is_quantized for name in file.names())
    return _checked(ModelSource(path, spec_from_gguf(file), file, "float32", is_quantized))


def _open_folder(path: Path) -> ModelSource:
    refuse_pickles_only(path)
    tensors = SafetensorsFolder(path)
    config = HfConfig.load(path, frozenset(tensors.names()))
    spec = spec_from_config(config)
    return _checked(ModelSource(path, spec, tensors, _folder_dtype(config, spec, tensors), False))


def _checked(source: ModelSource) -> ModelSource:
    """Refuse a checkpoint that lacks a tensor of the description."""
    present = frozenset(source.tensors.names())
    spec = source.spec
    num_experts = spec.experts.num_experts if spec.experts else 0
    for role, name in spec.names.items():
        if role == "head" and spec.tied_head:
            continue
        for one in name.all(spec.num_layers, num_experts):
            if one not in present:
                raise ModelRefusedError(f"`{source.path}` has no tensor `{one}`, which `{spec.architecture}` needs")
    return source


def refuse_pickles_only(folder: Path) -> None:
    """Raises: ModelRefusedError if the folder's only weights are pickles, which are never loaded."""
    if any(folder.glob("*.safetensors")):
        return
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES):
        raise ModelRefusedError(
            f"`{folder}` holds weights only as `{pickles[0]}`: pickles can run code and are never loaded; "
            "convert it to safetensors"
        )


def _folder_dtype(config: HfConfig, spec: DecoderSpec, tensors: SafetensorsFolder) -> str:
    named = config.fields.get("dtype") or config.fields.get("torch_dtype")
    if named is None:
        stored = tensors.dtype_of(spec.names["embedding"].at(None))
        named = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(stored or "", stored)
    if named not in HF_DTYPES:
        raise ModelRefusedError(
            f"`dtype` of `{config.path}` is `{named}`, which is not supported; supported: {', '.join(HF_DTYPES)}"
        )
    return str(named)
