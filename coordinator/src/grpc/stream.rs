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
pub(super) fn stream<T, F>(shell: &Shell, run: impl FnOnce(Sink<T>) -> F) -> Response<Messages<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<(), End>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
    let running = run(Sink(sender.clone()));
    let (mut stopping, writer) = (shell.stopping.clone(), shell.writer.clone());
    let stop = async move {
        // An error means that the server itself was dropped.
        let _ = stopping.wait_for(|stopping| *stopping).await;
        stopped(writer.stopped())
    };
    tokio::spawn(async move {
        let ended = tokio::select! {
            biased;
            // A task that waits for news of the farm would not notice that its client is gone.
            () = sender.closed() => Err(End::Gone),
            ended = running => ended,
            // Nor would one whose client takes nothing notice that the coordinator stops: what it has of the farm it gives
            // up here, or the writer would not end.
            status = stop => Err(End::Failed(status)),
        };
        if let Err(End::Failed(status)) = ended {
            // An error means that the client is gone and needs no status.
            let _ = sender.send(Err(status)).await;
        }
    });
    Response::new(ReceiverStream::new(receiver))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::farm::{Farm, LastMeasurement, SecretHash};
    use crate::store::{MemoryStore, Store as _};

    /// The writer ends when nothing is left that could ask it: a client that opened a stream and takes nothing of it must not
    /// keep the coordinator from ending.
    #[tokio::test]
    async fn a_client_that_takes_nothing_does_not_keep_the_coordinator() {
        let (store, clock) = (Arc::new(MemoryStore::default()), Clock::start());
        let farm = Farm::restore(store.load().expect("memory"), clock.now());
        let (writer, end) = Writer::start(farm, store.clone(), clock);
        let (stop, stopping) = watch::channel(false);
        let shell = Shell::new(writer, store, SecretHash::of("key"), None, stopping);
        let own = shell.clone();
        let response = stream(&shell, |sink| async move {
            loop {
                sink.send(own.ask(LastMeasurement).await?).await?;
            }
        });
        drop(shell);
        // Until its messages have nowhere to go.
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.send_replace(true);
        let ended = tokio::time::timeout(Duration::from_secs(5), end).await;
        ended
            .expect("the writer ends")
            .expect("does not panic")
            .expect("nothing fails");
        let mut messages = response.into_inner();
        let mut last = None;
        while let Some(message) = tokio_stream::StreamExt::next(&mut messages).await {
            last = Some(message);
        }
        let status = last.expect("some came").expect_err("it had no end");
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::Unavailable, "the coordinator is shutting down")
        );
    }
}
