//! Who is in charge of a shard: one coordinator at a time, for ten seconds at a time, by the database's clock.
//!
//! Each that takes over raises the epoch. A tenure can be taken over when its time has run out (its coordinator is paused, or
//! cut off), and at once when the connection that it was claimed by is gone (its coordinator was killed).

use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use postgres::Client;
use tokio::sync::watch;

use super::super::StoreError;
use super::session::{Use, connect, failed};
use super::shard::Shard;
use super::{Address, make_tables};

/// How long a tenure lasts from when it was renewed last, in seconds; and how often it is renewed.
pub(super) const TERM_SECONDS: f64 = 10.0;
const RENEWAL: Duration = Duration::from_secs(2);

/// It ends by its coordinator's own clock so long after the renewal before it was asked for: others may take it over a moment
/// later, whatever the database does with the next one.
const OWN_TERM: Duration = Duration::from_secs(9);

/// The form of the tables. The first was of one store; its coordinators would take the home for the whole farm, so they are
/// told that there is another.
const FORM: i32 = 2;
const FORM_WITHOUT_SHARDS: i32 = 1;

/// Whether an epoch is still that of who is in charge. Who takes over waits for the lock, and so for the commit.
pub(super) fn epoch_is(shard: Shard) -> String {
    format!(
        "SELECT 1 FROM {}.in_charge WHERE epoch = $1 FOR SHARE",
        shard.schema()
    )
}

/// Whether anybody may take charge. Of another role's connection it may not be seen when it began.
pub(super) const IS_FREE: &str = "(in_charge.ends < clock_timestamp() OR NOT EXISTS (SELECT 1 FROM pg_stat_activity AS other \
     WHERE other.pid = in_charge.backend \
     AND COALESCE(other.backend_start, in_charge.backend_start) = in_charge.backend_start))";

/// Whether a shard is there.
pub(super) const IS_THERE: &str = "SELECT to_regclass($1::text || '.in_charge') IS NOT NULL";

/// Two at once would both make the tables; the number is any that nobody else uses.
const LOCK: &str = "SELECT pg_advisory_lock(3735928559)";
const UNLOCK: &str = "SELECT pg_advisory_unlock(3735928559)";

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
    shard: Shard,
    epoch: i64,
    block: u64,
    /// The renewing thread's orders; it ends when this is dropped.
    orders: mpsc::SyncSender<Order>,
    lost: watch::Receiver<bool>,
    /// When the last renewal that went well was asked for.
    renewed: watch::Receiver<Instant>,
}

enum Order {
    /// The store is whole: say so, and answer.
    IsWhole(mpsc::SyncSender<Result<(), StoreError>>),
    /// Let others take over at once.
    End(mpsc::SyncSender<()>),
}

impl fmt::Debug for Tenure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Tenure({}, {})", self.shard, self.epoch)
    }
}

impl Tenure {
    /// Whether there is a shard.
    pub(super) fn is_there(address: &Address, shard: Shard) -> Result<bool, StoreError> {
        on_a_thread(address, move |client| {
            let row = client.query_one(IS_THERE, &[&shard.schema()]);
            Ok(row.map_err(failed(DOING))?.get(0))
        })
    }

    /// Makes the shards beside the home that aren't there yet, with numbers in blocks after `block`.
    pub(super) fn make_others(address: &Address, block: u64) -> Result<(), StoreError> {
        on_a_thread(address, move |client| {
            client.batch_execute(LOCK).map_err(failed(DOING))?;
            // The lock ends with the connection.
            for shard in Shard::all().filter(|&shard| shard != Shard::HOME) {
                let row = client.query_one(IS_THERE, &[&shard.schema()]);
                if !row.map_err(failed(DOING))?.get::<_, bool>(0) {
                    let block = block + u64::from(shard.number());
                    make_tables(client, shard, (FORM, true, block))?;
                }
            }
            Ok(())
        })
    }

    /// Takes charge of a shard, if nobody is; `None` if somebody is, or there is no such shard. `calls` is where it takes
    /// calls.
    pub(super) fn claim(
        address: &Address,
        shard: Shard,
        claim: Claim,
        calls: &str,
    ) -> Result<Option<Self>, StoreError> {
        let (told, result) = mpsc::sync_channel(1);
        let (orders, to_do) = mpsc::sync_channel(1);
        let (lost, watched) = watch::channel(false);
        let (renewals, renewed) = watch::channel(Instant::now());
        let (address, calls) = (address.clone(), calls.to_owned());
        std::thread::spawn(move || {
            let claimed = connect(&address, Use::Write).and_then(|mut client| {
                renewals.send_replace(Instant::now());
                let taken = take(&mut client, shard, claim, &calls)?;
                Ok((client, taken))
            });
            // Errors of sending mean that nobody waits any more.
            match claimed {
                Ok((client, Some((epoch, block)))) => {
                    let _ = told.send(Ok(Some((epoch, block))));
                    keep(client, shard, epoch, &to_do, (&lost, &renewals));
                }
                Ok((_, None)) => drop(told.send(Ok(None))),
                Err(error) => drop(told.send(Err(error))),
            }
        });
        let taken = result.recv().map_err(|_| StoreError::TakenOver)??;
        Ok(taken.map(|(epoch, block)| Self {
            shard,
            epoch,
            block,
            orders,
            lost: watched,
            renewed,
        }))
    }

    /// Of what.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// How many have been in charge, with this one.
    pub(super) fn epoch(&self) -> i64 {
        self.epoch
    }

    /// The block that the shard's numbers began in.
    pub fn block(&self) -> u64 {
        self.block
    }

