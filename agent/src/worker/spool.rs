//! Reports on disk until they are acknowledged, so that an agent that dies while the coordinator is away has measured for
//! something.
//!
//! A file of records, each with its length and a checksum. A report that was acknowledged just before the agent died is
//! handed in once more: the coordinator knows it by its lease.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use prost::Message as _;
use wattfarm_proto::v1::report_results_request::Report;

/// Length and checksum before each record.
const HEADER: usize = 8;

/// A longer record is none of ours.
const RECORD_MAX: usize = 4 << 20;

/// The file.
pub struct Spool {
    path: PathBuf,
    file: File,
    /// Bytes of whole records.
    length: u64,
}

impl Spool {
    /// Opens the file in the agent's state folder, and reads what an earlier run could not hand in. A torn record, as a
    /// crash leaves it, ends the file.
    ///
    /// # Errors
    /// When the file cannot be opened, read or cut.
    pub fn open(state: &Path) -> io::Result<(Self, Vec<Report>)> {
        let path = state.join("reports.spool");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (reports, good) = decode(&bytes);
        if good < bytes.len() {
            tracing::warn!(
                bytes = bytes.len() - good,
                "the spool of reports ends in a torn record: dropped"
            );
            file.set_len(good as u64)?;
        }
        file.seek(io::SeekFrom::End(0))?;
        let length = good as u64;
        Ok((Self { path, file, length }, reports))
    }

    /// Adds a report; when this returns it is on disk.
    ///
    /// # Errors
    /// When it could not be written; nothing of it is left then, which would hide the next ones.
    pub(super) fn append(&mut self, report: &Report) -> io::Result<()> {
        let record = encode(report);
        let written = (self.file.write_all(&record)).and_then(|()| self.file.sync_data());
        if written.is_ok() {
            self.length += record.len() as u64;
        } else {
            self.file.set_len(self.length)?;
            self.file.seek(io::SeekFrom::End(0))?;
        }
        written
    }

    /// Keeps these alone: the others are acknowledged. A crash leaves either the file before or the one after.
    ///
    /// # Errors
    /// When they could not be written: the file is as it was.
    pub(super) fn keep<'a>(&mut self, reports: impl Iterator<Item = &'a Report>) -> io::Result<()> {
        let bytes: Vec<u8> = reports.flat_map(encode).collect();
        if bytes.is_empty() {
            self.file.set_len(0)?;
            self.file.seek(io::SeekFrom::Start(0))?;
        } else {
            let beside = self.path.with_extension("spool.new");
            let mut file = File::create(&beside)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            std::fs::rename(&beside, &self.path)?;
            self.file = file;
        }
        self.length = bytes.len() as u64;
        self.file.sync_data()
    }
}

fn encode(report: &Report) -> Vec<u8> {
    let record = report.encode_to_vec();
    let mut bytes = Vec::with_capacity(HEADER + record.len());
    bytes.extend((record.len() as u32).to_le_bytes());
    bytes.extend(crc32fast::hash(&record).to_le_bytes());
    bytes.extend(record);
    bytes
}

/// The reports in `bytes`, and how many of the bytes they are.
fn decode(bytes: &[u8]) -> (Vec<Report>, usize) {
    let (mut reports, mut good) = (Vec::new(), 0);
    while let Some((report, length)) = decode_one(&bytes[good..]) {
        reports.push(report);
        good += length;
    }
    (reports, good)
}

fn decode_one(bytes: &[u8]) -> Option<(Report, usize)> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let checksum = u32::from_le_bytes(bytes.get(4..HEADER)?.try_into().ok()?);
    if length > RECORD_MAX {
        return None;
    }
    let record = bytes.get(HEADER..HEADER + length)?;
    if crc32fast::hash(record) != checksum {
        return None;
    }
    Some((Report::decode(record).ok()?, HEADER + length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wattfarm_proto::v1::report_results_request::report::Outcome;

    use super::*;

    fn report(lease: u64) -> Report {
        Report {
            job_id: format!("job {lease}"),
            lease,
            outcome: Some(Outcome::Failed("x".to_owned())),
        }
    }

    fn leases(reports: &[Report]) -> Vec<u64> {
        reports.iter().map(|report| report.lease).collect()
    }

    #[test]
    fn what_is_not_acknowledged_is_there_after_a_crash() {
        let folder = tempfile::tempdir().expect("a folder");
        {
            let (mut spool, none) = Spool::open(folder.path()).expect("opened");
            assert!(none.is_empty());
            for lease in 1..=3 {
                spool.append(&report(lease)).expect("written");
            }
            spool.keep([report(2), report(3)].iter()).expect("written");
            spool.append(&report(4)).expect("written");
        }
        let (_, reports) = Spool::open(folder.path()).expect("opened");
        assert_eq!(leases(&reports), [2, 3, 4]);
    }

    proptest! {
        /// Wherever a crash cuts the file, the whole records before the cut are read, and the next ones follow them.
        #[test]
        fn a_torn_end_loses_only_itself(count in 1u64..6, cut in 0usize..60) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("reports.spool");
            let records: Vec<Vec<u8>> = (1..=count).map(|lease| encode(&report(lease))).collect();
            let mut bytes = records.concat();
            bytes.truncate(bytes.len().saturating_sub(cut));
            std::fs::write(&path, &bytes).expect("written");
            let mut length = 0;
            let whole = records.iter().take_while(|record| {
                length += record.len();
                length <= bytes.len()
            });
            let whole = whole.count() as u64;
            let (mut spool, reports) = Spool::open(folder.path()).expect("opened");
            prop_assert_eq!(leases(&reports), (1..=whole).collect::<Vec<_>>());
            spool.append(&report(9)).expect("written");
            let (_, reports) = Spool::open(folder.path()).expect("opened");
            prop_assert_eq!(leases(&reports), (1..=whole).chain([9]).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (_, good) = decode(&bytes);
            prop_assert!(good <= bytes.len());
        }
    }
}
