//! HTTP and SSE: the dialects. Each endpoint is one file that ends in one call to `generate`.
#![forbid(unsafe_code)]
