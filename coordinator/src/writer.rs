//! The one writer: owns the farm, stores what changes, and only then answers.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};

use crate::clock::Clock;
use crate::farm::{Change, Event, Farm, Tick, Timestamp};
use crate::recall::recall;
use crate::signal::{Signal, signals};
use crate::store::{Store, StoreError};

/// Events that may wait for the writer.
const INBOX_MAX: usize = 1024;

/// Events that one commit carries at most: enough that a slow disk's sync is shared by every agent of a large farm.
const GROUP_MAX: usize = 256;

/// Signals that a follower may be behind. One that is further behind looks at everything.
const SIGNALS_MAX: usize = 1024;

/// How long the writer sleeps when no lease is about to end.
const IDLE: Duration = Duration::from_secs(3600);

/// An event with its way back: applied in order, its reply delivered after the commit.
type Command = Box<dyn FnOnce(&mut Turn<'_>) -> Result<Delivery, StoreError> + Send>;

/// What a group of events works on.
struct Turn<'a> {
    farm: &'a mut Farm,
    store: &'a dyn Store,
    now: Timestamp,
    changes: Vec<Change>,
    failure: &'a OnceLock<Stopped>,
}

/// Notes why the writer stops, before anybody can notice that it has.
fn note(failure: &OnceLock<Stopped>, error: &StoreError) {
    failure.get_or_init(|| error.into());
}

/// Gives a reply to whoever waits for it.
type Delivery = Box<dyn FnOnce() + Send>;

/// Why the writer has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// It was asked to.
    #[error("the coordinator is shutting down")]
    ShuttingDown,
    /// There was no room for a commit.
    #[error("the coordinator's store failed: its disk is full")]
    DiskFull,
    /// Another coordinator is in charge of the store.
    #[error("another coordinator has taken over")]
    TakenOver,
    /// A commit failed.
    #[error("the coordinator's store failed: its log says why")]
    StoreFailed,
}

impl From<&StoreError> for Stopped {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Full(_) => Self::DiskFull,
            StoreError::TakenOver => Self::TakenOver,
            StoreError::InUse(_)
            | StoreError::Open { .. }
            | StoreError::Damaged { .. }
            | StoreError::Database(_)
            | StoreError::Away { .. }
            | StoreError::Disk { .. }
            | StoreError::Record { .. } => Self::StoreFailed,
        }
    }
}

/// A way to the writer, cheap to clone. The writer stops when the last one is dropped.
#[derive(Clone)]
pub struct Writer {
    inbox: mpsc::Sender<Command>,
    signals: broadcast::Sender<Signal>,
    /// Set before anybody can notice that the writer has stopped.
    failure: Arc<OnceLock<Stopped>>,
}

impl Writer {
    /// Starts a writer on a thread of its own, because commits block. The receiver tells how it ended.
    pub fn start(
        farm: Farm,
        store: Arc<dyn Store>,
        clock: Clock,
    ) -> (Self, oneshot::Receiver<Result<(), StoreError>>) {
        let (inbox, commands) = mpsc::channel(INBOX_MAX);
        let (signals, _) = broadcast::channel(SIGNALS_MAX);
        let (ended, end) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        let feed = signals.clone();
        let failure = Arc::new(OnceLock::new());
        let cause = Arc::clone(&failure);
        std::thread::spawn(move || {
            let end = runtime.block_on(run(farm, store, clock, commands, feed, &cause));
            // Nobody listening means that the process is going down already.
            let _ = ended.send(end);
        });
        let writer = Self {
            inbox,
            signals,
            failure,
        };
        (writer, end)
    }

    /// Gives an event to the farm. The reply comes when all that it rests on is stored.
    pub async fn ask<E: Event>(&self, event: E) -> Result<E::Reply, Stopped> {
        let (reply, answer) = oneshot::channel();
        let command: Command = Box::new(move |turn| {
            recall(turn.farm, turn.store, &event).inspect_err(|error| note(turn.failure, error))?;
            let (answer, changed) = turn.farm.apply(turn.now, event);
            turn.changes.extend(changed);
            // Whoever asked may have gone away; what they asked for is done all the same.
            Ok(Box::new(move || drop(reply.send(answer))))
        });
        self.inbox.send(command).await.map_err(|_| self.stopped())?;
        answer.await.map_err(|_| self.stopped())
    }

    /// Why the writer has stopped, or is about to.
    pub fn stopped(&self) -> Stopped {
        self.failure.get().copied().unwrap_or(Stopped::ShuttingDown)
    }

    /// Signals from now on. Subscribing before asking means that no change goes unnoticed.
    pub fn subscribe(&self) -> broadcast::Receiver<Signal> {
        self.signals.subscribe()
    }
}

async fn run(
    mut farm: Farm,
    store: Arc<dyn Store>,
    clock: Clock,
    mut commands: mpsc::Receiver<Command>,
    feed: broadcast::Sender<Signal>,
    failure: &OnceLock<Stopped>,
) -> Result<(), StoreError> {
    let mut group = Vec::with_capacity(GROUP_MAX);
    loop {
        let idle = farm
            .next_deadline()
            .map_or(IDLE, |deadline| clock.until(deadline));
        let received = tokio::time::timeout(idle, commands.recv_many(&mut group, GROUP_MAX)).await;
        if received == Ok(0) {
            return Ok(());
        }
        let now = clock.now();
        let (_, changes) = farm.apply(now, Tick);
        let mut turn = Turn {
            farm: &mut farm,
            store: &*store,
            now,
            changes,
            failure,
        };
        let mut deliveries = Vec::with_capacity(group.len());
        for command in group.drain(..) {
            deliveries.push(command(&mut turn)?);
        }
        let changes = turn.changes;
        // Durable first. A failure ends the writer and with it the process: memory is ahead of the disk.
        if !changes.is_empty() {
            store
                .commit(&changes)
                .inspect_err(|error| note(failure, error))?;
        }
        farm.forget();
        // Visible second.
        deliveries.into_iter().for_each(|deliver| deliver());
        for signal in signals(&changes) {
            // An error means that nobody follows.
            let _ = feed.send(signal);
        }
    }
}
