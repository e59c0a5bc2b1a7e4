//! The folder of a worker: shuffles and spilled rows, gone with the process.

use std::path::{Path, PathBuf};

use crate::error::{Result, WorkerError};

const PREFIX: &str = "worker-";

/// A folder that belongs to this process.
#[derive(Debug)]
pub(crate) struct WorkFolder {
    path: PathBuf,
}

impl WorkFolder {
    /// Makes the folder of this process inside `base`, and removes those of processes that are gone.
    pub(crate) fn create(base: &Path) -> Result<Self> {
        let path = base.join(format!("{PREFIX}{}", std::process::id()));
        let fail = |source| WorkerError::Folder {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(&path).map_err(fail)?;
        remove_orphans(base);
        let path = path.canonicalize().map_err(fail)?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next worker.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn remove_orphans(base: &Path) {
    if !Path::new("/proc/self").exists() {
        return;
    }
    let Ok(entries) = std::fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(folder = %entry.path().display(), %error, "a folder of a worker that is gone stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_dead_workers_are_removed() {
        let base = std::env::temp_dir().join(format!("corpusmill-folder-test-{}", std::process::id()));
        // No process has this number: the kernel's limit is lower.
        let dead = base.join(format!("{PREFIX}{}", u32::MAX));
        let other = base.join("something-else");
        std::fs::create_dir_all(&dead).unwrap();
        std::fs::create_dir_all(&other).unwrap();
        let folder = WorkFolder::create(&base).unwrap();
        assert!(folder.path().is_dir() && other.is_dir() && !dead.exists());
        let mine = folder.path().to_owned();
        drop(folder);
        assert!(!mine.exists());
        std::fs::remove_dir_all(&base).unwrap();
    }
}
