//! `Backup`: the store as text while the farm works on.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};
use wattfarm_proto::v1;

use super::Shell;
use super::stream::Messages;
use crate::store::dump;

/// Bytes in a message, about.
const PART_BYTES: usize = 256 << 10;

/// Messages that wait for a slow client.
const PARTS_MAX: usize = 8;

/// Runs on a thread of its own: reading the store blocks, and so does a client that is slow to take it.
pub(super) fn backup(shell: &Shell) -> Response<Messages<v1::BackupResponse>> {
    let (sender, receiver) = mpsc::channel(PARTS_MAX);
    let store = Arc::clone(&shell.store);
    tokio::task::spawn_blocking(move || {
        let parts = Parts(sender.clone());
        let mut parts = BufWriter::with_capacity(PART_BYTES, parts);
        match dump::write(&*store, &mut parts) {
            Ok(changes) => tracing::info!(changes, "backup taken"),
            // Nobody is there to be told.
            Err(_) if sender.is_closed() => (),
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::error!(error = format!("{error:#}"), "a backup failed");
                let status = Status::internal("the backup failed: the coordinator's log says why");
                // An error means that the client went away meanwhile.
                let _ = sender.blocking_send(Err(status));
            }
        }
    });
    Response::new(ReceiverStream::new(receiver))
}

/// Sends what is written, a message a write.
struct Parts(mpsc::Sender<Result<v1::BackupResponse, Status>>);

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = bytes[..bytes.len().min(PART_BYTES)].to_vec();
        let sent = part.len();
        self.0
            .blocking_send(Ok(v1::BackupResponse { part }))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(sent)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
