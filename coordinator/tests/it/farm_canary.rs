//! A device that is not itself: quarantined, its measurements doubted and measured again.

use wattfarm_coordinator::farm::{
    Acknowledgement, Budget, DrainAgent, Job, LeaseJobs, ListAgents, MeasureAgain, Refusal,
    ReportCanary, SecretHash, State,
};
use wattfarm_coordinator::store::Store as _;
use wattfarm_cost::id::{AgentId, JobId};

use crate::world::World;

const SLOW: &str = "its canary took 3 ms";

/// As the coordinator's service does: what is to be measured again is read from the store.
fn canary(
    world: &mut World,
    credential: SecretHash,
    because: Option<&str>,
) -> Result<Vec<JobId>, Refusal> {
    let because = because.map(str::to_owned);
    let wanting = world.apply(ReportCanary {
        credential,
        because,
    })?;
    let task = |id: &JobId| Some((*id, world.store.task(*id).expect("memory")?));
    let tasks: Vec<_> = wanting.iter().filter_map(task).collect();
    world.apply(MeasureAgain(tasks));
    Ok(wanting)
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

fn suspects(world: &World, agent: AgentId) -> Vec<u64> {
    let jobs: Vec<&Job> = world.farm.jobs().collect();
    let mut all: Vec<u64> = jobs.iter().flat_map(|job| job.suspects_of(agent)).collect();
    all.sort_unstable();
    all
}

#[test]
fn what_was_measured_since_the_last_good_canary_is_measured_again_by_others() {
    let mut world = World::new();
    let (sick, well) = (world.agent("sick"), world.agent("well"));
    let sick_id = id_of(&mut world, "sick");
    let campaign = world.campaign(1, Budget::Jobs(100));
    world.propose(campaign, 0..3).expect("proposed");
    measure_all(&mut world, sick);
    assert_eq!(canary(&mut world, sick, None), Ok(vec![]));
    world.propose(campaign, 3..5).expect("proposed");
    let mut doubtful = measure_all(&mut world, sick);
    world.propose(campaign, 5..6).expect("proposed");
    let held = world.lease(sick, 1).remove(0);

    let mut wanting = canary(&mut world, sick, Some(SLOW)).expect("known");
    wanting.sort_unstable();
    doubtful.sort_unstable();
    assert_eq!(wanting, doubtful);
    assert_eq!(suspects(&world, sick_id), [4, 5]);
    assert_eq!(world.status(campaign).tally.done, 3);
    // What it was at when it was found out is doubted as well.
    world.measure(sick, &held);
    assert_eq!(suspects(&world, sick_id), [4, 5, 6]);

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
    let mut expected = doubtful;
    expected.push(held.job);
    expected.sort_unstable();
    assert_eq!(again, expected);
    assert_eq!(world.status(campaign).tally.done, 6);
    assert!(world.farm.jobs().all(|job| job.state == State::Done));
}

/// The answer was lost, and the coordinator died between marking and opening.
#[test]
fn a_word_that_comes_twice_does_what_once_does() {
    let mut world = World::new();
    let sick = world.agent("sick");
    let campaign = world.campaign(1, Budget::Jobs(100));
    world.propose(campaign, 0..4).expect("proposed");
    measure_all(&mut world, sick);
    let because = Some(SLOW.to_owned());
    let first = world.apply(ReportCanary {
        credential: sick,
        because,
    });
    world.restart();
    assert_eq!(canary(&mut world, sick, Some(SLOW)), first);
    assert_eq!(first.expect("known").len(), 4);
    let queued = world.farm.jobs().filter(|job| job.state == State::Queued);
    assert_eq!(queued.count(), 4);
    assert_eq!(canary(&mut world, sick, Some(SLOW)), Ok(vec![]));
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
    canary(&mut world, sick, Some(SLOW)).expect("known");
    assert_eq!(suspects(&world, id), [1]);
    let status = world.apply(DrainAgent {
        agent: id,
        draining: false,
    });
    assert_eq!(status.expect("known").agent.quarantined, None);
    assert_eq!(measure_all(&mut world, sick).len(), 2);
    canary(&mut world, sick, None).expect("known");
    assert_eq!(suspects(&world, id), [1], "what was suspect stays so");
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
    assert_eq!(canary(&mut world, sick, Some(SLOW)), Ok(vec![]));
    assert_eq!(world.status(campaign).tally.done, 1);
}
