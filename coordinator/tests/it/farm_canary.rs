//! A device that is not itself: quarantined, its measurements retracted and measured again.

use wattfarm_coordinator::farm::{
    Acknowledgement, Budget, DrainAgent, IMPLAUSIBLE_MAX, LeaseJobs, ListAgents, MeasureAgain,
    Outcome, Owner, Refusal, Remeasured, ReportCanary, SecretHash, State,
};
use wattfarm_coordinator::store::{Store as _, verify};
use wattfarm_cost::id::{AgentId, JobId};

use crate::world::{World, reading};

const SLOW: &str = "its canary took 3 ms";

/// As the coordinator's service does: which measurements are doubted is read from the store, a page at a time.
fn canary(
    world: &mut World,
    credential: SecretHash,
    because: Option<&str>,
) -> Result<Remeasured, Refusal> {
    let mut all = Remeasured::default();
    let told = world.apply(ReportCanary {
        credential,
        because: because.map(str::to_owned),
    })?;
    let Some(unvouched) = told else {
        return Ok(all);
    };
    let mut after = unvouched.after;
    while after < unvouched.through {
        let page = world.store.measurements_after(after, 2).expect("memory");
        after = page.last().expect("numbered without a gap").sequence;
        let ours = page.iter().filter(|one| one.agent == unvouched.agent);
        let done = world.apply(MeasureAgain {
            agent: unvouched.agent,
            measurements: ours.map(|one| (one.sequence, one.job)).collect(),
            because: SLOW.to_owned(),
        });
        all.retracted += done.retracted;
        all.reopened += done.reopened;
    }
    Ok(all)
}

fn again(retracted: u32, reopened: u32) -> Result<Remeasured, Refusal> {
    Ok(Remeasured {
        retracted,
        reopened,
    })
}

fn measure_all(world: &mut World, credential: SecretHash) -> Vec<JobId> {
    let leases = world.lease(credential, 100);
    for lease in &leases {
        assert_eq!(world.measure(credential, lease), Acknowledgement::Taken);
    }
    leases.into_iter().map(|lease| lease.job).collect()
}

fn id_of(world: &mut World, name: &str) -> AgentId {
    let agents = world.apply(ListAgents);
    let found = agents.iter().find(|status| status.agent.name == name);
    found.expect("enrolled").agent.id
}

/// The measurements that were taken back, with who did.
fn retracted(world: &World) -> Vec<(u64, Owner)> {
    let stored = world.store.retractions_after(0, 99).expect("memory");
    let retracted = stored.iter().map(|one| (one.sequence, one.by));
    retracted.collect()
}

#[test]
fn what_was_measured_since_the_last_good_canary_is_measured_again_by_others() {
    let mut world = World::new();
    let (sick, well) = (world.agent("sick"), world.agent("well"));
    let sick_id = id_of(&mut world, "sick");
    let campaign = world.campaign(1, Budget::Jobs(100));
    world.propose(campaign, 0..3).expect("proposed");
    measure_all(&mut world, sick);
    assert_eq!(canary(&mut world, sick, None), again(0, 0));
    world.propose(campaign, 3..5).expect("proposed");
    let mut doubtful = measure_all(&mut world, sick);
    world.propose(campaign, 5..7).expect("proposed");
    let held = world.lease(sick, 1).remove(0);
    let of_others = world.lease(well, 1).remove(0);
    world.measure(well, &of_others);
    // Every job that is over has left memory.
    assert_eq!(world.farm.jobs().count(), 1);

    assert_eq!(canary(&mut world, sick, Some(SLOW)), again(2, 2));
    let by = Owner::Agent(sick_id);
    assert_eq!(retracted(&world), [(4, by), (5, by)]);
    assert_eq!(world.status(campaign).tally.done, 4);
    // What it was at when it was found out is not believed, and is others' already.
    let told = world.measure(sick, &held);
    assert_eq!(told, Acknowledgement::Implausible);

    let leased = world.apply(LeaseJobs {
        credential: sick,
        jobs_max: 10,
        held: Some(vec![]),
    });
    let leased = leased.expect("enrolled");
    assert!(leased.leases.is_empty() && leased.draining);
    // The operator sees why, whatever the coordinator went through since.
    world.restart();
    let agents = world.apply(ListAgents);
    let status = agents.iter().find(|status| status.agent.id == sick_id);
    let quarantined = status.expect("listed").agent.quarantined.as_deref();
    assert_eq!(quarantined, Some(SLOW));

    let mut again = measure_all(&mut world, well);
    again.sort_unstable();
    doubtful.push(held.job);
    doubtful.sort_unstable();
    assert_eq!(again, doubtful);
    assert_eq!(world.status(campaign).tally.done, 7);
    verify(&world.store).expect("sound");
}

