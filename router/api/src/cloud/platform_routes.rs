//! The paths that Vertex AI chooses for its two routes (`AIP_PREDICT_ROUTE`, `AIP_HEALTH_ROUTE`), checked: the router
//! itself would panic at some.

use crate::document;

/// Where a platform sends its requests, beside our own paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlatformRoutes {
    predict: Option<String>,
    health: Option<String>,
}

/// A path that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PlatformRouteError {
    /// Not a path.
    #[error("`{0}`, expected a path as `/predict`, of letters, digits and `-_.~:/`")]
    NotAPath(String),
    /// One of ours, with another meaning.
    #[error("`{0}`, which is a route of its own; choose another")]
    Taken(String),
}

impl PlatformRoutes {
    /// Where predictions are asked for by `POST`, and health by `GET`.
    pub fn new(predict: Option<String>, health: Option<String>) -> Result<Self, PlatformRouteError> {
        let predict = predict.filter(|path| path != "/vertex").map(|path| check("post", path)).transpose()?;
        let is_probe = |path: &String| ["/", "/health", "/ping"].contains(&path.as_str());
        let health = health.filter(|path| !is_probe(path)).map(|path| check("get", path)).transpose()?;
        Ok(Self { predict, health })
    }

    /// Beside `/vertex`.
    pub(crate) fn predict(&self) -> Option<&str> {
        self.predict.as_deref()
    }

    /// Beside `/health`.
    pub(crate) fn health(&self) -> Option<&str> {
        self.health.as_deref()
    }
}

fn check(method: &str, path: String) -> Result<String, PlatformRouteError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~:/".contains(&byte);
    if !path.starts_with('/') || !path.bytes().all(is_plain) || path.contains("/:") {
        return Err(PlatformRouteError::NotAPath(path));
    }
    if document::is_operation(method, &path) {
        return Err(PlatformRouteError::Taken(path));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(predict: &str, health: &str) -> Result<PlatformRoutes, String> {
        PlatformRoutes::new(Some(predict.to_owned()), Some(health.to_owned())).map_err(|error| error.to_string())
    }

    #[test]
    fn the_platforms_paths_are_taken_and_ours_stay_ours() {
        let given = routes("/v1/endpoints/1/deployedModels/2:predict", "/v1/endpoints/1/deployedModels/2").unwrap();
        assert_eq!(given.predict(), Some("/v1/endpoints/1/deployedModels/2:predict"));
        assert_eq!(given.health(), Some("/v1/endpoints/1/deployedModels/2"));
        assert_eq!(routes("/vertex", "/health").unwrap(), PlatformRoutes::default());
        // Other methods of a path are free.
        assert_eq!(routes("/info", "/generate").unwrap().health(), Some("/generate"));
    }

    #[test]
    fn paths_that_cannot_be_are_refused() {
        for path in ["predict", "", "/a b", "/{x}", "/a/:b", "/*", "/a?b"] {
            assert!(routes(path, "/health").unwrap_err().contains("expected a path"), "{path}");
        }
        assert!(routes("/generate", "/health").unwrap_err().contains("a route of its own"));
        assert!(routes("/vertex", "/metrics").unwrap_err().contains("a route of its own"));
    }
}
