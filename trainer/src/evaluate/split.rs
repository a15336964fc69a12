//! Which rows a model is fitted to, and which it is judged on.

use std::collections::BTreeMap;

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use wattfarm_cost::Hash;

use super::table::Table;

/// How rows are held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// By turns, in this many folds of different layers.
    Folds(usize),
    /// The fifth with the most operations.
    Large,
    /// The fifth with the fewest operations.
    Small,
    /// By turns, the rows of each label.
    Labels,
}

/// Places of the rows to fit and of those to judge; together not always all rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Rows to fit: at least one.
    pub fitted: Vec<usize>,
    /// Rows to judge: at least one.
    pub judged: Vec<usize>,
}

/// A table that can't be split so.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{distinct} different {what} can't be parted into {parts}")]
pub struct SplitError {
    distinct: usize,
    what: &'static str,
    parts: usize,
}

impl Split {
    /// The parts, in which no layer is on both sides. `seed` deals layers to folds; the other splits don't need it.
    pub fn parts(self, table: &Table, seed: u64) -> Result<Vec<Part>, SplitError> {
        let (groups, what) = match self {
            Self::Labels => (group_by(table, |row| row.label.clone()), "labels"),
            _ => (group_by(table, |row| row.layer.hash()), "layers"),
        };
        let wanted = match self {
            Self::Folds(count) => count,
            Self::Large | Self::Small => 2,
            Self::Labels => groups.len(),
        };
        if wanted < 2 || groups.len() < wanted {
            return Err(SplitError {
                distinct: groups.len(),
                what,
                parts: wanted,
            });
        }
        let turns: Vec<Vec<usize>> = match self {
            Self::Labels => groups,
            Self::Folds(count) => dealt(groups, count, seed),
            Self::Large | Self::Small => vec![extreme_fifth(table, groups, self == Self::Large)],
        };
        let parts: Vec<Part> = turns
            .into_iter()
            .map(|judged| part(table, judged))
            .collect();
        // Where all layers have one label, nothing is left to fit.
        match parts.iter().any(|part| part.fitted.is_empty()) {
            true => Err(SplitError {
                distinct: 1,
                what,
                parts: parts.len(),
            }),
            false => Ok(parts),
        }
    }
}

/// Rows by a key, in the key's order: a file's order must not matter.
fn group_by<K: Ord>(table: &Table, key: impl Fn(&super::table::Row) -> K) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<K, Vec<usize>> = BTreeMap::new();
    for (place, row) in table.rows.iter().enumerate() {
        groups.entry(key(row)).or_default().push(place);
    }
    groups.into_values().collect()
}

fn dealt(mut groups: Vec<Vec<usize>>, count: usize, seed: u64) -> Vec<Vec<usize>> {
    groups.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut folds = vec![Vec::new(); count];
    for (place, group) in groups.into_iter().enumerate() {
        folds[place % count].extend(group);
    }
    folds
}

fn extreme_fifth(table: &Table, mut groups: Vec<Vec<usize>>, is_largest: bool) -> Vec<usize> {
    let flops = |group: &Vec<usize>| table.rows[group[0]].layer.work().flops;
    groups.sort_by_key(flops);
    if is_largest {
        groups.reverse();
    }
    groups.truncate((groups.len() / 5).max(1));
    groups.concat()
}

/// The rows that are judged, and all that share no layer with them.
fn part(table: &Table, judged: Vec<usize>) -> Part {
    let held_out: std::collections::BTreeSet<Hash> = judged
        .iter()
        .map(|&row| table.rows[row].layer.hash())
        .collect();
    let fitted =
        (0..table.rows.len()).filter(|&row| !held_out.contains(&table.rows[row].layer.hash()));
    Part {
        fitted: fitted.collect(),
        judged,
    }
}