/// Nobody proposes them any more, and still models are made of them.
#[test]
fn jobs_of_campaigns_that_have_ended_are_measured_again() {
    let mut world = World::new();
    let (sick, well) = (world.agent("sick"), world.agent("well"));
    let campaign = world.campaign(1, Budget::Jobs(2));
    world.propose(campaign, 0..2).expect("proposed");
    let mut doubtful = measure_all(&mut world, sick);
    assert!(world.status(campaign).campaign.end.is_some());
    world.restart();
    assert_eq!(canary(&mut world, sick, Some(SLOW)), again(2, 2));
    world.restart();
    let mut again = measure_all(&mut world, well);
    again.sort_unstable();
    doubtful.sort_unstable();
    assert_eq!(again, doubtful);
    verify(&world.store).expect("sound");
}

/// The answer was lost, and the coordinator died between the word and what follows from it.
#[test]
fn a_word_that_comes_twice_does_what_once_does() {
    let mut world = World::new();
    let sick = world.agent("sick");
    let campaign = world.campaign(1, Budget::Jobs(100));
    world.propose(campaign, 0..4).expect("proposed");
    measure_all(&mut world, sick);
    let told = world.apply(ReportCanary {
        credential: sick,
        because: Some(SLOW.to_owned()),
    });
    assert_eq!(told.expect("known").map(|told| told.through), Some(4));
    world.restart();
    assert_eq!(canary(&mut world, sick, Some(SLOW)), again(4, 4));
    let queued = world.farm.jobs().filter(|job| job.state == State::Queued);
    assert_eq!(queued.count(), 4);
    assert_eq!(canary(&mut world, sick, Some(SLOW)), again(0, 0));
    verify(&world.store).expect("sound");
}

#[test]
fn an_operator_or_a_good_canary_has_it_go_on() {
    let mut world = World::new();
    let sick = world.agent("sick");
    let id = id_of(&mut world, "sick");
    let campaign = world.campaign(1, Budget::Jobs(100));
    world.propose(campaign, 0..2).expect("proposed");
    canary(&mut world, sick, Some(SLOW)).expect("known");
    assert!(world.lease(sick, 10).is_empty());
    canary(&mut world, sick, None).expect("known");
    let lease = world.lease(sick, 1).remove(0);
    world.measure(sick, &lease);
    assert_eq!(canary(&mut world, sick, Some(SLOW)), again(1, 1));
    let status = world.apply(DrainAgent {
        agent: id,
        draining: false,
    });
    assert_eq!(status.expect("known").agent.quarantined, None);
    assert_eq!(measure_all(&mut world, sick).len(), 2);
    canary(&mut world, sick, None).expect("known");
    assert_eq!(retracted(&world), [(1, Owner::Agent(id))], "it stays so");
}

/// The coordinator died before the measurements were looked for, and the device is well again.
#[test]
fn a_good_canary_after_a_bad_one_still_has_measured_again_what_is_between() {
    let mut world = World::new();
    let sick = world.agent("sick");
    let campaign = world.campaign(1, Budget::Jobs(100));
    world.propose(campaign, 0..3).expect("proposed");
    measure_all(&mut world, sick);
    let word = ReportCanary {
        credential: sick,
        because: Some(SLOW.to_owned()),
    };
    world.apply(word).expect("known");
    world.restart();
    assert_eq!(canary(&mut world, sick, None), again(3, 3));
    assert_eq!(canary(&mut world, sick, None), again(0, 0));
    assert_eq!(measure_all(&mut world, sick).len(), 3);
    verify(&world.store).expect("sound");
}

/// Its canary may be made up as well.
#[test]
fn whom_physics_refuted_no_canary_has_go_on() {
    let mut world = World::new();
    let liar = world.agent("liar");
    let campaign = world.campaign(1, Budget::Jobs(100));
    world.propose(campaign, 0..9).expect("proposed");
    for lease in world.lease(liar, IMPLAUSIBLE_MAX as usize) {
        let impossible = Outcome::Reading(Box::new(reading(1e-10)));
        let told = world.report(liar, (lease.job, lease.number), impossible);
        assert_eq!(told, Ok(Acknowledgement::Implausible));
    }
    for because in [None, Some(SLOW), None] {
        canary(&mut world, liar, because).expect("known");
        assert!(world.lease(liar, 10).is_empty());
    }
}

/// A job with a replica of somebody else's loses only the doubtful one.
#[test]
fn others_measurements_stand() {
    let mut world = World::new();
    let (sick, well) = (world.agent("sick"), world.agent("well"));
    let campaign = world.campaign(1, Budget::Jobs(100));
    world.propose(campaign, 0..1).expect("proposed");
    let late = world.lease(sick, 1).remove(0);
    world.pass(60);
    let taken = world.lease(well, 1).remove(0);
    assert_eq!(late.job, taken.job);
    world.measure(well, &taken);
    assert_eq!(world.measure(sick, &late), Acknowledgement::Replica);
    assert_eq!(canary(&mut world, sick, Some(SLOW)), again(1, 0));
    assert_eq!(world.status(campaign).tally.done, 1);
}
