//! `wattfarm backup`: the coordinator's store in a file, taken while the farm works on.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use tonic::Request;
use wattfarm_proto::v1::BackupRequest;

use crate::files::NewFile;
use crate::output::note;
use crate::session::Session;

/// How the last line begins: a backup without it was cut off.
const LAST_LINE: &[u8] = b"{\"end\":";

/// How much of the end is looked at.
const TAIL_BYTES: usize = 256;

pub(super) async fn run(session: &Session, output: &Path) -> anyhow::Result<()> {
    let mut farm = session.operator().await?.farm();
    let mut file = NewFile::create(output)?;
    let parts = farm.backup(Request::new(BackupRequest {})).await;
    let mut parts = parts.context("take a backup")?.into_inner();
    let (mut bytes, mut tail) = (0_u64, Vec::new());
    while let Some(message) = parts.message().await.context("take a backup")? {
        let part = message.part;
        file.write_all(&part)
            .with_context(|| format!("write {}", output.display()))?;
        bytes += part.len() as u64;
        tail.extend_from_slice(&part);
        tail.drain(..tail.len().saturating_sub(TAIL_BYTES));
    }
    let whole = tail.ends_with(b"\n")
        && tail
            .trim_ascii_end()
            .rsplit(|&byte| byte == b'\n')
            .next()
            .is_some_and(|line| line.starts_with(LAST_LINE));
    ensure!(whole, "the coordinator stopped before the backup was whole");
    file.finish()?;
    note(format!(
        "{bytes} bytes; `wattfarm-coordinator --store DIR import {}` makes a store of them",
        output.display()
    ));
    Ok(())
}
