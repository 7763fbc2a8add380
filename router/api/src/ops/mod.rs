//! What operators and their probes ask for.

pub(crate) mod health;
pub(crate) mod metrics;
