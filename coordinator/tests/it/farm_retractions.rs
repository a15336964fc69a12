//! Measurements that are taken back, readings that are not believed, and what that does to jobs, budgets and agents.

use wattfarm_coordinator::farm::{
    Acknowledgement, AgentStatus, Budget, DrainAgent, IMPLAUSIBLE_MAX, LeaseJobs, ListAgents,
    Outcome, Owner, Refusal, RetractMeasurements, Retracted, SecretHash, StateName,
};
use wattfarm_coordinator::store::{Store as _, verify};
use wattfarm_cost::id::{CampaignId, JobId};

use crate::world::{World, reading, uuid};

fn retract(world: &mut World, measurements: &[(u64, JobId)]) -> Result<Retracted, Refusal> {
    world.apply(RetractMeasurements {
        measurements: measurements.to_vec(),
        because: "the fan was off".to_owned(),
        by: Owner::Operator,
    })
}

fn measured_once() -> (World, SecretHash, CampaignId, JobId) {
    let mut world = World::new();
    let agent = world.agent("a");
    let campaign = world.campaign(1, Budget::Jobs(10));
    world.propose(campaign, [0]).expect("room");
    let lease = world.lease_another(agent).expect("a job");
    world.measure(agent, &lease);
    (world, agent, campaign, lease.job)
}

#[test]
fn what_was_retracted_answers_nothing_and_is_measured_anew() {
    let (mut world, agent, campaign, job) = measured_once();
    let done = |world: &mut World| world.status(campaign).tally.done;
    assert_eq!(done(&mut world), 1);
    let (retracted, known) = (1, 1);
    let once = Retracted {
        retracted,
        known: 0,
    };
    assert_eq!(retract(&mut world, &[(1, job)]), Ok(once));
    let again = Retracted {
        retracted: 0,
        known,
    };
    assert_eq!(retract(&mut world, &[(1, job)]), Ok(again));
    for _ in 0..2 {
        assert_eq!(done(&mut world), 0);
        let jobs = world.jobs();
        assert_eq!(jobs[0].because, "its measurement was retracted");
        world.restart();
    }
    // What it took has been spent all the same.
    assert_eq!(world.status(campaign).tally.measured_ms, 2000);
    // The record of it stays, and why it was taken back.
    let stored = world.store.measurements_after(0, 9).expect("memory");
    assert_eq!(stored.len(), 1);
    let retractions = world.store.retractions_after(0, 9).expect("memory");
    assert_eq!(retractions.len(), 1);
    assert_eq!(
        (retractions[0].sequence, retractions[0].because.as_str()),
        (1, "the fan was off")
    );

    assert_eq!(world.propose(campaign, [0]).expect("room").queued, 1);
    let lease = world.lease_another(agent).expect("anew");
    assert_eq!(lease.job, job);
    assert_eq!(world.measure(agent, &lease), Acknowledgement::Taken);
    assert_eq!(done(&mut world), 1);
    let found = verify(&world.store).expect("sound");
    assert_eq!((found.jobs, found.measurements), (1, 2));
}

#[test]
fn a_retraction_of_nothing_changes_nothing() {
    let (mut world, _, campaign, job) = measured_once();
    for nothing in [(2, job), (0, job), (1, JobId(uuid(99)))] {
        let refused = retract(&mut world, &[(1, job), nothing]);
        assert_eq!(refused, Err(Refusal::MeasurementUnknown(nothing.0)));
    }
    assert_eq!(world.status(campaign).tally.done, 1);
    assert_eq!(world.store.retractions_after(0, 9).expect("memory"), []);
}

/// A report that comes again after its reading was taken back is known, and takes nothing back itself.
#[test]
fn a_late_repetition_of_what_was_retracted_is_known() {
    let (mut world, agent, campaign, job) = measured_once();
    let stored = world.store.measurements_after(0, 1).expect("memory");
    retract(&mut world, &[(1, job)]).expect("there");
    let outcome = Outcome::Reading(Box::new(reading(1.0)));
    let again = world.report(agent, (job, stored[0].lease), outcome);
    assert_eq!(again, Ok(Acknowledgement::Known));
    assert_eq!(world.status(campaign).tally.done, 0);
}

