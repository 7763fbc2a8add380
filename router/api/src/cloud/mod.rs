//! The routes of clouds and platforms, as TGI serves them: each takes the requests that other routes take, in an envelope
//! of its own. All ask for the key; only probes do not.

pub(crate) mod invocations;
pub(crate) mod kserve;
mod platform_routes;
mod schemas;
pub(crate) mod vertex;

pub use platform_routes::{PlatformRouteError, PlatformRoutes};
pub(crate) use schemas::schemas;

use serde_json::{Map, Value};

use crate::error::ApiError;

/// How errors name an entry of an envelope's list.
fn place(list: &str, index: usize) -> String {
    format!("`{list}[{index}]`")
}

/// Reads each of a list's objects; an error says which.
fn parse_each<T>(
    list: &str,
    objects: Vec<Map<String, Value>>,
    parse: impl Fn(Map<String, Value>) -> Result<T, ApiError>,
) -> Result<Vec<T>, ApiError> {
    let parse = |(index, values)| parse(values).map_err(|error| error.within(&place(list, index)));
    objects.into_iter().enumerate().map(parse).collect()
}
