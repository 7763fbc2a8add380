"""How a weight matrix is held and multiplied: one scheme a file, unknown to models."""
