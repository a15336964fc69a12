//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// A file in the making, beside its final place under a name of its own. Dropped before [`Self::finish`], it leaves
/// nothing behind, and what was there before stays.
pub(crate) struct NewFile {
    path: PathBuf,
    part: PathBuf,
    writer: BufWriter<File>,
    finished: bool,
}

impl NewFile {
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let name = path
            .file_name()
            .with_context(|| format!("{} is not a file's name", path.display()))?;
        let part = path.with_file_name(format!(
            ".{}.{}.part",
            name.to_string_lossy(),
            std::process::id()
        ));
        let file = File::create(&part).with_context(|| format!("create {}", part.display()))?;
        Ok(Self {
            path: path.to_owned(),
            part,
            writer: BufWriter::new(file),
            finished: false,
        })
    }

    /// Puts the file in its place, on disk.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        let failed = || format!("write {}", self.path.display());
        self.writer.flush().with_context(failed)?;
        self.writer.get_ref().sync_all().with_context(failed)?;
        fs::rename(&self.part, &self.path).with_context(failed)?;
        self.finished = true;
        Ok(())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.finished {
            // Nobody can be told; the name says what the file is.
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// Writes a file whole.
pub(crate) fn write(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    let mut file = NewFile::create(path)?;
    file.write_all(contents)
        .with_context(|| format!("write {}", path.display()))?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_file_leaves_what_was_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("models.json");
        write(&path, b"old").expect("written");
        let mut file = NewFile::create(&path).expect("created");
        file.write_all(b"half").expect("written");
        drop(file);
        assert_eq!(fs::read(&path).expect("there"), b"old");
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1);
    }
}