    /// Says that a store is whole.
    pub(in super::super) fn is_whole(&self) -> Result<(), StoreError> {
        let (told, result) = mpsc::sync_channel(1);
        let sent = self.orders.send(Order::IsWhole(told));
        sent.map_err(|_| StoreError::TakenOver)?;
        result.recv().map_err(|_| StoreError::TakenOver)?
    }

    /// Comes back when another coordinator is in charge, or may be soon because the database doesn't answer.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        let is_over = async {
            loop {
                let end = *self.renewed.borrow() + OWN_TERM;
                if end <= Instant::now() {
                    return;
                }
                tokio::time::sleep_until(end.into()).await;
            }
        };
        tokio::select! {
            // An error means that nobody renews it any more.
            _ = lost.wait_for(|lost| *lost) => (),
            () = is_over => {
                tracing::error!(shard = %self.shard, "no longer in charge: the database does not answer");
            }
        }
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
    shard: Shard,
    epoch: i64,
    orders: &mpsc::Receiver<Order>,
    (lost, renewals): (&watch::Sender<bool>, &watch::Sender<Instant>),
) {
    let update = |set: &str| {
        format!(
            "UPDATE {}.in_charge SET {set} WHERE epoch = $1",
            shard.schema()
        )
    };
    let renew = update("ends = clock_timestamp() + $2 * interval '1 second'");
    let (whole, end) = (update("is_whole = true"), update("ends = '-infinity'"));
    let one = |updated: u64| match updated {
        1 => Ok(()),
        _ => Err(StoreError::TakenOver),
    };
    loop {
        match orders.recv_timeout(RENEWAL) {
            Ok(Order::IsWhole(told)) => {
                let updated = client.execute(&whole, &[&epoch]).map_err(failed(DOING));
                let _ = told.send(updated.and_then(one));
            }
            Ok(Order::End(told)) => {
                // An error means that it ends by its time.
                let _ = client.execute(&end, &[&epoch]);
                let _ = told.send(());
                return;
            }
            Err(RecvTimeoutError::Timeout) => {
                let asked = Instant::now();
                let renewed = client.execute(&renew, &[&epoch, &TERM_SECONDS]);
                if let Err(error) = renewed
                    .map_err(failed("stay in charge of the database"))
                    .and_then(one)
                {
                    tracing::error!(
                        error = format!("{:#}", anyhow::Error::from(error)),
                        %shard,
                        "no longer in charge"
                    );
                    lost.send_replace(true);
                    return;
                }
                renewals.send_replace(asked);
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The new epoch, and the shard's block; `None` if somebody is in charge.
fn take(
    client: &mut Client,
    shard: Shard,
    claim: Claim,
    calls: &str,
) -> Result<Option<(i64, u64)>, StoreError> {
    client.batch_execute(LOCK).map_err(failed(DOING))?;
    let taken = take_locked(client, shard, claim, calls);
    client.batch_execute(UNLOCK).map_err(failed(DOING))?;
    taken
}

fn take_locked(
    client: &mut Client,
    shard: Shard,
    claim: Claim,
    calls: &str,
) -> Result<Option<(i64, u64)>, StoreError> {
    let schema = shard.schema();
    let there = client
        .query_one(IS_THERE, &[&schema])
        .map_err(failed(DOING))?;
    let new = (FORM, claim == Claim::Whole, 0);
    if !there.get::<_, bool>(0) {
        if shard != Shard::HOME {
            return Ok(None);
        }
        // Of a store that was dropped by half: its numbers would be given again.
        for other in Shard::all().filter(|&other| other != Shard::HOME) {
            let left = client.query_one(IS_THERE, &[&other.schema()]);
            if left.map_err(failed(DOING))?.get(0) {
                return Err(StoreError::Database(format!(
                    "holds `{}` without `{schema}`, a part of another store: drop the schemas `{schema}`, `{schema}_1` and so on, all of them",
                    other.schema()
                )));
            }
        }
        make_tables(client, shard, new)?;
    } else {
        let found = format!("SELECT form, is_whole FROM {schema}.in_charge");
        let row = client.query_opt(&found, &[]).map_err(failed(DOING))?;
        let (form, is_whole) = row.map_or((FORM, true), |row| (row.get(0), row.get(1)));
        let refuse = |reason: String| Err(StoreError::Database(reason));
        if form != FORM && form != FORM_WITHOUT_SHARDS {
            return refuse(format!(
                "has form {form}, and this coordinator knows {FORM}"
            ));
        }
        if !is_whole {
            return refuse(
                "holds a part of a store, of an import that failed or goes on: if it failed, drop the schema `wattfarm` and those beside it, `wattfarm_1` and so on"
                    .to_owned(),
            );
        }
        if claim == Claim::Part {
            return refuse("holds a store already".to_owned());
        }
        if form == FORM_WITHOUT_SHARDS {
            make_tables(client, shard, new)?;
        }
    }
    let take = format!(
        "UPDATE {schema}.in_charge SET epoch = epoch + 1, ends = clock_timestamp() + $1 * interval '1 second', \
         backend = pg_backend_pid(), backend_start = me.backend_start, address = $2, form = $3 \
         FROM pg_stat_activity AS me WHERE me.pid = pg_backend_pid() AND {IS_FREE} RETURNING epoch, block"
    );
    let taken = client
        .query_opt(&take, &[&TERM_SECONDS, &calls, &FORM])
        .map_err(failed(DOING))?;
    Ok(taken.map(|row| (row.get(0), row.get::<_, i64>(1).cast_unsigned())))
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
