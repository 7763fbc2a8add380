//! The file of API keys: read at the start, and again whenever it changes, so that keys come and go without a restart.

use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_api::AppState;

use crate::secret::Secret;

/// Between two looks. The file is read whole each time: a mounted secret is swapped by links, which no time stamp shows.
const INTERVAL: Duration = Duration::from_secs(2);

/// The keys, one a line; or why there are none.
pub(crate) fn read(path: &Path) -> Result<Vec<Secret>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let keys: Vec<Secret> = lines.filter_map(|line| line.parse().ok()).collect();
    if keys.is_empty() { Err("it holds no key".to_owned()) } else { Ok(keys) }
}

/// Gives the server the keys whenever they change, for ever. A file without keys changes nothing: who emptied it by mistake
/// must not open the server.
pub(crate) async fn watch(path: PathBuf, state: AppState) {
    let mut last = read(&path);
    loop {
        tokio::time::sleep(INTERVAL).await;
        let looked_at = path.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || read(&looked_at)).await else { return };
        if now == last {
            continue;
        }
        match &now {
            Ok(keys) => {
                let revealed: Vec<String> = keys.iter().map(|key| key.reveal().to_owned()).collect();
                state.replace_api_keys(&revealed);
                tracing::info!(path = %path.display(), keys = keys.len(), "the API keys were read again");
            }
            Err(reason) => {
                tracing::warn!("`--api-key-file` `{}`: {reason}; the keys stay as they were", path.display());
            }
        }
        last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_holds_one_key_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, "first\n\n second \n").unwrap();
        let keys = read(&path).unwrap();
        assert_eq!(keys.iter().map(Secret::reveal).collect::<Vec<_>>(), ["first", "second"]);
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(read(&path), Err("it holds no key".to_owned()));
        assert!(read(&folder.path().join("none")).is_err());
    }
}
