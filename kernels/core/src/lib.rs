//! CPU kernels on plain slices; one file an op.
