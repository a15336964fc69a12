//! The keeper: takes shards that nobody has, gives up those that are more than its share, and runs a farm for each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::service::Routes;
use wattfarm_proto::{block, first_of};

use super::{Board, Post};
use crate::clock::Clock;
use crate::farm::Farm;
use crate::grpc::{Shell, services};
use crate::store::{Address, DurableStore, Shard, Store, StoreError, Tenure, View};
use crate::writer::Writer;

/// How often the others are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How long calls under way may take when a shard is given up.
const DRAIN: Duration = Duration::from_secs(2);

/// How long a shard whose store failed here is left to others.
const REST: Duration = Duration::from_secs(5);

/// What runs the shards that are here.
pub(crate) struct Keeper {
    database: Address,
    post: Post,
    board: Arc<Board>,
    running: BTreeMap<Shard, Running>,
    rests: BTreeMap<Shard, Instant>,
}

/// A shard that is here.
struct Running {
    /// Has it given up; it is when this is dropped.
    release: oneshot::Sender<()>,
    /// Whether its store failed.
    end: JoinHandle<bool>,
}

impl Keeper {
    pub(crate) fn new(database: Address, post: Post, board: Arc<Board>) -> Self {
        Self {
            database,
            post,
            board,
            running: BTreeMap::new(),
            rests: BTreeMap::new(),
        }
    }

    /// Looks and acts until it is told to stop; then gives up all that is here.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut is_away = false;
        loop {
            match self.round().await {
                Ok(()) => is_away = false,
                Err(error) => {
                    if !std::mem::replace(&mut is_away, true) {
                        tracing::error!(
                            error = format!("{error:#}"),
                            "the database is out of sight"
                        );
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => (),
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        let all = std::mem::take(&mut self.running).into_values();
        let ends: Vec<_> = all.map(|running| running.end).collect();
        for end in ends {
            // An error means that it panicked, which its log tells.
            let _ = end.await;
        }
        let Post {
            common, address, ..
        } = self.post;
        // An error means that others notice it by themselves.
        let _ = tokio::task::spawn_blocking(move || common.leave(&address)).await;
    }

    /// Looks, and does what follows.
    pub(crate) async fn round(&mut self) -> anyhow::Result<()> {
        let view = self.look().await?;
        self.act(&view).await;
        Ok(())
    }

    async fn look(&self) -> anyhow::Result<View> {
        let (common, address) = (Arc::clone(&self.post.common), self.post.address.clone());
        let view = tokio::task::spawn_blocking(move || common.look(&address)).await?;
        let view = view?;
        self.board.view.send_if_modified(|before| {
            let is_news = *before != view;
            before.clone_from(&view);
            is_news
        });
        Ok(view)
    }

    async fn act(&mut self, view: &View) {
        let ended: Vec<Shard> = self.ended().collect();
        for shard in ended {
            let end = self.running.remove(&shard).expect("it was there").end.await;
            if end.unwrap_or(true) {
                self.rests.insert(shard, Instant::now() + REST);
            }
        }
        let share = Shard::fair_share(view.coordinators);
        if self.running.len() > share {
            // One at a time: each is taken by another before the next is given up.
            if let Some((shard, running)) = self.running.pop_last() {
                tracing::info!(%shard, "given up, for another coordinator to have its share");
                drop(running.release);
                // An error means that it panicked, which its log tells.
                let _ = running.end.await;
            }
            return;
        }
        let free = view
            .shards
            .iter()
            .filter(|(_, seen)| seen.address.is_none());
        for (&shard, _) in free {
            let rests = self
                .rests
                .get(&shard)
                .is_some_and(|&until| until > Instant::now());
            if self.running.len() >= share || self.running.contains_key(&shard) || rests {
                continue;
            }
            if let Err(error) = self.take(shard).await {
                tracing::error!(%shard, error = format!("{error:#}"), "could not take a shard");
                self.rests.insert(shard, Instant::now() + REST);
            }
        }
    }

    fn ended(&self) -> impl Iterator<Item = Shard> {
        let all = self.running.iter();
        all.filter(|(_, running)| running.end.is_finished())
            .map(|(shard, _)| *shard)
    }

    /// Takes charge of a shard, unless another is faster.
    async fn take(&mut self, shard: Shard) -> anyhow::Result<()> {
        let (database, address) = (self.database.clone(), self.post.address.clone());
        let claimed = tokio::task::spawn_blocking(move || database.claim(shard, &address)).await?;
        if let Some((store, tenure)) = claimed? {
            let running = self.start(store, tenure).await?;
            self.running.insert(shard, running);
        }
        Ok(())
    }

    /// Starts the farm of a shard. Every live lease gets a full term anew.
    async fn start(&self, store: DurableStore, tenure: Tenure) -> anyhow::Result<Running> {
        let shard = tenure.shard();
        let database = self.database.clone();
        let (store, tenure, records) = tokio::task::spawn_blocking(move || {
            let mut records = store.load()?;
            records.number_from(first_of(tenure.block()));
            if shard == Shard::HOME {
                database.make_others(block(records.last_number()))?;
            }
            Ok::<_, StoreError>((store, tenure, records))
        })
        .await?
        .context("load the shard")?;
        let (open_jobs, platforms) = (records.jobs.len(), records.platforms.len());
        let clock = Clock::start();
        let farm = Farm::restore(records, clock.now());
        let store: Arc<dyn Store> = Arc::new(store);
        let (writer, writer_end) = Writer::start(farm, Arc::clone(&store), clock);
        let (stop, stopping) = watch::channel(false);
        let (key, anonymous) = (self.post.operator_key, self.post.anonymous);
        let mut shell = Shell::new(writer, store, key, anonymous, stopping);
        shell.keys = (shard != Shard::HOME).then(|| Arc::clone(&self.post.common));
        let routes = services(shell, Routes::default());
        self.board.here().insert(shard, routes);
        tracing::info!(%shard, platforms, open_jobs, "in charge");
        let (release, released) = oneshot::channel();
        let board = Arc::clone(&self.board);
        let end = tokio::spawn(async move {
            let mut writer_end = writer_end;
            let ended = tokio::select! {
                _ = released => None,
                () = tenure.lost() => None,
                end = &mut writer_end => Some(end),
            };
            board.here().remove(&shard);
            stop.send_replace(true);
            let ended = match ended {
                Some(end) => Some(end),
                // It ends when the last call that could ask it has gone. If it doesn't, the next epoch keeps it from writing.
                None => tokio::time::timeout(DRAIN, writer_end).await.ok(),
            };
            let failure = match ended {
                Some(Ok(Err(error))) => Some(anyhow::Error::from(error)),
                Some(Err(_)) => Some(anyhow::anyhow!("the writer panicked")),
                Some(Ok(Ok(()))) | None => None,
            };
            if let Some(error) = &failure {
                tracing::error!(%shard, error = format!("{error:#}"), "no longer in charge");
            } else {
                tracing::info!(%shard, "no longer in charge");
            }
            // It waits for the database. An error means that it panicked, which its log tells.
            let _ = tokio::task::spawn_blocking(move || drop(tenure)).await;
            failure.is_some()
        });
        Ok(Running { release, end })
    }
}
