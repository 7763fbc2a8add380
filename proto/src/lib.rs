//! The wire contract of `worker.proto` and nothing else. The rules both sides keep are in `README.md`.

/// `forebay.worker.v1`, as generated.
pub mod v1 {
    tonic::include_proto!("forebay.worker.v1");
}

pub use v1::SamplingParams;

/// What `HandshakeRequest.protocol` and its answer must both say.
pub const PROTOCOL_VERSION: u32 = 1;

/// Largest message either side sends or accepts, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
