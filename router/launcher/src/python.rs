//! Finds the Python that has the worker's package.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// No Python; every place that was tried, with what was found there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no Python found; tried {}; install one or name it with `--python`", .tried.join(", "))]
pub(crate) struct NoPython {
    tried: Vec<String>,
}

/// `named` (`--python` or its variable) and nothing else if given; else `python3` in this program's own folder (the
/// `bin` of a virtual environment), else on `search_path`.
pub(crate) fn find(named: Option<&Path>, search_path: Option<&OsStr>) -> Result<PathBuf, NoPython> {
    let own_folder = env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    find_in(named, own_folder.as_deref(), search_path)
}

fn find_in(named: Option<&Path>, own_folder: Option<&Path>, search_path: Option<&OsStr>) -> Result<PathBuf, NoPython> {
    let candidates = match named {
        Some(path) if path.components().count() > 1 => vec![path.to_owned()],
        Some(name) => on_search_path(name, search_path),
        None => own_folder
            .map(|folder| folder.join("python3"))
            .into_iter()
            .chain(on_search_path("python3".as_ref(), search_path))
            .collect(),
    };
    match candidates.iter().find(|path| is_program(path)) {
        Some(path) => Ok(path.clone()),
        None => Err(NoPython { tried: describe(named, &candidates) }),
    }
}

fn on_search_path(name: &Path, search_path: Option<&OsStr>) -> Vec<PathBuf> {
    search_path.map(|path| env::split_paths(path).map(|folder| folder.join(name)).collect()).unwrap_or_default()
}

fn is_program(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

fn describe(named: Option<&Path>, candidates: &[PathBuf]) -> Vec<String> {
    if candidates.is_empty() {
        let name = named.unwrap_or("python3".as_ref());
        return vec![format!("`{}` on an empty PATH", name.display())];
    }
    candidates
        .iter()
        .map(|path| {
            let found = if path.exists() { "not a program" } else { "absent" };
            format!("`{}` ({found})", path.display())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(name: &str, mode: u32) -> tempfile::TempDir {
        use std::os::unix::fs::OpenOptionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::OpenOptions::new().create(true).write(true).mode(mode).open(path).unwrap();
        folder
    }

    #[test]
    fn a_named_python_is_taken_and_nothing_else_is_tried() {
        let folder = folder_with("python3", 0o755);
        let named = folder.path().join("python3");
        assert_eq!(find_in(Some(&named), None, None), Ok(named));
        let absent = folder.path().join("python9");
        let error = find_in(Some(&absent), Some(folder.path()), Some(folder.path().as_os_str())).unwrap_err();
        assert_eq!(error.tried, [format!("`{}` (absent)", absent.display())]);
    }

    #[test]
    fn a_bare_name_is_looked_up_on_the_search_path() {
        let folder = folder_with("python3.11", 0o755);
        let found = find_in(Some("python3.11".as_ref()), None, Some(folder.path().as_os_str()));
        assert_eq!(found, Ok(folder.path().join("python3.11")));
    }

    #[test]
    fn the_programs_own_folder_comes_before_the_search_path() {
        let (own, on_path) = (folder_with("python3", 0o755), folder_with("python3", 0o755));
        let found = find_in(None, Some(own.path()), Some(on_path.path().as_os_str()));
        assert_eq!(found, Ok(own.path().join("python3")));
        let found = find_in(None, Some("/nowhere".as_ref()), Some(on_path.path().as_os_str()));
        assert_eq!(found, Ok(on_path.path().join("python3")));
    }

    #[test]
    fn the_error_names_every_place_and_what_to_do() {
        let folder = folder_with("python3", 0o644);
        let message =
            find_in(None, Some("/nowhere".as_ref()), Some(folder.path().as_os_str())).unwrap_err().to_string();
        assert!(message.contains("`/nowhere/python3` (absent)"), "{message}");
        assert!(
            message.contains(&format!("`{}` (not a program)", folder.path().join("python3").display())),
            "{message}"
        );
        assert!(message.contains("`--python`"), "{message}");
    }
}
