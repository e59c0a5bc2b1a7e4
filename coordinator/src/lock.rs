//! One writer per home: a lock file that the operating system releases when its holder dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{CoordinatorError, Result};

/// Held while a process writes to a home.
#[derive(Debug)]
pub(crate) struct HomeLock {
    // Locked until it is closed, which the end of the process does too.
    _file: File,
}

impl HomeLock {
    /// Takes the lock of `home`, and writes this process' id into it.
    ///
    /// # Errors
    /// [`CoordinatorError::Locked`] when another process holds it.
    pub(crate) fn take(home: &Path) -> Result<Self> {
        let path = home.join("lock");
        let fail = |source| CoordinatorError::Io {
            action: "lock",
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(home.to_owned(), &mut file)),
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", std::process::id()))
            .and_then(|()| file.flush())
            .map_err(fail)?;
        Ok(Self { _file: file })
    }
}

fn held(home: PathBuf, file: &mut File) -> CoordinatorError {
    let mut pid = String::new();
    let read = file.read_to_string(&mut pid);
    let known = read.is_ok() && !pid.trim().is_empty();
    CoordinatorError::Locked {
        home,
        pid: if known { pid.trim().to_owned() } else { "unknown".into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_writer_is_told_who_holds_it() {
        let home = tempfile::tempdir().unwrap();
        let first = HomeLock::take(home.path()).unwrap();
        let error = HomeLock::take(home.path()).unwrap_err();
        let pid = std::process::id().to_string();
        assert!(
            matches!(&error, CoordinatorError::Locked { pid: p, .. } if *p == pid),
            "{error:?}"
        );
        assert!(error.to_string().contains("--home"), "{error}");
        drop(first);
        HomeLock::take(home.path()).unwrap();
    }
}
