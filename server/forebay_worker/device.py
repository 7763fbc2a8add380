"""The device that a worker computes on, and how host arrays get there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def upload(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """An array as a tensor on `device`; on CPU a view of it, on a GPU a copy on its way while the host goes on."""
    tensor = torch.from_numpy(array)
    # Only from pinned memory is a copy asynchronous; torch keeps the memory until the copy is done.
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
