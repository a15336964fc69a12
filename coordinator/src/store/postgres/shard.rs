//! Shards: the parts of a farm over a database, each a store of its own in a schema of its own.

use std::fmt;

/// How many parts there are. There may be more later, and never fewer: platforms have their places in them.
const COUNT: u32 = 4;

/// A part of the farm: the platforms that were placed there, with all that is theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shard(u32);

impl Shard {
    /// The one that has the tokens and the keys too, and all of a farm that was made before there were others.
    pub const HOME: Self = Self(0);

    /// Every shard, the home first.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..COUNT).map(Self)
    }

    /// The shard of a number, if there is one.
    pub fn new(number: u32) -> Option<Self> {
        (number < COUNT).then_some(Self(number))
    }

    /// Its number.
    pub fn number(self) -> u32 {
        self.0
    }

    /// One for a name that has no place yet: any will do, as long as names are spread.
    pub fn for_name(name: &str) -> Self {
        let hash = blake3::hash(name.as_bytes());
        let first = hash.as_bytes().first_chunk().expect("it has 32 bytes");
        Self(u32::from_be_bytes(*first) % COUNT)
    }

    /// The most that one of so many coordinators takes.
    pub fn fair_share(coordinators: usize) -> usize {
        (COUNT as usize).div_ceil(coordinators.max(1))
    }

    /// The schema of its tables.
    pub(super) fn schema(self) -> String {
        match self.0 {
            0 => "wattfarm".to_owned(),
            number => format!("wattfarm_{number}"),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
