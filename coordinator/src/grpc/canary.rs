//! Canaries: an agent's word on its device, and what follows for what it measured.

use tonic::Status;
use wattfarm_cost::Measurement;

use super::Shell;
use super::wire::BATCH_MAX;
use crate::farm::{MeasureAgain, ReportCanary, SecretHash, Unvouched};

/// Takes the word. If the device is not itself, the agent's measurements that nothing vouches for are retracted and wait to
/// be taken again when this returns. An agent that has no answer says it once more, which goes on where this stopped.
pub(super) async fn report(
    shell: &Shell,
    credential: SecretHash,
    because: Option<String>,
) -> Result<(), Status> {
    let event = ReportCanary {
        credential,
        because,
    };
    match shell.request(event).await? {
        Some(unvouched) => measure_again(shell, unvouched).await,
        None => Ok(()),
    }
}

/// Which measurements are the agent's, and of which jobs, the store knows: it is read a page at a time.
async fn measure_again(shell: &Shell, unvouched: Unvouched) -> Result<(), Status> {
    let Unvouched {
        agent,
        mut after,
        through,
        because,
    } = unvouched;
    tracing::warn!(%agent, because, "an agent's device is not itself, or was not");
    while after < through {
        let page = shell
            .read(move |store| store.measurements_after(after, BATCH_MAX))
            .await?;
        let Some(newest) = page.last() else {
            return Ok(());
        };
        after = newest.sequence;
        let doubtful = |one: &&Measurement| one.agent == agent && one.sequence <= through;
        let measurements: Vec<_> = page
            .iter()
            .filter(doubtful)
            .map(|one| (one.sequence, one.job))
            .collect();
        if measurements.is_empty() {
            continue;
        }
        let event = MeasureAgain {
            agent,
            measurements,
            because: because.clone(),
        };
        let done = shell.ask(event).await?;
        tracing::warn!(%agent, done.retracted, done.reopened, "measurements are taken again");
    }
    Ok(())
}
