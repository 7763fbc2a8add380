"""Run llama.cpp's server (from `xllamacpp`) until stdin closes; prints its address as one line."""

from __future__ import annotations

import sys

import xllamacpp


def main() -> None:
    """Serve `argv[1]` with `argv[2]` threads and `argv[3]` slots of `argv[4]` tokens."""
    model, threads, slots, slot_tokens = sys.argv[1], *map(int, sys.argv[2:5])
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.n_parallel = slots
    params.n_ctx = slots * slot_tokens
    params.n_gpu_layers = 0
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
