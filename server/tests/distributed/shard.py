"""One rank of a test's group: arguments RANK WORLD_SIZE RENDEZVOUS OUT MODEL…; writes its results as JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import torch

from forebay_worker.distributed.groups import ProcessGroup, join

PROMPT = [5, 99, 3, 64, 27, 0, 100, 41, 8, 15]


def collectives(group: ProcessGroup) -> dict[str, object]:
    """What this rank gets from each exchange."""
    mine = torch.tensor([[float(group.rank), 10.0]])
    return {
        "all_reduce": group.all_reduce(mine.clone()).tolist(),
        "all_gather_last_dim": group.all_gather_last_dim(mine).tolist(),
        "broadcast": group.broadcast(torch.tensor([group.rank + 7]), src=1).tolist(),
        "min_int": group.min_int(100 - group.rank),
        "half": group.all_reduce(torch.ones(3, dtype=torch.bfloat16)).tolist(),
    }


def sums(group: ProcessGroup) -> dict[str, object]:
    """Sums that may not depend on the shape, of a tensor at once and row by row."""
    ordered = dataclasses.replace(group, ordered_sums=True)
    mine = torch.randn(12, 96, generator=torch.Generator().manual_seed(group.rank))
    rows = torch.cat([ordered.all_reduce(row.clone()) for row in mine.split(1)])
    return {"rows": rows.tolist(), "whole": ordered.all_reduce(mine).tolist()}


def main() -> None:
    """Join, exchange, run every model."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from stepper import load

    rank, world_size, rendezvous, out, *models = sys.argv[1:]
    torch.set_num_threads(1)
    group = join(int(rank), int(world_size), rendezvous, "cpu")
    results: dict[str, object] = {"collectives": collectives(group), **sums(group)}
    for model in models:
        # Quantized weights with the paged kernel: layers' halves in one call, but for the sums over ranks.
        attention = "paged" if model.endswith(".gguf") else "sdpa"
        logits = load(Path(model), group, attention=attention).step([(0, PROMPT)])
        greedy = load(Path(model), group, attention=attention).greedy(PROMPT, 16)
        results[model] = {"logits": logits.tolist(), "greedy": greedy}
    Path(out).write_text(json.dumps(results))
    group.leave()


if __name__ == "__main__":
    main()
