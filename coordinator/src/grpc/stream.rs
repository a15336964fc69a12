//! Streams of messages: each runs as a task that ends with its client, or with the coordinator.

use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::{Shell, stopped};
use crate::signal::Signal;
use crate::writer::Writer;

/// Messages that wait for a slow client.
const MESSAGES_MAX: usize = 4;

/// The messages of one call.
pub(super) type Messages<T> = ReceiverStream<Result<T, Status>>;

/// Why a stream ends before its end.
#[derive(Debug)]
pub(super) enum End {
    /// The client went away.
    Gone,
    /// Something the client shall know.
    Failed(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

/// Where a stream's task puts its messages.
pub(super) struct Sink<T>(mpsc::Sender<Result<T, Status>>);

impl<T> Sink<T> {
    pub(super) async fn send(&self, message: T) -> Result<(), End> {
        self.0.send(Ok(message)).await.map_err(|_| End::Gone)
    }
}

/// Signals, for as long as the coordinator runs.
pub(super) struct Follower {
    signals: broadcast::Receiver<Signal>,
    stopping: watch::Receiver<bool>,
    writer: Writer,
}

impl Follower {
    /// Follows from now on: what is asked after this and changes later is noticed.
    pub(super) fn new(shell: &Shell) -> Self {
        Self {
            signals: shell.writer.subscribe(),
            stopping: shell.stopping.clone(),
            writer: shell.writer.clone(),
        }
    }

    /// Waits for a signal that matters, at most for `patience`; says whether one came. The error is that the coordinator
    /// stops.
    pub(super) async fn wait(
        &mut self,
        patience: Duration,
        matters: impl Fn(Signal) -> bool,
    ) -> Result<bool, Status> {
        let signals = &mut self.signals;
        let signal = async {
            loop {
                match signals.recv().await {
                    Ok(signal) if matters(signal) => return true,
                    Ok(_) => (),
                    // What was missed may have mattered.
                    Err(RecvError::Lagged(_)) => return true,
                    Err(RecvError::Closed) => return false,
                }
            }
        };
        tokio::select! {
            signal = tokio::time::timeout(patience, signal) => Ok(signal.unwrap_or(false)),
            _ = self.stopping.wait_for(|stopping| *stopping) => Err(stopped(self.writer.stopped())),
        }
    }

    /// Lets a flood pass: waits a moment and forgets the signals of the meantime, for the next question answers them all.
    pub(super) async fn settle(&mut self, moment: Duration) {
        tokio::time::sleep(moment).await;
        self.signals = self.signals.resubscribe();
    }
}

/// Runs a stream's task.
pub(super) fn stream<T, F>(run: impl FnOnce(Sink<T>) -> F) -> Response<Messages<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<(), End>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
    let running = run(Sink(sender.clone()));
    tokio::spawn(async move {
        tokio::select! {
            // A task that waits for news of the farm would not notice that its client is gone.
            () = sender.closed() => (),
            ended = running => {
                if let Err(End::Failed(status)) = ended {
                    // An error means that the client is gone and needs no status.
                    let _ = sender.send(Err(status)).await;
                }
            }
        }
    });
    Response::new(ReceiverStream::new(receiver))
}
