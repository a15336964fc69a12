//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

/// A file under another name until it is whole, readable by its owner alone.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    draft: PathBuf,
    file: BufWriter<File>,
}

impl Draft {
    /// Begins a file that must not be there yet.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        ensure!(!path.exists(), "`{}` is there already", path.display());
        Self::replace(path).with_context(|| format!("write `{}`", path.display()))
    }

    fn replace(path: &Path) -> io::Result<Self> {
        let draft = path.with_added_extension("new");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        Ok(Self {
            path: path.to_owned(),
            draft,
            file: BufWriter::new(file),
        })
    }

    /// Gives it its name: it is on the disk then.
    pub fn finish(self) -> io::Result<()> {
        let file = self.file.into_inner()?;
        file.sync_all()?;
        fs::rename(&self.draft, &self.path)?;
        let folder = self
            .path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes a text in place of what was there.
pub fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || {
        let mut draft = Draft::replace(path)?;
        draft.write_all(text.as_bytes())?;
        draft.finish()
    };
    write().with_context(|| format!("write `{}`", path.display()))
}
