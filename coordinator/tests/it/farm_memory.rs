//! Jobs that are over leave memory, and are known all the same.

use wattfarm_coordinator::farm::{Acknowledgement, Budget, Farm, Outcome, Timestamp};
use wattfarm_coordinator::store::{MemoryStore, Store as _};

use crate::allocations::size_of_dropped;
use crate::world::{World, reading};

/// A farm after so many jobs, and what it takes in bytes.
fn after(jobs: u64) -> (World, usize) {
    let mut world = World::new();
    let agent = world.agent("a");
    let campaign = world.campaign(1, Budget::Jobs(u64::MAX));
    for first in (0..jobs).step_by(100) {
        world.propose(campaign, first..first + 100).expect("room");
        while let Some(lease) = world.lease_another(agent) {
            world.measure(agent, &lease);
        }
    }
    let empty = Farm::restore(MemoryStore::default().load().expect("memory"), Timestamp(0));
    let farm = std::mem::replace(&mut world.farm, empty);
    let bytes = size_of_dropped(farm);
    world.restart();
    (world, bytes)
}

#[test]
fn a_done_job_takes_no_memory() {
    let (few_world, few) = after(200);
    let (many_world, many) = after(4000);
    assert_eq!(few_world.farm.jobs().count(), 0);
    assert_eq!(many_world.farm.jobs().count(), 0);
    assert!(few > 1000, "{few} bytes: the test measures nothing");
    // Not a byte for each of 3800 jobs.
    assert!(
        many < few + 3800,
        "{few} bytes after 200 jobs, {many} after 4000"
    );
    let records = many_world.store.load().expect("memory");
    assert_eq!((records.jobs.len(), records.sequence), (0, 4000));
}

/// What left memory is recognised: equal layers by their job, late and repeated reports by their lease.
#[test]
fn what_left_memory_is_known_all_the_same() {
    let mut world = World::new();
    let (one, other) = (world.agent("a"), world.agent("b"));
    let campaign = world.campaign(1, Budget::Jobs(100));
    world.propose(campaign, [0]).expect("room");
    let late = world.lease(one, 1).remove(0);
    world.pass(26);
    let lease = world.lease(other, 1).remove(0);
    assert_eq!(world.measure(other, &lease), Acknowledgement::Taken);
    for _ in 0..2 {
        assert_eq!(world.farm.jobs().count(), 0);
        assert_eq!(world.measure(other, &lease), Acknowledgement::Known);
        let again = world.propose(campaign, [0]).expect("room");
        assert_eq!((again.queued, again.already_measured), (0, 1));
        world.restart();
    }
    let forged = (late.job, lease.number);
    let outcome = || Outcome::Reading(Box::new(reading(1.0)));
    assert!(world.report(one, forged, outcome()).is_err());
    assert_eq!(world.measure(one, &late), Acknowledgement::Replica);
    assert_eq!(world.measure(one, &late), Acknowledgement::Known);
    assert_eq!(world.farm.jobs().count(), 0);
    // Another campaign finds it, and it costs it nothing.
    let second = world.campaign(2, Budget::Jobs(100));
    assert_eq!(
        world.propose(second, [0]).expect("room").already_measured,
        1
    );
    let tally = world.status(second).tally;
    assert_eq!((tally.spent(), tally.samples.values().sum()), (0, 1));
}
