"""CPU and GPU kernels for language models; one op a file in `ops`, each with its torch reference."""
