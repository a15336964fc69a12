//! A running coordinator: its parts joined, and how it starts and stops.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server as Transport, ServerTlsConfig};

use crate::certs::Certificates;
use crate::clock::Clock;
use crate::draft::write_whole;
use crate::farm::{Farm, Role, SecretHash};
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

/// Calls that one connection may have under way: far more than an agent or a trainer has.
const CALLS_PER_CONNECTION_MAX: usize = 128;

/// How a coordinator takes calls.
#[derive(Debug)]
pub struct Settings {
    /// The operator's key in its written form.
    pub operator_key: String,
    /// Where to listen.
    pub listen: SocketAddr,
    /// What it shows, and whom it trusts; `None` for calls in the clear.
    pub tls: Option<ServerTlsConfig>,
    /// What callers without a key may do; `None` for nothing.
    pub anonymous: Option<Role>,
}

/// The coordinator's part in TLS; if it is mutual, only clients of the farm's authority are taken.
pub fn tls(certificates: &Certificates, mutual: bool) -> anyhow::Result<ServerTlsConfig> {
    let read = |path: PathBuf| {
        let make = "`wattfarm-coordinator certs` makes them";
        fs::read(&path).with_context(|| format!("read `{}`: {make}", path.display()))
    };
    let identity = Identity::from_pem(
        read(certificates.coordinator())?,
        read(certificates.coordinator_key())?,
    );
    let mut tls = ServerTlsConfig::new().identity(identity);
    if mutual {
        tls = tls.client_ca_root(Certificate::from_pem(read(certificates.authority())?));
    }
    Ok(tls)
}

/// A coordinator that takes calls.
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    transport: JoinHandle<Result<(), tonic::transport::Error>>,
    writer_end: oneshot::Receiver<Result<(), StoreError>>,
}

impl Server {
    /// Starts a coordinator over a store.
    pub async fn start(store: Arc<dyn Store>, settings: Settings) -> anyhow::Result<Self> {
        let Settings {
            operator_key,
            listen,
            tls,
            anonymous,
        } = settings;
        let clock = Clock::start();
        let records = store.load().context("load the store")?;
        let (open_jobs, measurements) = (records.jobs.len(), records.sequence);
        let farm = Farm::restore(records, clock.now());
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("listen on {listen}"))?;
        let address = listener
            .local_addr()
            .context("read the listening address")?;
        let (writer, writer_end) = Writer::start(farm, Arc::clone(&store), clock);
        let (stop, stopping) = watch::channel(false);
        let operator_key = SecretHash::of(&operator_key);
        let shell = Shell::new(writer, store, operator_key, anonymous, stopping.clone());
        let routes = grpc::routes(shell).await?;
        let mut asked_to_stop = stopping;
        let mut transport = Transport::builder();
        let encrypted = tls.is_some();
        if let Some(tls) = tls {
            transport = transport.tls_config(tls).context("use the certificates")?;
        }
        let transport = transport
            .timeout(CALL_TIMEOUT)
            .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
            .max_concurrent_streams(Some(CALLS_PER_CONNECTION_MAX as u32))
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
        tracing::info!(%address, encrypted, open_jobs, measurements, "taking calls");
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

/// The operator's key in a file, made on the first start.
pub fn operator_key(path: &Path) -> anyhow::Result<String> {
    match fs::read_to_string(path) {
        Ok(key) if key.trim().len() == 64 => Ok(key.trim().to_ascii_lowercase()),
        Ok(_) => bail!(
            "`{}` does not hold a key of 64 hexadecimal digits: delete it to get a new one",
            path.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = secret::fresh();
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)
                    .with_context(|| format!("make the folder `{}`", folder.display()))?;
            }
            write_whole(path, &key)?;
            tracing::info!(path = %path.display(), "wrote the operator's key");
            Ok(key)
        }
        Err(error) => {
            Err(error).with_context(|| format!("read the operator's key `{}`", path.display()))
        }
    }
}
