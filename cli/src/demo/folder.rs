//! The demo's folder, which one demo has at a time.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep};

use crate::output::note;

/// How long the processes of a demo that was killed may take to end.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// How often to look whether they have.
const LOOK: Duration = Duration::from_millis(100);

/// The folder, held by a lock that this demo shares with every process it starts: it is free when all of them are gone,
/// however the demo ended.
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Makes the folder if it is missing, and takes it, waiting for others that have it. Touches nothing that those may
    /// use.
    pub(super) async fn take(path: &Path, patience: Duration) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
        let lock_path = path.join("lock");
        let locking = || format!("lock {}", lock_path.display());
        // Not written to, but some systems lock only what could be.
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let lock = options.open(&lock_path).with_context(locking)?;
        let deadline = Instant::now() + patience;
        let mut told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    bail!("another demo runs in {}", path.display())
                }
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut told, true) {
                        note(format!(
                            "waiting for another demo in {} to end",
                            path.display()
                        ));
                    }
                    sleep(LOOK).await;
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(locking);
                }
            }
        }
        Ok(Self {
            path: path.to_owned(),
            lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The lock as a process's stdin, which is empty: the process shares it until it ends.
    pub(super) fn share(&self) -> io::Result<Stdio> {
        Ok(self.lock.try_clone()?.into())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn a_folder_is_free_when_all_who_share_it_are_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let take = || Folder::take(folder.path(), Duration::from_millis(200));
        let first = take().await.expect("free");
        let mut child = Command::new("sleep")
            .arg("600")
            .stdin(first.share().expect("a lock"))
            .spawn()
            .expect("sleep runs");
        drop(first);
        let refused = take().await.err().expect("shared");
        assert!(
            refused.to_string().starts_with("another demo runs in"),
            "{refused}"
        );
        child.kill().expect("killed");
        child.wait().expect("ended");
        take().await.expect("free again");
    }
}
