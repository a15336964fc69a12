//! A running coordinator: its parts joined, and how it starts and stops.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::transport::Server as Transport;
use tonic::transport::server::TcpIncoming;

use crate::clock::Clock;
use crate::farm::{Farm, SecretHash};
use crate::grpc::{self, Shell};
use crate::secret;
use crate::store::{Store, StoreError};
use crate::writer::Writer;

/// How long calls under way may take once the coordinator stops.
const DRAIN: Duration = Duration::from_secs(3);

/// How long callers may take to hear that the store failed.
const FAREWELL: Duration = Duration::from_secs(1);

/// A unary call that takes longer than this is given up: longer than the longest wait for a job.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A coordinator that takes calls.
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    transport: JoinHandle<Result<(), tonic::transport::Error>>,
    writer_end: oneshot::Receiver<Result<(), StoreError>>,
}

impl Server {
    /// Starts a coordinator over a store.
    pub async fn start(
        store: Arc<dyn Store>,
        operator_key: &str,
        listen: SocketAddr,
    ) -> anyhow::Result<Self> {
        let clock = Clock::start();
        let records = store.load().context("load the store")?;
        let (jobs, measurements) = (records.jobs.len(), records.sequence);
        let farm = Farm::restore(records, clock.now());
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("listen on {listen}"))?;
        let address = listener
            .local_addr()
            .context("read the listening address")?;
        let (writer, writer_end) = Writer::start(farm, Arc::clone(&store), clock);
        let (stop, stopping) = watch::channel(false);
        let operator_key = SecretHash::of(operator_key);
        let routes = grpc::routes(Shell {
            writer,
            store,
            operator_key,
            stopping: stopping.clone(),
        })
        .await?;
        let mut asked_to_stop = stopping;
        let transport = Transport::builder()
            .timeout(CALL_TIMEOUT)
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .add_routes(routes)
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                async move {
                    // An error means that the server itself was dropped.
                    let _ = asked_to_stop.wait_for(|stop| *stop).await;
                },
            );
        tracing::info!(%address, jobs, measurements, "taking calls");
        Ok(Self {
            address,
            stop,
            transport: tokio::spawn(transport),
            writer_end,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs until `signal`, then stops; or until the store fails, which is the error.
    pub async fn run_until(mut self, signal: impl Future<Output = ()>) -> anyhow::Result<()> {
        tokio::select! {
            () = signal => self.stop().await,
            end = &mut self.writer_end => {
                // Whoever waits hears why, if it can be told in a moment.
                self.stop.send_replace(true);
                if tokio::time::timeout(FAREWELL, &mut self.transport).await.is_err() {
                    self.transport.abort();
                }
                end.context("the writer panicked")?.context("store what was reported")?;
                bail!("the writer stopped by itself")
            }
        }
    }

    /// Takes no more calls, ends waits and streams, and lets the writer finish.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        tracing::info!("shutting down");
        self.stop.send_replace(true);
        match tokio::time::timeout(DRAIN, &mut self.transport).await {
            Ok(served) => served.context("join the server")?.context("serve")?,
            Err(_) => self.transport.abort(),
        }
        // The writer ends when the last call that could ask it has gone.
        match tokio::time::timeout(Duration::from_secs(1), self.writer_end).await {
            Ok(end) => end
                .context("the writer panicked")?
                .context("store what was reported"),
            Err(_) => bail!("calls were still under way: what they had acknowledged is stored"),
        }
    }
}

/// The operator's key of a store, made on the first start.
pub fn operator_key(folder: &Path) -> anyhow::Result<String> {
    let path = folder.join("operator.key");
    match fs::read_to_string(&path) {
        Ok(key) if key.trim().len() == 64 => Ok(key.trim().to_ascii_lowercase()),
        Ok(_) => bail!(
            "`{}` does not hold a key of 64 hexadecimal digits: delete it to get a new one",
            path.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = secret::fresh();
            fs::create_dir_all(folder)
                .with_context(|| format!("make the folder `{}`", folder.display()))?;
            write_whole(&path, &key)?;
            tracing::info!(path = %path.display(), "wrote the operator's key");
            Ok(key)
        }
        Err(error) => {
            Err(error).with_context(|| format!("read the operator's key `{}`", path.display()))
        }
    }
}

/// Writes a file that is there whole or not at all, readable by its owner alone.
pub fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let draft = path.with_added_extension("new");
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().with_context(|| format!("write `{}`", path.display()))
}
