"""From logits to token ids: the ordered pipeline, one file an option, and log-probabilities."""
