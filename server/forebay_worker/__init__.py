"""The worker: a pure executor. Step plans in, token ids and log-probabilities out."""
