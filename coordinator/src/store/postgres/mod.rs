//! The home in PostgreSQL: of each shard a table for each shelf, and a table of one row that says who is in charge of it.
//!
//! A commit is one transaction, and is told only after the database has it on disk (`synchronous_commit`). Each begins by
//! looking whether this coordinator is still in charge, under a lock that whoever takes over has to wait for: one that was
//! paused, or cut off, and has been replaced can write nothing more. No SQL leaves this folder.

mod common;
mod session;
mod shard;
mod tenure;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use postgres::types::ToSql;
use postgres::{Client, Config};

pub use self::common::{Common, Seen, View};
use self::session::{Session, Use, failed};
pub use self::shard::Shard;
pub use self::tenure::Tenure;
use self::tenure::{Claim, epoch_is};
use self::tls::{Tls, Wish};
use super::home::{Batch, Home, Item};
use super::shelf::Shelf;
use super::{DurableStore, StoreError};

/// A database.
#[derive(Clone)]
pub struct Address {
    /// As it was written, password and all.
    text: String,
    config: Box<Config>,
    /// Whom a connection trusts; `None` for one in the clear.
    tls: Option<Tls>,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wish = Wish::of(text)?;
        let config: Config = wish.address.parse().map_err(|error: postgres::Error| {
            let cause = std::error::Error::source(&error);
            cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
        })?;
        if config.get_hosts().is_empty() {
            return Err("names no host".to_owned());
        }
        Ok(Self {
            text: text.to_owned(),
            config: Box::new(config),
            tls: wish.tls,
        })
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Address {}

/// Without a password.
impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match self.config.get_hosts().first() {
            Some(postgres::config::Host::Tcp(host)) => host.clone(),
            Some(postgres::config::Host::Unix(folder)) => folder.display().to_string(),
            None => String::new(),
        };
        write!(formatter, "postgres://{host}")?;
        if let Some(port) = self.config.get_ports().first() {
            write!(formatter, ":{port}")?;
        }
        write!(
            formatter,
            "/{}",
            self.config.get_dbname().unwrap_or_default()
        )
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Address {
    /// Takes charge of a shard, for a coordinator that takes calls at `calls`; `None` if another is, or there is no such
    /// shard. The home is made if it isn't there. Being in charge may end at any time: the tenure tells.
    pub fn claim(
        &self,
        shard: Shard,
        calls: &str,
    ) -> Result<Option<(DurableStore, Tenure)>, StoreError> {
        match Tenure::claim(self, shard, Claim::Whole, calls)? {
            Some(tenure) => Ok(Some((PostgresHome::store(self, &tenure)?, tenure))),
            None => Ok(None),
        }
    }

    /// Makes the shards beside the home that aren't there yet. The home has no number, and gives none, in a block after this.
    pub fn make_others(&self, block: u64) -> Result<(), StoreError> {
        Tenure::make_others(self, block)
    }
}

/// The stores of every shard that there is, each for as long as nobody else is in charge of it; none if there is no store.
pub(super) fn existing(address: &Address) -> Result<Vec<DurableStore>, StoreError> {
    let mut stores = Vec::new();
    for shard in Shard::all() {
        if Tenure::is_there(address, shard)? {
            let tenure = Tenure::claim(address, shard, Claim::Whole, "")?;
            let tenure = tenure.ok_or_else(|| in_use(address))?;
            let mut home = PostgresHome::open(address, &tenure)?;
            home._kept = Some(tenure);
            stores.push(DurableStore::over(Box::new(home))?);
        }
    }
    Ok(stores)
}

/// A store that is not whole until its tenure says so, in a database that holds none.
pub(super) fn begin(address: &Address) -> Result<(DurableStore, Tenure), StoreError> {
    let tenure = Tenure::claim(address, Shard::HOME, Claim::Part, "")?;
    let tenure = tenure.ok_or_else(|| in_use(address))?;
    Ok((PostgresHome::store(address, &tenure)?, tenure))
}

fn in_use(address: &Address) -> StoreError {
    StoreError::InUse(address.to_string())
}

/// A home in a database.
#[derive(Debug)]
struct PostgresHome {
    /// Commits and reads don't wait for each other.
    write: Session,
    read: Session,
    shard: Shard,
    epoch: i64,
    /// The tenure, where nobody else keeps it.
    _kept: Option<Tenure>,
}

impl PostgresHome {
    fn store(address: &Address, tenure: &Tenure) -> Result<DurableStore, StoreError> {
        DurableStore::over(Box::new(Self::open(address, tenure)?))
    }

