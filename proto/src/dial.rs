//! Dialling one of several coordinators: of those over one database each takes every call, and any may be gone.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long one of them may take to answer before the next is tried.
const PATIENCE: Duration = Duration::from_secs(2);

/// Places, `HOST:PORT` each, of which the next dial begins after the one that the last ended at: who is paused takes
/// connections all the same, and must not be all that is ever tried.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    places: Arc<[String]>,
    next: Arc<AtomicUsize>,
}

impl Dial {
    pub(crate) fn new(places: Vec<String>) -> Self {
        Self {
            places: places.into(),
            next: Arc::default(),
        }
    }

    /// A connection to the first that takes one; the error of the last if none does.
    pub(crate) async fn connect(self) -> io::Result<TokioIo<TcpStream>> {
        let first = self.next.load(Ordering::Relaxed);
        let mut failure = io::Error::from(io::ErrorKind::NotConnected);
        for index in (first..).take(self.places.len()) {
            let place = &self.places[index % self.places.len()];
            let connected = tokio::time::timeout(PATIENCE, TcpStream::connect(place)).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    self.next.store(index + 1, Ordering::Relaxed);
                    return Ok(TokioIo::new(stream));
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}
