"""The parts of a decoder. Each reads its own shard of the weights when it is built."""
