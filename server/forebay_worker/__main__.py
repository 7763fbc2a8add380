"""`python -m forebay_worker serve | spare | download … | model-info … | env`: one process, one task.

`serve` reads its configuration as one JSON line on stdin and ends when stdin ends; `spare` forks processes that do;
`download` and `model-info` never import torch.
"""

from __future__ import annotations

import logging
import os
import sys


def main(arguments: list[str]) -> int:
    """Run one task. Returns: the exit status."""
    match arguments:
        case ["serve"]:
            from forebay_worker.serve import serve

            return serve()
        case ["spare"]:
            from forebay_worker.spare import run_spare

            return run_spare()
        case ["download", *rest]:
            from forebay_worker.hub import run_download

            return run_download(rest)
        case ["model-info", *rest]:
            from forebay_worker.model_info import run_model_info

            return run_model_info(rest)
        case ["env"]:
            from forebay_worker.environment import run_env

            return run_env()
    sys.stderr.write("usage: python -m forebay_worker serve | spare | download … | model-info … | env\n")
    return 2


if __name__ == "__main__":
    status = main(sys.argv[1:])
    logging.shutdown()
    sys.stdout.flush()
    # Nothing is left to save; threads of grpc and torch could only delay the end.
    os._exit(status)
