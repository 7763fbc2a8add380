"""Model families as descriptions, and the one decoder that runs them."""
