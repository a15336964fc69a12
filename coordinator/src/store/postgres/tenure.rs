//! Who is in charge of a database: one coordinator at a time, for ten seconds at a time, by the database's clock.
//!
//! Each that takes over raises the epoch. A tenure can be taken over when its time has run out (its coordinator is paused, or
//! cut off), and at once when the connection that it was claimed by is gone (its coordinator was killed).

use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use postgres::Client;
use tokio::sync::watch;

use super::super::StoreError;
use super::session::{Use, connect, failed};
use super::{Address, make_tables};

/// How long a tenure lasts from when it was renewed last, in seconds; and how often it is renewed.
const TERM_SECONDS: f64 = 10.0;
const RENEWAL: Duration = Duration::from_secs(2);

/// The form of the tables, which later ones may change.
const FORM: i32 = 1;

/// Whether an epoch is still that of who is in charge. Who takes over waits for the lock, and so for the commit.
pub(super) const EPOCH_IS: &str = "SELECT 1 FROM wattfarm.in_charge WHERE epoch = $1 FOR SHARE";

const IS_THERE: &str = "SELECT to_regclass('wattfarm.in_charge') IS NOT NULL";

const DOING: &str = "take charge of the database";

/// What is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// A store that is whole, or a new one.
    Whole,
    /// One that is still to be filled: nobody takes it for a store until [`Tenure::is_whole`].
    Part,
}

/// Being in charge. It is renewed for as long as this is there, and ends with it.
pub struct Tenure {
    epoch: i64,
    /// The renewing thread's orders; it ends when this is dropped.
    orders: mpsc::SyncSender<Order>,
    lost: watch::Receiver<bool>,
}

enum Order {
    /// The store is whole: say so, and answer.
    IsWhole(mpsc::SyncSender<Result<(), StoreError>>),
    /// Let others take over at once.
    End(mpsc::SyncSender<()>),
}

impl fmt::Debug for Tenure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Tenure({})", self.epoch)
    }
}

impl Tenure {
    /// Whether there is a store at all.
    pub(super) fn is_there(address: &Address) -> Result<bool, StoreError> {
        on_a_thread(address, move |client| {
            let row = client.query_one(IS_THERE, &[]).map_err(failed(DOING))?;
            Ok(row.get(0))
        })
    }

    /// Takes charge, if nobody is; `None` if somebody is.
    pub(super) fn claim(address: &Address, claim: Claim) -> Result<Option<Self>, StoreError> {
        let (told, result) = mpsc::sync_channel(1);
        let (orders, to_do) = mpsc::sync_channel(1);
        let (lost, watched) = watch::channel(false);
        let address = address.clone();
        std::thread::spawn(move || {
            let claimed = connect(&address, Use::Write).and_then(|mut client| {
                let epoch = take(&mut client, claim)?;
                Ok((client, epoch))
            });
            // Errors of sending mean that nobody waits any more.
            match claimed {
                Ok((client, Some(epoch))) => {
                    let _ = told.send(Ok(Some(epoch)));
                    keep(client, epoch, &to_do, &lost);
                }
                Ok((_, None)) => drop(told.send(Ok(None))),
                Err(error) => drop(told.send(Err(error))),
            }
        });
        let epoch = result.recv().map_err(|_| StoreError::TakenOver)??;
        Ok(epoch.map(|epoch| Self {
            epoch,
            orders,
            lost: watched,
        }))
    }

    /// How many have been in charge, with this one.
    pub(super) fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Says that a store is whole.
    pub(in super::super) fn is_whole(&self) -> Result<(), StoreError> {
        let (told, result) = mpsc::sync_channel(1);
        let sent = self.orders.send(Order::IsWhole(told));
        sent.map_err(|_| StoreError::TakenOver)?;
        result.recv().map_err(|_| StoreError::TakenOver)?
    }

    /// Comes back when another coordinator is in charge, or the database can't be reached.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        // An error means that nobody renews it any more.
        let _ = lost.wait_for(|lost| *lost).await;
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        let (told, ended) = mpsc::sync_channel(1);
        if self.orders.send(Order::End(told)).is_ok() {
            // Either way it is over.
            let _ = ended.recv_timeout(Duration::from_secs(2));
        }
    }
}