    fn open(address: &Address, tenure: &Tenure) -> Result<Self, StoreError> {
        Ok(Self {
            write: Session::open(address, Use::Write)?,
            read: Session::open(address, Use::Read)?,
            shard: tenure.shard(),
            epoch: tenure.epoch(),
            _kept: None,
        })
    }
}

impl Home for PostgresHome {
    fn get(&self, shelf: Shelf, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let (sql, key) = (
            format!(
                "SELECT record FROM {} WHERE key = $1",
                table(self.shard, shelf)
            ),
            key.to_vec(),
        );
        let rows = self.read.rows(sql, move |query| query(&[&key]))?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    fn after(
        &self,
        shelf: Shelf,
        key: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Item>, StoreError> {
        let table = table(self.shard, shelf);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = match key.map(<[u8]>::to_vec) {
            Some(key) => {
                let sql =
                    format!("SELECT key, record FROM {table} WHERE key > $1 ORDER BY key LIMIT $2");
                self.read.rows(sql, move |query| query(&[&key, &limit]))?
            }
            None => {
                let sql = format!("SELECT key, record FROM {table} ORDER BY key LIMIT $1");
                self.read.rows(sql, move |query| query(&[&limit]))?
            }
        };
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    fn last(&self, shelf: Shelf, most: &[u8]) -> Result<Option<Item>, StoreError> {
        let table = table(self.shard, shelf);
        let sql =
            format!("SELECT key, record FROM {table} WHERE key <= $1 ORDER BY key DESC LIMIT 1");
        let most = most.to_vec();
        let rows = self.read.rows(sql, move |query| query(&[&most]))?;
        Ok(rows.first().map(|row| (row.get(0), row.get(1))))
    }

    fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut puts: BTreeMap<Shelf, (Column, Column)> = BTreeMap::new();
        let mut removals: BTreeMap<Shelf, Column> = BTreeMap::new();
        for ((shelf, key), record) in &batch.changes {
            match record {
                Some(record) => {
                    let (keys, records) = puts.entry(*shelf).or_default();
                    keys.push(key.clone());
                    records.push(record.clone());
                }
                None => removals.entry(*shelf).or_default().push(key.clone()),
            }
        }
        let (shard, epoch) = (self.shard, self.epoch);
        self.write.run("write to the store", move |client, statements| {
            let mut transaction = client.transaction()?;
            let is_ours = statements.get(&mut transaction, &epoch_is(shard))?;
            if transaction.query_opt(&is_ours, &[&epoch])?.is_none() {
                return Ok(Err(StoreError::TakenOver));
            }
            for (shelf, (keys, records)) in &puts {
                let sql = format!(
                    "INSERT INTO {} (key, record) SELECT * FROM unnest($1::bytea[], $2::bytea[]) \
                     ON CONFLICT (key) DO UPDATE SET record = excluded.record",
                    table(shard, *shelf)
                );
                let put = statements.get(&mut transaction, &sql)?;
                let parameters: [&(dyn ToSql + Sync); 2] = [keys, records];
                transaction.execute(&put, &parameters)?;
            }
            for (shelf, keys) in &removals {
                let sql = format!("DELETE FROM {} WHERE key = ANY ($1::bytea[])", table(shard, *shelf));
                let remove = statements.get(&mut transaction, &sql)?;
                transaction.execute(&remove, &[keys])?;
            }
            transaction.commit().map(Ok)
        })?
    }
}

/// Values of a column, one for each row.
type Column = Vec<Vec<u8>>;

/// The table of a shelf.
fn table(shard: Shard, shelf: Shelf) -> String {
    format!("{}.{}", shard.schema(), shelf.name().replace(' ', "_"))
}

/// Makes what is not there yet of a shard, all or nothing, with this form, whether it is whole, and the block of its numbers.
fn make_tables(
    client: &mut Client,
    shard: Shard,
    (form, is_whole, block): (i32, bool, u64),
) -> Result<(), StoreError> {
    let schema = shard.schema();
    let mut sql = format!(
        "BEGIN; CREATE SCHEMA IF NOT EXISTS {schema}; \
         CREATE TABLE IF NOT EXISTS {schema}.in_charge (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), \
         form integer NOT NULL, is_whole boolean NOT NULL, epoch bigint NOT NULL, ends timestamptz NOT NULL, \
         backend integer NOT NULL, backend_start timestamptz NOT NULL); \
         ALTER TABLE {schema}.in_charge ADD COLUMN IF NOT EXISTS address text NOT NULL DEFAULT '', \
         ADD COLUMN IF NOT EXISTS block bigint NOT NULL DEFAULT 0; \
         INSERT INTO {schema}.in_charge (form, is_whole, epoch, ends, backend, backend_start, block) \
         VALUES ({form}, {is_whole}, 0, '-infinity', 0, '-infinity', {block}) ON CONFLICT DO NOTHING;"
    );
    if shard == Shard::HOME {
        sql += common::TABLES;
    }
    for (shelf, _) in Shelf::ALL {
        let table = table(shard, shelf);
        sql += &format!(
            "CREATE TABLE IF NOT EXISTS {table} (key bytea PRIMARY KEY, record bytea NOT NULL);"
        );
        if shelf.is_packed() {
            sql += &format!("ALTER TABLE {table} ALTER COLUMN record SET STORAGE EXTERNAL;");
        }
    }
    sql += "COMMIT;";
    let made = client.batch_execute(&sql);
    if made.is_err() {
        // An error means that the connection is gone, and the transaction with it.
        let _ = client.batch_execute("ROLLBACK");
    }
    made.map_err(failed("make the store's tables"))
}
