"""The native library: found or refused, never silently done without; and what it runs on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

try:
    # torch first: its libgomp must be loaded before the native library looks for the process's thread team.
    import torch  # noqa: F401

    from forebay_kernels import _native
except ImportError as error:
    raise ImportError(
        f"forebay_kernels cannot load its native library `forebay_kernels._native` ({error}); "
        "install the wheel of this platform, or build it from source with `pip install ./kernels`"
    ) from error


class NativeInfo(TypedDict):
    """What the native kernels run on."""

    instruction_set: str
    available_instruction_sets: list[str]
    num_threads: int
    thread_team: str


def native_info() -> NativeInfo:
    """Tell which instruction set and threads the native kernels use.

    Returns:
        `instruction_set` in use (`avx512`, `avx2` or `portable`), `available_instruction_sets` best first,
        `num_threads` (follows `torch.set_num_threads`), `thread_team` (`gomp`: torch's own threads, or `pool`).
    """
    return NativeInfo(**_native.native_info())


@contextmanager
def force_instruction_set(name: str) -> Iterator[None]:
    """Run the native kernels with the instruction set of that name inside a `with` block; process-wide.

    For tests and benchmarks: outside, the best set of the machine is used.

    Raises:
        ValueError: if this machine does not have the set.
    """
    before = _native.force_instruction_set(name)
    try:
        yield
    finally:
        _native.force_instruction_set(before)
