//! Gaps kept in a file, a line each, so that a bench can be run in parts and be read where there is no such device.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::Gap;

/// The file.
pub struct Books {
    path: PathBuf,
    gaps: Vec<Gap>,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum BooksError {
    /// The file cannot be read or written.
    #[error("the gaps in {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A line is no gap.
    #[error("line {line} of {path} is no gap")]
    Line {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl Books {
    /// Reads the file, which need not be there yet.
    ///
    /// # Errors
    /// When it cannot be read, or holds something else.
    pub fn open(path: &Path) -> Result<Self, BooksError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => {
                return Err(BooksError::Io {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let parse = |(index, line)| {
            serde_json::from_str(line).map_err(|source| BooksError::Line {
                path: path.to_owned(),
                line: index + 1,
                source,
            })
        };
        let lines = text.lines().enumerate();
        Ok(Self {
            path: path.to_owned(),
            gaps: lines.map(parse).collect::<Result<_, _>>()?,
        })
    }

    /// Adds a gap, and leaves it in the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, gap: Gap) -> Result<(), BooksError> {
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .append(true)
                .create(true)
                .open(&self.path)?;
            let mut line = serde_json::to_string(&gap)?;
            line.push('\n');
            file.write_all(line.as_bytes())
        };
        write().map_err(|source| BooksError::Io {
            path: self.path.clone(),
            source,
        })?;
        self.gaps.push(gap);
        Ok(())
    }

    /// The newest gap of each network and batch, of one platform and recipe, in the order in which they came first.
    pub fn newest(&self, of: impl Fn(&Gap) -> bool) -> Vec<&Gap> {
        let mut newest: Vec<&Gap> = Vec::new();
        for gap in self.gaps.iter().filter(|gap| of(gap)) {
            let known = newest
                .iter_mut()
                .find(|known| (&known.network, known.batch) == (&gap.network, gap.batch));
            match known {
                Some(known) => *known = gap,
                None => newest.push(gap),
            }
        }
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    #[test]
    fn what_was_added_is_there_again_and_the_newest_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("gaps.jsonl");
        let mut books = Books::open(&path).expect("none yet");
        for (network, batch, ms) in [
            ("a", 1, 10.0),
            ("a", 8, 11.0),
            ("b", 1, 12.0),
            ("a", 1, 9.0),
        ] {
            books.add(example(network, batch, ms)).expect("written");
        }
        let books = Books::open(&path).expect("there");
        let newest = books.newest(|gap| gap.platform == "here");
        let figures: Vec<_> = newest
            .iter()
            .map(|gap| (gap.network.as_str(), gap.batch, gap.layers_mean_ms()))
            .collect();
        assert_eq!(figures, [("a", 1, 9.0), ("a", 8, 11.0), ("b", 1, 12.0)]);
        assert!(books.newest(|gap| gap.platform == "there").is_empty());

        fs::write(&path, "{}\n").expect("written");
        let error = Books::open(&path).err().expect("no gap").to_string();
        assert!(error.contains("line 1 of "), "{error}");
    }
}
