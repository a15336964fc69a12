//! Jobs that are over live in the store. Before an event that is about one of them, it is brought back into the farm.

use crate::farm::{Event, Farm, JobName};
use crate::store::{Store, StoreError};

/// Brings into the farm what an event is about. The store must have every change but those of jobs that are still in
/// memory: [`Farm::forget`] sees to that.
pub fn recall<E: Event>(farm: &mut Farm, store: &dyn Store, event: &E) -> Result<(), StoreError> {
    for name in farm.missing(event) {
        let (job, task) = match name {
            JobName::Id(id) => (store.job(id)?, store.task(id)?),
            JobName::Task(task) => (store.find_job(&task)?, None),
        };
        if let Some(job) = job {
            farm.recall(job, task);
        }
    }
    Ok(())
}