fn only_agent(world: &mut World) -> AgentStatus {
    world.apply(ListAgents).remove(0)
}

/// A linear layer of 16 x 1 at batch 1 is 32 operations: no core of 2024 does them within 1e-10 ms.
const IMPOSSIBLE_MS: f64 = 1e-10;

#[test]
fn who_reports_what_cannot_be_gets_no_more_jobs_until_an_operator_says_so() {
    let mut world = World::new();
    let (liar, good) = (world.agent("a"), world.agent("b"));
    let campaign = world.campaign(1, Budget::Jobs(100));
    world.propose(campaign, 0..10).expect("room");
    let lie = || Outcome::Reading(Box::new(reading(IMPOSSIBLE_MS)));
    let held = world.lease(liar, 5);
    for (index, lease) in held[..3].iter().enumerate() {
        assert_eq!(only_agent(&mut world).agent.quarantined, None, "{index}");
        let told = world.report(liar, (lease.job, lease.number), lie());
        assert_eq!(told, Ok(Acknowledgement::Implausible));
    }
    let status = only_agent(&mut world);
    assert_eq!(status.agent.implausible, IMPLAUSIBLE_MAX);
    let because = status.agent.quarantined.expect("three lies");
    assert!(because.contains("`a` reported what cannot be"), "{because}");
    // All that it had goes to others, and nothing that it brings is believed now.
    assert_eq!(status.leases, 0);
    let told = world.report(liar, (held[4].job, held[4].number), {
        Outcome::Reading(Box::new(reading(1.0)))
    });
    assert_eq!(told, Ok(Acknowledgement::Implausible));
    let ask = LeaseJobs {
        credential: liar,
        jobs_max: 1,
        held: Some(vec![]),
    };
    let answer = world.apply(ask).expect("enrolled");
    assert!(answer.leases.is_empty() && answer.draining);
    world.restart();
    while let Some(lease) = world.lease_another(good) {
        assert_eq!(world.measure(good, &lease), Acknowledgement::Taken);
    }
    let jobs = world.jobs();
    assert!(
        jobs.iter()
            .all(|job| job.job.state.name() == StateName::Done)
    );
    assert_eq!(
        world.store.measurements_after(0, 99).expect("memory").len(),
        10
    );

    let agent = status.agent.id;
    let release = DrainAgent {
        agent,
        draining: false,
    };
    world.apply(release).expect("enrolled");
    let status = only_agent(&mut world);
    assert_eq!(
        (status.agent.quarantined, status.agent.implausible),
        (None, 0)
    );
    world.propose(campaign, 10..11).expect("room");
    let lease = world.lease_another(liar).expect("it goes on");
    assert_eq!(world.measure(liar, &lease), Acknowledgement::Taken);
}

/// One reading in a thousand that is out of this world is the world's fault, not the box's.
#[test]
fn a_rare_implausible_reading_quarantines_nobody() {
    let mut world = World::new();
    let agent = world.agent("a");
    let campaign = world.campaign(1, Budget::Jobs(10_000));
    for round in 0..4 {
        world
            .propose(campaign, round * 1000..round * 1000 + 200)
            .expect("room");
        let lease = world.lease_another(agent).expect("a job");
        let lie = Outcome::Reading(Box::new(reading(IMPOSSIBLE_MS)));
        let told = world.report(agent, (lease.job, lease.number), lie);
        assert_eq!(told, Ok(Acknowledgement::Implausible));
        while let Some(lease) = world.lease_another(agent) {
            world.measure(agent, &lease);
        }
        assert_eq!(only_agent(&mut world).agent.quarantined, None);
    }
    let agent = only_agent(&mut world).agent;
    assert_eq!((agent.implausible, agent.measurements), (4, 800));
}
