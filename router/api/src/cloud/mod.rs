//! The routes of clouds and platforms, as TGI serves them: each takes the requests that other routes take, in an envelope
//! of its own. All ask for the key; only probes do not.

pub(crate) mod invocations;
pub(crate) mod kserve;
mod platform_routes;
mod schemas;
pub(crate) mod vertex;

pub use platform_routes::{PlatformRouteError, PlatformRoutes};
pub(crate) use schemas::schemas;
