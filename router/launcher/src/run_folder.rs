//! The folder of one run: sockets and rendezvous files, readable by us alone, gone when we are.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The kernel's limit on a socket's path, less the final zero.
const MAX_SOCKET_PATH: usize = 107;
/// Room for `/18446744073709551615-1023.sock`.
const LONGEST_NAME: usize = 32;

/// Removed when dropped.
#[derive(Debug)]
pub(crate) struct RunFolder(TempDir);

impl RunFolder {
    /// Makes it in the system's temporary folder, or in `/tmp` if paths there would be too long for a socket.
    pub(crate) fn create() -> io::Result<Self> {
        let places = [std::env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/dev/shm")];
        let mut failures = Vec::new();
        for place in places {
            match Self::create_in(&place) {
                Ok(folder) => return Ok(folder),
                Err(error) => failures.push(format!("`{}`: {error}", place.display())),
            }
        }
        Err(io::Error::other(format!("no folder for the workers' sockets: {}; set TMPDIR", failures.join(", "))))
    }

    fn create_in(place: &Path) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        let folder = builder.prefix("forebay-").permissions(Permissions::from_mode(0o700)).tempdir_in(place)?;
        let length = folder.path().as_os_str().len() + LONGEST_NAME;
        if length > MAX_SOCKET_PATH {
            let message = format!("a socket's path would have {length} bytes, the limit is {MAX_SOCKET_PATH}");
            return Err(io::Error::other(message));
        }
        Ok(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Where a shard listens.
    pub(crate) fn socket(&self, incarnation: u64, rank: u32) -> PathBuf {
        self.0.path().join(format!("{incarnation}-{rank}.sock"))
    }

    /// Where the shards of one incarnation find each other.
    pub(crate) fn rendezvous(&self, incarnation: u64) -> PathBuf {
        self.0.path().join(format!("{incarnation}.rendezvous"))
    }

    /// Removes what a dead incarnation left in the folder at `path`.
    pub(crate) fn empty(path: &Path) {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            // What cannot be removed goes with the folder.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_ours_alone_and_goes_when_dropped() {
        let folder = RunFolder::create().unwrap();
        let path = folder.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_place_whose_paths_are_too_long_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let deep = place.path().join("x".repeat(90));
        fs::create_dir(&deep).unwrap();
        let message = RunFolder::create_in(&deep).unwrap_err().to_string();
        assert!(message.contains("the limit is 107"), "{message}");
    }

    #[test]
    fn the_longest_names_still_fit() {
        let folder = RunFolder::create().unwrap();
        assert!(folder.socket(u64::MAX, 1023).as_os_str().len() <= MAX_SOCKET_PATH);
    }
}
