//! Where Python has a file: at a path, as bytes, or open.

use std::io::{Cursor, Error, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use wattfarm_onnx::{Model, OnnxError};

/// A file of Python's.
#[derive(FromPyObject)]
pub(crate) enum Source<'py> {
    Bytes(Bound<'py, PyBytes>),
    Path(PathBuf),
    Open(Bound<'py, PyAny>),
}

impl Source<'_> {
    pub(crate) fn onnx(&self) -> Result<Model, OnnxError> {
        match self {
            Self::Bytes(bytes) => Model::read(Cursor::new(bytes.as_bytes())),
            Self::Path(path) => wattfarm_onnx::open(path),
            Self::Open(file) => Model::read(Open(file)),
        }
    }

    /// What a network from it is called.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Path(path) => stem(path),
            Self::Bytes(_) | Self::Open(_) => "network".to_owned(),
        }
    }
}

/// A file's name without what tells its kind.
pub(crate) fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

/// An open binary file. Its position when it came is not kept.
struct Open<'a, 'py>(&'a Bound<'py, PyAny>);

impl Read for Open<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let read = self.0.call_method1("read", (buffer.len(),))?;
        let read = read.cast::<PyBytes>().map_err(PyErr::from)?.as_bytes();
        let into = buffer.get_mut(..read.len());
        into.ok_or_else(|| Error::other("`read` gave more than it was asked for"))?
            .copy_from_slice(read);
        Ok(read.len())
    }
}

impl Seek for Open<'_, '_> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64, Error> {
        let at = match to {
            SeekFrom::Start(at) => self.0.call_method1("seek", (at, 0)),
            SeekFrom::Current(by) => self.0.call_method1("seek", (by, 1)),
            SeekFrom::End(by) => self.0.call_method1("seek", (by, 2)),
        };
        Ok(at?.extract()?)
    }
}
