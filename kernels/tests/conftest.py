"""Every kernel test runs on each instruction set that the machine has, through the fixture `instruction_set`."""

from collections.abc import Iterator

import pytest

import forebay_kernels


@pytest.fixture(params=["avx512", "avx2", "portable"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    name: str = request.param
    if name not in forebay_kernels.native_info()["available_instruction_sets"]:
        pytest.skip(f"this machine has no {name}")
    with forebay_kernels.force_instruction_set(name):
        yield name
