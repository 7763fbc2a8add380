"""Random two-layer models on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

# Loaded while no test's clock runs: on a busy machine this alone can take as long as a test may.
from transformers.models.llama import modeling_llama  # noqa: F401

from . import stepper


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Any]]:
    """(architecture, configuration, dtype) -> (a saved random model's folder, transformers' model)."""

    def make(architecture: str, fields: dict[str, Any], dtype: torch.dtype = torch.float32) -> tuple[Path, Any]:
        model_class = getattr(transformers, architecture)
        torch.manual_seed(0)
        # "eager" is the one way that knows softcaps.
        config = model_class.config_class(**fields, attn_implementation="eager")
        model = model_class(config).to(dtype).eval()
        for name, parameter in model.named_parameters():
            if "norm" in name or ".ln_" in name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
            elif name.endswith("bias") or "gate.weight" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        folder = tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        return folder, model

    return make


@pytest.fixture(scope="session")
def load() -> Callable[..., stepper.Stepper]:
    """(path, group, changes to the configuration) -> the loaded model, ready for steps."""
    return stepper.load
