"""One file a family: what its configuration means as a `DecoderSpec`, and where its weights lie. No torch."""
