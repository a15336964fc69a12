//! What a process takes of the machine, by what the kernel says of it.

use std::path::Path;

/// Mebibytes of memory that are resident.
pub(crate) fn resident_mib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("Linux");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .expect("always there");
    line.split_whitespace()
        .nth(1)
        .map_or(0, |kib| kib.parse::<u64>().expect("a number") / 1024)
}

/// Files that are open, sockets among them.
pub(crate) fn open_files(process: u32) -> usize {
    entries(&format!("/proc/{process}/fd"))
}

/// Threads.
pub(crate) fn threads(process: u32) -> usize {
    entries(&format!("/proc/{process}/task"))
}

fn entries(folder: &str) -> usize {
    std::fs::read_dir(folder).expect("Linux").count()
}

/// What the files of a folder, and those below it, take of the disk.
pub(crate) fn disk_mib(folder: &Path) -> u64 {
    fn bytes(folder: &Path) -> u64 {
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let taken = files.map(|file| {
            use std::os::unix::fs::MetadataExt as _;
            match file.metadata() {
                Ok(what) if what.is_dir() => bytes(&file.path()),
                Ok(what) => what.blocks() * 512,
                // It was removed meanwhile.
                Err(_) => 0,
            }
        });
        taken.sum()
    }
    bytes(folder) >> 20
}
