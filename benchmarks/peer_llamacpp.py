"""Run llama.cpp's server (from `xllamacpp`) until it is ended: `peer_llamacpp.py MODEL PORT THREADS SLOTS TOKENS`.

`--flash` sets its attention to the fused one, which it else chooses itself.
"""

from __future__ import annotations

import signal
import sys

import xllamacpp


def main() -> None:
    """Serve MODEL on PORT with THREADS threads and SLOTS slots of TOKENS tokens each."""
    arguments = [word for word in sys.argv[1:] if word != "--flash"]
    port, threads, slots, slot_tokens = map(int, arguments[1:5])
    params = xllamacpp.CommonParams()
    params.model.path = arguments[0]
    params.port = port
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.n_parallel = slots
    params.n_ctx = slots * slot_tokens
    params.n_gpu_layers = 0
    params.verbosity = 0
    if "--flash" in sys.argv:
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
