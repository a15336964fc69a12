//! The memory that this process's control group leaves it: in a container, less than the machine has.

use std::fs;
use std::path::{Path, PathBuf};

/// Where Linux shows control groups: in version 2 all of them, in version 1 those of a controller in a folder of its name.
const ROOT: &str = "/sys/fs/cgroup";

/// Bytes of memory, `u64::MAX` where no group sets a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// That this process's groups may use in all.
    pub(crate) limit: u64,
    /// That they may still use. What caches files does not count as used: the kernel takes it back.
    pub(crate) available: u64,
}

/// What the files of one version of control groups are called.
struct Names {
    limit: &'static str,
    used: &'static str,
    /// In `memory.stat`: bytes that cache files and are not in use.
    cached: &'static str,
}

const VERSION_1: Names = Names {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cached: "total_inactive_file",
};

const VERSION_2: Names = Names {
    limit: "memory.max",
    used: "memory.current",
    cached: "inactive_file",
};

/// The bounds of this process, at this moment.
pub(crate) fn bounds() -> Bounds {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    bounds_in(Path::new(ROOT), &own)
}

/// The tightest bounds of the groups in `own` (as /proc/self/cgroup has them: `0::/GROUP` in version 2,
/// `NUMBER:memory:/GROUP` in version 1) and all those above them.
fn bounds_in(root: &Path, own: &str) -> Bounds {
    let mut bounds = Bounds {
        limit: u64::MAX,
        available: u64::MAX,
    };
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, names) = if controllers.is_empty() {
            (root.to_owned(), VERSION_2)
        } else if controllers.split(',').any(|name| name == "memory") {
            (root.join("memory"), VERSION_1)
        } else {
            continue;
        };
        // A container may see its own group as the root: then the folders above don't exist, and the root does.
        let group = group.trim_start_matches('/');
        for folder in Path::new(group).ancestors() {
            let folder = root.join(folder);
            let Some(limit) = number(folder.join(names.limit)) else {
                continue;
            };
            let used = number(folder.join(names.used)).unwrap_or(0);
            let used = used.saturating_sub(cached(&folder, names.cached));
            bounds.limit = bounds.limit.min(limit);
            bounds.available = bounds.available.min(limit.saturating_sub(used));
        }
    }
    bounds
}

/// The number in a file; `None` without the file, or where it says `max`.
fn number(path: PathBuf) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn cached(folder: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    let found = pairs.find(|(key, _)| *key == name);
    found.and_then(|(_, bytes)| bytes.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of groups with files in it.
    fn groups(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("in the root")).expect("made");
            fs::write(path, text).expect("written");
        }
        root
    }

    fn bounds(limit: u64, available: u64) -> Bounds {
        Bounds { limit, available }
    }

    #[test]
    fn the_tightest_group_counts_and_cached_files_do_not() {
        let root = groups(&[
            ("slice/memory.max", "4000\n"),
            ("slice/memory.current", "3500\n"),
            ("slice/memory.stat", "anon 2500\ninactive_file 900\n"),
            ("slice/box/memory.max", "max\n"),
            ("slice/box/memory.current", "100\n"),
        ]);
        let found = bounds_in(root.path(), "0::/slice/box\n");
        assert_eq!(found, bounds(4000, 1400));
    }

    #[test]
    fn a_container_that_sees_its_group_as_the_root_is_bounded_too() {
        let root = groups(&[
            ("memory/memory.limit_in_bytes", "1000\n"),
            ("memory/memory.usage_in_bytes", "400\n"),
            ("memory/memory.stat", "total_inactive_file 50\n"),
        ]);
        let own = "3:cpu,cpuacct:/docker/1f\n2:memory:/docker/1f\n0::/\n";
        assert_eq!(bounds_in(root.path(), own), bounds(1000, 650));
    }

    #[test]
    fn without_groups_there_are_no_bounds() {
        let root = groups(&[("memory.current", "7\n")]);
        for own in ["", "0::/\n", "nonsense\n"] {
            assert_eq!(bounds_in(root.path(), own), bounds(u64::MAX, u64::MAX));
        }
    }
}
