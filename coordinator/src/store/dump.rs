//! A store as text: neutral, streamed, and checked line by line and as a whole.
//!
//! A dump is NDJSON. The first line says what it is, `{"wattfarm_store":2}`; each of the others is a [`Change`] with the
//! CRC-32 of its text, `{"change":{...},"crc32":"89abcdef"}`; the last says how many there were, with the BLAKE3 hash of
//! every byte before it, so that a dump that was cut off is never taken for a whole one. Taking the changes in their order
//! into an empty store makes it equal to the one that was dumped, whatever kind either is.

use std::io::{self, BufRead, Read as _, Write};

use super::{Sink, Store, StoreError, recount};
use crate::farm::{Change, Records};

/// The version of the form. The first had no totals: they are counted when it is read.
const VERSION: u32 = 2;
const VERSION_WITHOUT_TOTALS: u32 = 1;

/// The longest line: a record holds at most one message of the protocol, and JSON is at most so much longer.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Changes of a commit on the way in.
const GROUP: usize = 1000;

const BEFORE: &str = r#"{"change":"#;
const BETWEEN: &str = r#","crc32":""#;
const AFTER: &str = r#""}"#;

/// Why a dump cannot be made or taken.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The store fails, or the file that is written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file cannot be read or written.
    #[error("read or write the dump")]
    Io(#[from] io::Error),
    /// It is something else, or damaged.
    #[error("line {line} of the dump {reason}")]
    Line {
        /// Which, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// It would mix with what is there.
    #[error("the store holds records already: import into an empty folder")]
    NotEmpty,
}

/// Writes a store's dump; returns how many changes it has. Commits may go on meanwhile.
pub fn write(store: &dyn Store, to: &mut impl Write) -> Result<u64, DumpError> {
    write_copy(|sink| store.copy(sink), to)
}

/// Writes the dump of what `copy` tells.
pub fn write_copy(
    copy: impl FnOnce(&mut Sink<'_>) -> Result<(), StoreError>,
    to: &mut impl Write,
) -> Result<u64, DumpError> {
    let mut dump = Dump::begin(to)?;
    copy(&mut |changes| changes.iter().try_for_each(|change| dump.line(change)))?;
    Ok(dump.end()?)
}

/// Makes one dump of several, as they come, whose stores have nothing in common.
#[derive(Debug)]
pub struct Joined {
    all: Dump<Vec<u8>>,
    /// What is known of the one under way.
    hash: blake3::Hasher,
    changes: u64,
    /// A line that is not whole yet.
    line: Vec<u8>,
    is_over: bool,
}

impl Joined {
    /// Of none yet.
    pub fn begin() -> io::Result<Self> {
        Ok(Self {
            all: Dump::begin(Vec::new())?,
            hash: blake3::Hasher::new(),
            changes: 0,
            line: Vec::new(),
            is_over: false,
        })
    }

    /// Takes the next bytes of the one under way; returns the next bytes of the whole.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, DumpError> {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = bytes.split_at(end + 1);
            self.line.extend_from_slice(line);
            bytes = rest;
            self.take_line()?;
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() as u64 > LINE_BYTES_MAX {
            return Err(self.wrong("is too long"));
        }
        Ok(std::mem::take(&mut self.all.to))
    }

    fn take_line(&mut self) -> Result<(), DumpError> {
        let line = std::mem::take(&mut self.line);
        let text = str::from_utf8(&line).map_err(|_| self.wrong("is not text"))?;
        if text.starts_with(BEFORE) {
            self.changes += 1;
            self.all.changes += 1;
            self.all.put(text)?;
        } else if text.starts_with("{\"end\":") {
            let (hash, changes) = (self.hash.finalize().to_hex(), self.changes);
            if text != format!("{{\"end\":{changes},\"blake3\":\"{hash}\"}}\n") {
                return Err(self.wrong("says that other lines stood before it"));
            }
            self.is_over = true;
        }
        self.hash.update(&line);
        Ok(())
    }

    /// The one under way has ended: the next one begins.
    pub fn begin_next(&mut self) -> Result<(), DumpError> {
        if !std::mem::take(&mut self.is_over) || !self.line.is_empty() {
            return Err(self.wrong("is missing: the dump was cut off"));
        }
        self.hash.reset();
        self.changes = 0;
        Ok(())
    }

    /// The last bytes of the whole.
    pub fn end(self) -> io::Result<Vec<u8>> {
        self.all.finish().map(|(_, rest)| rest)
    }

    fn wrong(&self, reason: &str) -> DumpError {
        DumpError::Line {
            line: self.changes + 2,
            reason: reason.to_owned(),
        }
    }
}

#[derive(Debug)]
struct Dump<W> {
    to: W,
    hash: blake3::Hasher,
    changes: u64,
}

impl<W: Write> Dump<W> {
    fn begin(to: W) -> io::Result<Self> {
        let mut dump = Self {
            to,
            hash: blake3::Hasher::new(),
            changes: 0,
        };
        dump.put(&format!("{{\"wattfarm_store\":{VERSION}}}\n"))?;
        Ok(dump)
    }

    fn line(&mut self, change: &Change) -> io::Result<()> {
        let text = serde_json::to_string(change)?;
        let checksum = crc32fast::hash(text.as_bytes());
        self.changes += 1;
        self.put(&format!("{BEFORE}{text}{BETWEEN}{checksum:08x}{AFTER}\n"))
    }

    fn end(self) -> io::Result<u64> {
        self.finish().map(|(changes, _)| changes)
    }

    fn finish(mut self) -> io::Result<(u64, W)> {
        let (hash, changes) = (self.hash.finalize().to_hex(), self.changes);
        self.put(&format!("{{\"end\":{changes},\"blake3\":\"{hash}\"}}\n"))?;
        self.to.flush()?;
        Ok((changes, self.to))
    }

    fn put(&mut self, line: &str) -> io::Result<()> {
        self.hash.update(line.as_bytes());
        self.to.write_all(line.as_bytes())
    }
}

/// Takes a dump into an empty store; returns how many changes it had. After an error the store holds a part: throw it away.
pub fn read(store: &dyn Store, from: &mut impl BufRead) -> Result<u64, DumpError> {
    if store.load()? != Records::default() {
        return Err(DumpError::NotEmpty);
    }
    let mut lines = Lines {
        from,
        hash: blake3::Hasher::new(),
        number: 0,
        text: String::new(),
    };
    lines.next()?;
    let is_of = |version: u32| lines.text == format!("{{\"wattfarm_store\":{version}}}\n");
    let has_totals = is_of(VERSION);
    if !has_totals && !is_of(VERSION_WITHOUT_TOTALS) {
        return Err(lines.wrong("is not the beginning of a dump of version 1 or 2"));
    }
    let (mut group, mut changes) = (Vec::with_capacity(GROUP), 0_u64);
    loop {
        let hash = lines.hash.finalize().to_hex();
        lines.next()?;
        if lines.text.is_empty() {
            return Err(lines.wrong("is missing: the dump was cut off"));
        }
        if lines.text.starts_with("{\"end\":") {
            if lines.text != format!("{{\"end\":{changes},\"blake3\":\"{hash}\"}}\n") {
                return Err(lines.wrong("says that other lines stood before it"));
            }
            if !group.is_empty() {
                store.commit(&group)?;
            }
            if !has_totals {
                let totals = recount(store)?.all();
                store.commit(&totals.into_iter().map(Change::Total).collect::<Vec<_>>())?;
            }
            return Ok(changes);
        }
        group.push(lines.change()?);
        changes += 1;
        if group.len() == GROUP {
            store.commit(&group)?;
            group.clear();
        }
    }
}

struct Lines<'a, R> {
    from: &'a mut R,
    hash: blake3::Hasher,
    number: u64,
    text: String,
}

