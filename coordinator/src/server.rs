//! A running coordinator: its parts joined, and how it starts and stops.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{
    Certificate, ClientTlsConfig, Identity, Server as Transport, ServerTlsConfig,
};

use crate::certs::Certificates;
use crate::clock::Clock;
use crate::draft::write_whole;
use crate::farm::{Farm, Role, SecretHash};
use crate::grpc::{self, Shell};
use crate::secret;
use crate::shards;
use crate::shards::{Board, Keeper, Post};
use crate::store::{Address, Common, Shard, Store, StoreError, View};
use crate::writer::Writer;

/// How long calls under way may take once the coordinator stops.
const DRAIN: Duration = Duration::from_secs(3);

/// How long callers may take to hear that the store failed.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long the writer may take to end once no call is under way; shards are given up one beside the other.
const WRITER_END: Duration = Duration::from_secs(5);

/// How long a coordinator that begins tries to be one of several.
const START: Duration = Duration::from_secs(15);

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

/// How a coordinator is reached by, and reaches, the others over its database.
#[derive(Debug)]
pub struct Peers {
    /// `HOST:PORT`; `None` for where it listens.
    pub advertise: Option<String>,
    /// `None` for calls in the clear.
    pub tls: Option<ClientTlsConfig>,
}

/// A coordinator's part in TLS when it calls others: it trusts the farm's authority, and shows that it is one of the farm's if
/// there is a certificate for clients.
pub fn peers_tls(certificates: &Certificates) -> anyhow::Result<ClientTlsConfig> {
    let read =
        |path: PathBuf| fs::read(&path).with_context(|| format!("read `{}`", path.display()));
    let authority = Certificate::from_pem(read(certificates.authority())?);
    let tls = ClientTlsConfig::new().ca_certificate(authority);
    if !certificates.client().exists() {
        return Ok(tls);
    }
    let client = (
        read(certificates.client())?,
        read(certificates.client_key())?,
    );
    Ok(tls.identity(Identity::from_pem(client.0, client.1)))
}

/// A coordinator that takes calls.
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    transport: JoinHandle<Result<(), tonic::transport::Error>>,
    writer_end: oneshot::Receiver<Result<(), StoreError>>,
}

impl Server {
    /// Starts a coordinator over a store that is its alone.
    pub async fn start(store: Arc<dyn Store>, settings: Settings) -> anyhow::Result<Self> {
        let clock = Clock::start();
        let records = store.load().context("load the store")?;
        let (open_jobs, measurements) = (records.jobs.len(), records.sequence);
        let farm = Farm::restore(records, clock.now());
        let (listener, _) = listen(settings.listen).await?;
        let (writer, writer_end) = Writer::start(farm, Arc::clone(&store), clock);
        let stop = watch::Sender::new(false);
        let operator_key = SecretHash::of(&settings.operator_key);
        let shell = Shell::new(
            writer,
            store,
            operator_key,
            settings.anonymous,
            stop.subscribe(),
        );
        let routes = grpc::services(shell, grpc::about().await?);
        tracing::info!(open_jobs, measurements, "in charge");
        Self::serve(listener, routes, settings.tls, stop, writer_end)
    }

    /// Starts a coordinator that is one of several over a database: at once if others are there, which have all until it takes
    /// its share.
    pub async fn start_beside(
        database: Address,
        peers: Peers,
        settings: Settings,
    ) -> anyhow::Result<Self> {
        let (listener, own) = listen(settings.listen).await?;
        let address = match peers.advertise {
            Some(address) => address,
            None if own.ip().is_unspecified() => bail!(
                "coordinators over one database call each other, and `{own}` is no address to call: give --advertise"
            ),
            None => own.to_string(),
        };
        let (place, calls) = (database.clone(), address.clone());
        let open = move || {
            // Whoever is first makes the tables. Nobody is in charge then, and the keeper sees to that.
            drop(place.claim(Shard::HOME, &calls)?);
            Common::open(&place)
        };
        let common = tokio::task::spawn_blocking(open)
            .await?
            .context("open the store")?;
        let post = Post {
            address,
            tls: peers.tls,
            operator_key: SecretHash::of(&settings.operator_key),
            anonymous: settings.anonymous,
            common: Arc::new(common),
        };
        let board = Arc::new(Board::new(View::default()));
        let mut keeper = Keeper::new(database, post.clone(), Arc::clone(&board));
        // Whoever has the home makes the others, which the next look shows. One that died a moment ago may be seen still.
        let began = Instant::now();
        let mut rounds = 0;
        while rounds < 2 {
            match keeper.round().await {
                Ok(()) => rounds += 1,
                Err(error) if began.elapsed() > START => {
                    return Err(error.context("open the store"));
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        let routes = shards::routes(board, post, grpc::about().await?);
        let stop = watch::Sender::new(false);
        let stopping = stop.subscribe();
        let (ended, end) = oneshot::channel();
        tokio::spawn(async move {
            keeper.run(stopping).await;
            // An error means that nobody waits for it.
            let _ = ended.send(Ok(()));
        });
        Self::serve(listener, routes, settings.tls, stop, end)
    }

    fn serve(
        listener: TcpListener,
        routes: Routes,
        tls: Option<ServerTlsConfig>,
        stop: watch::Sender<bool>,
        writer_end: oneshot::Receiver<Result<(), StoreError>>,
    ) -> anyhow::Result<Self> {
        let address = listener
            .local_addr()
            .context("read the listening address")?;
        let mut asked_to_stop = stop.subscribe();
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
        tracing::info!(%address, encrypted, "taking calls");
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
        match tokio::time::timeout(WRITER_END, self.writer_end).await {
            Ok(end) => end
                .context("the writer panicked")?
                .context("store what was reported"),
            Err(_) => bail!("calls were still under way: what they had acknowledged is stored"),
        }
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}"))?;
    let own = listener
        .local_addr()
        .context("read the listening address")?;
    Ok((listener, own))
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
