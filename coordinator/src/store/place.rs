//! Where a store is: what `--store` names.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, ensure};

use super::postgres::{self, Address};
use super::{DurableStore, Existing, sled};

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder: one coordinator's own, kept by sled.
    Folder(PathBuf),
    /// A PostgreSQL database, whose shards coordinators have among them.
    Database(Address),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return text.parse().map(Self::Database);
        }
        match text.split_once(':') {
            Some(("sled", folder)) if !folder.is_empty() => Ok(Self::Folder(folder.into())),
            Some((scheme, _)) if !scheme.contains('/') => Err(format!(
                "`{scheme}:` is neither `sled:DIR` nor `postgres://...`; a folder of that name is `./{text}`"
            )),
            _ if text.is_empty() => Err("names no folder".to_owned()),
            _ => Ok(Self::Folder(text.into())),
        }
    }
}

/// Without a database's password.
impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(formatter),
            Self::Database(address) => address.fmt(formatter),
        }
    }
}

impl Place {
    /// Opens a store that is there, and that no coordinator works on: looking for one must not make one.
    pub fn existing(&self) -> anyhow::Result<Existing> {
        let shards = match self {
            Self::Folder(folder) if folder.join("db").exists() => vec![sled::open(folder)?],
            Self::Folder(_) => Vec::new(),
            Self::Database(address) => postgres::existing(address)?,
        };
        ensure!(!shards.is_empty(), "`{self}` holds no store");
        Ok(Existing(shards))
    }

    /// Makes a store where there is none: whole, or nothing that could be taken for one.
    pub fn make<T>(
        &self,
        fill: impl FnOnce(&DurableStore) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        match self {
            Self::Folder(folder) => make_folder(folder, fill),
            Self::Database(address) => {
                let (store, tenure) = postgres::begin(address)?;
                let filled = fill(&store)?;
                tenure.is_whole()?;
                Ok(filled)
            }
        }
    }
}

fn make_folder<T>(
    folder: &Path,
    fill: impl FnOnce(&DurableStore) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    ensure!(
        !folder.join("db").exists(),
        "`{}` holds a store already",
        folder.display()
    );
    let part = folder.with_added_extension("part");
    ensure!(
        !part.exists(),
        "`{}` is left from an import that failed: remove it",
        part.display()
    );
    let filled = fill(&sled::open(&part)?)?;
    if folder.exists() {
        fs::remove_dir(folder).with_context(|| {
            format!(
                "`{}` is to be the store, and is not empty",
                folder.display()
            )
        })?;
    }
    fs::rename(&part, folder).with_context(|| format!("name the store `{}`", folder.display()))?;
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_a_folder_or_a_database() {
        let place = |text: &str| text.parse::<Place>();
        assert_eq!(place("./farm"), Ok(Place::Folder("./farm".into())));
        assert_eq!(
            place("sled:/srv/farm"),
            Ok(Place::Folder("/srv/farm".into()))
        );
        assert_eq!(place("./a:b"), Ok(Place::Folder("./a:b".into())));
        let database = place("postgres://farm:secret@db.example:5433/farm").expect("an address");
        assert_eq!(database.to_string(), "postgres://db.example:5433/farm");
        for wrong in [
            "",
            "sled:",
            "mysql://db/farm",
            "redis:6379",
            "postgres://db:port/farm",
        ] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
