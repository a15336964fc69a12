//! The catalogue's lines as bytes: a letter, a number of jobs and the number of a pack, and then the jobs. Numbers have their
//! lowest byte first.

use uuid::Uuid;
use wattfarm_cost::id::JobId;

use super::catalogue::{Line, Ordinal};

const MADE: u8 = b'm';
const OVER: u8 = b'o';
const GONE: u8 = b'g';

/// Some lines' bytes.
pub(super) fn encode(lines: &[Line]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        match line {
            Line::Made { first, pack, jobs } => {
                head(&mut bytes, MADE, jobs.len(), *pack);
                bytes.extend(first.to_le_bytes());
                for (id, hint) in jobs {
                    bytes.extend(id.0.as_bytes());
                    bytes.extend(hint.to_le_bytes());
                }
            }
            Line::Over { pack, jobs } => {
                head(&mut bytes, OVER, jobs.len(), *pack);
                bytes.extend(jobs.iter().flat_map(|job| job.to_le_bytes()));
            }
            Line::Gone(jobs) => {
                head(&mut bytes, GONE, jobs.len(), 0);
                bytes.extend(jobs.iter().flat_map(|job| job.to_le_bytes()));
            }
        }
    }
    bytes
}

fn head(bytes: &mut Vec<u8>, letter: u8, jobs: usize, pack: u64) {
    bytes.push(letter);
    let jobs = u32::try_from(jobs).expect("a commit has far fewer changes");
    bytes.extend(jobs.to_le_bytes());
    bytes.extend(pack.to_le_bytes());
}

/// Lines of bytes, or why they are none.
pub(super) fn decode(mut bytes: &[u8]) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    while let Some((&letter, rest)) = bytes.split_first() {
        bytes = rest;
        let jobs = u32::from_le_bytes(next(&mut bytes)?) as usize;
        let pack = u64::from_le_bytes(next(&mut bytes)?);
        lines.push(match letter {
            MADE => Line::Made {
                first: ordinal(&mut bytes)?,
                pack,
                jobs: some(&mut bytes, jobs, |bytes| {
                    let id = JobId(Uuid::from_bytes(next(bytes)?));
                    Ok((id, u64::from_le_bytes(next(bytes)?)))
                })?,
            },
            OVER => Line::Over {
                pack,
                jobs: some(&mut bytes, jobs, ordinal)?,
            },
            GONE => Line::Gone(some(&mut bytes, jobs, ordinal)?),
            other => return Err(format!("has a line of sort {other}")),
        });
    }
    Ok(lines)
}

/// So many of something: as many as there are bytes for, whatever the line says.
fn some<T>(
    bytes: &mut &[u8],
    count: usize,
    mut one: impl FnMut(&mut &[u8]) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let mut all = Vec::with_capacity(count.min(bytes.len()));
    for _ in 0..count {
        all.push(one(bytes)?);
    }
    Ok(all)
}

fn ordinal(bytes: &mut &[u8]) -> Result<Ordinal, String> {
    next(bytes).map(Ordinal::from_le_bytes)
}

fn next<const BYTES: usize>(bytes: &mut &[u8]) -> Result<[u8; BYTES], String> {
    let (first, rest) = bytes.split_first_chunk().ok_or("is cut off")?;
    *bytes = rest;
    Ok(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line> {
        let id = |number| JobId(Uuid::from_u128(number));
        vec![
            Line::Made {
                first: 7,
                pack: 2,
                jobs: vec![(id(1), 5), (id(2), 6)],
            },
            Line::Over {
                pack: 3,
                jobs: vec![7],
            },
            Line::Gone(vec![8, 1]),
        ]
    }

    /// What was written once is read for ever.
    #[test]
    fn the_form_is_golden() {
        let bytes = encode(&lines());
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            digits,
            "6d02000000020000000000000007000000\
             000000000000000000000000000000010500000000000000\
             000000000000000000000000000000020600000000000000\
             6f01000000030000000000000007000000\
             6702000000000000000000000008000000\
             01000000"
        );
        assert_eq!(decode(&bytes), Ok(lines()));
    }

    #[test]
    fn bytes_that_end_early_are_refused() {
        let bytes = encode(&lines());
        let whole: Vec<_> = (1..bytes.len())
            .filter(|&end| decode(&bytes[..end]).is_ok())
            .collect();
        // Between two lines.
        assert_eq!(whole, [65, 82]);
        assert!(decode(b"x\0\0\0\0\0\0\0\0\0\0\0\0").is_err());
        assert!(decode(b"g\xff\xff\xff\xff\0\0\0\0\0\0\0\0\x01\0\0\0").is_err());
    }
}
