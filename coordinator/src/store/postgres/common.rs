//! What coordinators over one database read and write outside of any shard's tenure: who else there is, who has which shard,
//! where platforms have their places; and records of any shard, as they were committed last.

use std::collections::BTreeMap;

use super::super::StoreError;
use super::super::home::Item;
use super::super::shelf::Shelf;
use super::session::{Session, Use};
use super::shard::Shard;
use super::tenure::{IS_FREE, IS_THERE, TERM_SECONDS};
use super::{Address, table};

/// Tables that are the whole farm's.
pub(super) const TABLES: &str = "CREATE TABLE IF NOT EXISTS wattfarm.coordinators \
     (address text PRIMARY KEY, ends timestamptz NOT NULL, backend integer NOT NULL, backend_start timestamptz NOT NULL); \
     CREATE TABLE IF NOT EXISTS wattfarm.places (platform text PRIMARY KEY, shard integer NOT NULL);";

/// A way to what is common.
#[derive(Debug)]
pub struct Common(Session);

/// What a coordinator sees of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Coordinators that live, this one included.
    pub coordinators: usize,
    /// The shards that there are.
    pub shards: BTreeMap<Shard, Seen>,
}

/// What is seen of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// How many have been in charge of it.
    pub epoch: i64,
    /// Where whoever is in charge of it takes calls; `None` if nobody is.
    pub address: Option<String>,
    /// The block that its numbers began in.
    pub block: u64,
}

impl Common {
    /// A way over a connection of its own.
    pub fn open(address: &Address) -> Result<Self, StoreError> {
        Session::open(address, Use::Read).map(Self)
    }

    /// Says that a coordinator lives, and takes calls at `address`; looks who else does, and who has what.
    pub fn look(&self, address: &str) -> Result<View, StoreError> {
        let own = address.to_owned();
        let view = self.0.run("look at the other coordinators", move |client, _| {
            // A connection of ours that broke may be seen for a moment more.
            let live = format!(
                "INSERT INTO wattfarm.coordinators AS in_charge (address, ends, backend, backend_start) \
                 SELECT $1, clock_timestamp() + $2 * interval '1 second', pid, backend_start \
                 FROM pg_stat_activity WHERE pid = pg_backend_pid() ON CONFLICT (address) DO UPDATE \
                 SET ends = excluded.ends, backend = excluded.backend, backend_start = excluded.backend_start \
                 WHERE in_charge.backend = excluded.backend OR {IS_FREE}"
            );
            if client.execute(&live, &[&own, &TERM_SECONDS])? == 0 {
                return Ok(None);
            }
            let old = "DELETE FROM wattfarm.coordinators WHERE ends < clock_timestamp() - interval '1 minute'";
            client.execute(old, &[])?;
            let count = format!("SELECT count(*) FROM wattfarm.coordinators AS in_charge WHERE NOT {IS_FREE}");
            let coordinators: i64 = client.query_one(&count, &[])?.get(0);
            let mut view = View {
                coordinators: usize::try_from(coordinators).unwrap_or(1),
                shards: BTreeMap::new(),
            };
            for shard in Shard::all() {
                let schema = shard.schema();
                if !client.query_one(IS_THERE, &[&schema])?.get::<_, bool>(0) {
                    continue;
                }
                let seen = format!("SELECT epoch, address, block, {IS_FREE} FROM {schema}.in_charge");
                if let Some(row) = client.query_opt(&seen, &[])? {
                    let (address, is_free): (String, bool) = (row.get(1), row.get(3));
                    view.shards.insert(shard, Seen {
                        epoch: row.get(0),
                        address: Some(address).filter(|_| !is_free),
                        block: row.get::<_, i64>(2).cast_unsigned(),
                    });
                }
            }
            Ok(Some(view))
        })?;
        view.ok_or_else(|| {
            StoreError::Database(format!(
                "has another coordinator that takes calls at `{address}`: give each an --advertise of its own"
            ))
        })
    }

    /// Says that a coordinator is no more.
    pub fn leave(&self, address: &str) -> Result<(), StoreError> {
        let own = address.to_owned();
        self.0
            .run("leave the other coordinators", move |client, _| {
                client
                    .execute(
                        "DELETE FROM wattfarm.coordinators WHERE address = $1",
                        &[&own],
                    )
                    .map(drop)
            })
    }

    /// A record of a shard.
    pub(in super::super) fn record(
        &self,
        shard: Shard,
        shelf: Shelf,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = format!("SELECT record FROM {} WHERE key = $1", table(shard, shelf));
        let key = key.to_vec();
        let rows = self.0.rows(sql, move |query| query(&[&key]))?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    /// All records of a shelf: not of one that grows without end.
    pub(in super::super) fn records(
        &self,
        shard: Shard,
        shelf: Shelf,
    ) -> Result<Vec<Item>, StoreError> {
        let sql = format!("SELECT key, record FROM {}", table(shard, shelf));
        let rows = self.0.rows(sql, |query| query(&[]))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// The place of a platform that is called so: the given one, unless it has one.
    pub fn place(&self, name: &str, wanted: Shard) -> Result<Shard, StoreError> {
        let name = name.to_owned();
        let placed: i32 = self.0.run("give a platform its place", move |client, _| {
            let place = "INSERT INTO wattfarm.places (platform, shard) VALUES ($1, $2) ON CONFLICT DO NOTHING";
            client.execute(place, &[&name, &wanted.number().cast_signed()])?;
            let placed = "SELECT shard FROM wattfarm.places WHERE platform = $1";
            Ok(client.query_one(placed, &[&name])?.get(0))
        })?;
        let unknown = || {
            StoreError::Database(format!(
                "has a shard {placed}, and this coordinator knows none"
            ))
        };
        Shard::new(placed.cast_unsigned()).ok_or_else(unknown)
    }
}
