"""What a worker would run on, in lines of `name: value`: for reports, so nothing here fails and nothing is secret.

It imports torch, for devices and kernels are known only to it: some seconds.
"""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path

PACKAGES = (
    "forebay",
    "forebay-kernels",
    "torch",
    "grpcio",
    "huggingface-hub",
    "numpy",
    "protobuf",
    "safetensors",
    "transformers",
    "triton",
)


def describe() -> dict[str, str]:
    """Each fact in words, in the order to show them; a fact that cannot be had says why."""
    return {
        "python": f"{platform.python_version()} at {sys.executable}",
        "system": f"{platform.platform()}, {'-'.join(platform.libc_ver())}",
        "cpu": _cpu_model(),
        **{name: _version(name) for name in PACKAGES},
        **_torch_facts(),
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _torch_facts() -> dict[str, str]:
    try:
        import torch

        from forebay_worker.device import cuda_obstacle
        from forebay_worker.memory import available_memory
    except ImportError as error:
        return {"kernels": f"cannot be loaded: {error}"}
    facts = {
        "kernels": _kernels(),
        "memory available": f"{available_memory() / 2**30:.1f} GiB",
        "cuda": cuda_obstacle() or str(torch.version.cuda or torch.version.hip),
    }
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        facts[f"cuda:{index}"] = (
            f"{device.name}, {device.total_memory / 2**30:.1f} GiB, sm_{device.major}{device.minor}"
        )
    return facts


def _kernels() -> str:
    from forebay_kernels.native import native_info

    try:
        info = native_info()
    except ImportError as error:
        return f"cannot be loaded: {error}"
    return f"{info['instruction_set']}, {info['num_threads']} threads, team {info['thread_team']}"


def run_env() -> int:
    """`env`: the facts on stdout. Returns the exit code, 0."""
    sys.stdout.writelines(f"{name}: {value}\n" for name, value in describe().items())
    return 0
