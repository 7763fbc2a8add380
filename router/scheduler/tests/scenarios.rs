//! Named stories: what the scheduler does in situations that a reader should be able to look up.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "scenarios"]
mod scenarios {
    mod admission;
    mod chunks;
    mod drafts;
    mod ends;
    mod failures;
    mod memory;
    mod prefixes;
    mod quarantine;
    mod resumption;
    mod rig;
    mod running_ahead;
}