impl<R: BufRead> Lines<'_, R> {
    fn next(&mut self) -> Result<(), DumpError> {
        self.text.clear();
        self.number += 1;
        let mut bounded = self.from.take(LINE_BYTES_MAX);
        match bounded.read_line(&mut self.text) {
            Ok(_) if self.text.len() as u64 == LINE_BYTES_MAX => Err(self.wrong("is too long")),
            Ok(_) => {
                self.hash.update(self.text.as_bytes());
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(self.wrong("is not text"))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn change(&self) -> Result<Change, DumpError> {
        let inside = self
            .text
            .trim_end()
            .strip_prefix(BEFORE)
            .and_then(|rest| rest.strip_suffix(AFTER));
        let parts = inside.and_then(|inside| inside.rsplit_once(BETWEEN));
        let (text, checksum) = parts.ok_or_else(|| self.wrong("has not the form of a change"))?;
        if format!("{:08x}", crc32fast::hash(text.as_bytes())) != checksum {
            return Err(self.wrong("fails its checksum"));
        }
        serde_json::from_str(text).map_err(|error| self.wrong(&error.to_string()))
    }

    fn wrong(&self, reason: &str) -> DumpError {
        DumpError::Line {
            line: self.number,
            reason: reason.to_owned(),
        }
    }
}