/// Renews a tenure until it ends.
fn keep(
    mut client: Client,
    epoch: i64,
    orders: &mpsc::Receiver<Order>,
    lost: &watch::Sender<bool>,
) {
    let renew = "UPDATE wattfarm.in_charge SET ends = clock_timestamp() + $2 * interval '1 second' WHERE epoch = $1";
    let whole = "UPDATE wattfarm.in_charge SET is_whole = true WHERE epoch = $1";
    let one = |updated: u64| match updated {
        1 => Ok(()),
        _ => Err(StoreError::TakenOver),
    };
    loop {
        match orders.recv_timeout(RENEWAL) {
            Ok(Order::IsWhole(told)) => {
                let updated = client.execute(whole, &[&epoch]).map_err(failed(DOING));
                let _ = told.send(updated.and_then(one));
            }
            Ok(Order::End(told)) => {
                let end = "UPDATE wattfarm.in_charge SET ends = '-infinity' WHERE epoch = $1";
                // An error means that it ends by its time.
                let _ = client.execute(end, &[&epoch]);
                let _ = told.send(());
                return;
            }
            Err(RecvTimeoutError::Timeout) => {
                let renewed = client.execute(renew, &[&epoch, &TERM_SECONDS]);
                if let Err(error) = renewed
                    .map_err(failed("stay in charge of the database"))
                    .and_then(one)
                {
                    tracing::error!(
                        error = format!("{:#}", anyhow::Error::from(error)),
                        "no longer in charge"
                    );
                    lost.send_replace(true);
                    return;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The new epoch; `None` if somebody is in charge.
fn take(client: &mut Client, claim: Claim) -> Result<Option<i64>, StoreError> {
    // Two at once would both make the tables; the number is any that nobody else uses.
    let lock = "SELECT pg_advisory_lock(3735928559)";
    client.batch_execute(lock).map_err(failed(DOING))?;
    let taken = take_locked(client, claim);
    client
        .batch_execute("SELECT pg_advisory_unlock(3735928559)")
        .map_err(failed(DOING))?;
    taken
}

fn take_locked(client: &mut Client, claim: Claim) -> Result<Option<i64>, StoreError> {
    let there = client.query_one(IS_THERE, &[]).map_err(failed(DOING))?;
    if !there.get::<_, bool>(0) {
        make_tables(client)?;
    }
    let row = client
        .query_opt("SELECT form, is_whole FROM wattfarm.in_charge", &[])
        .map_err(failed(DOING))?;
    if let Some(row) = &row {
        let (form, is_whole): (i32, bool) = (row.get(0), row.get(1));
        let refuse = |reason: String| Err(StoreError::Database(reason));
        if form != FORM {
            return refuse(format!(
                "has form {form}, and this coordinator knows {FORM}"
            ));
        }
        if !is_whole {
            return refuse(
                "holds a part of a store, of an import that failed or goes on: if it failed, drop the schema `wattfarm`"
                    .to_owned(),
            );
        }
        if claim == Claim::Part {
            return refuse("holds a store already".to_owned());
        }
    }
    let insert = "INSERT INTO wattfarm.in_charge (form, is_whole, epoch, ends, backend, backend_start) \
                  VALUES ($1, $2, 0, '-infinity', 0, '-infinity') ON CONFLICT DO NOTHING";
    client
        .execute(insert, &[&FORM, &(claim == Claim::Whole)])
        .map_err(failed(DOING))?;
    // Of another role's connection it may not be seen when it began.
    let take = "UPDATE wattfarm.in_charge SET epoch = epoch + 1, ends = clock_timestamp() + $1 * interval '1 second', \
                backend = pg_backend_pid(), backend_start = me.backend_start \
                FROM pg_stat_activity AS me WHERE me.pid = pg_backend_pid() \
                AND (ends < clock_timestamp() OR NOT EXISTS (SELECT 1 FROM pg_stat_activity AS other \
                WHERE other.pid = in_charge.backend \
                AND COALESCE(other.backend_start, in_charge.backend_start) = in_charge.backend_start)) \
                RETURNING epoch";
    let taken = client
        .query_opt(take, &[&TERM_SECONDS])
        .map_err(failed(DOING))?;
    Ok(taken.map(|row| row.get(0)))
}

/// Asks the database something on a thread where that may block.
fn on_a_thread<T: Send + 'static>(
    address: &Address,
    ask: impl FnOnce(&mut Client) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let address = address.clone();
    let asked = std::thread::spawn(move || ask(&mut connect(&address, Use::Read)?));
    asked.join().expect("it does not panic")
}
