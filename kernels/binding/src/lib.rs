//! `forebay_kernels._native`.
