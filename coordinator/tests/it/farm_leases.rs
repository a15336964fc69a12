//! Leases and reports: who has a job, and what counts.

use wattfarm_coordinator::farm::{
    Acknowledgement, Booked, Budget, EXPIRIES_MAX, FAILURES_MAX, Follow, LEASE_TTL, LeaseJobs,
    ListJobs, Order, Outcome, REPLICAS_ADDED_MAX, Refusal, RenewLeases, Report, ReportResults,
    SILENT_MAX, StateName, TaskKey, Tick, URGENT_MAX,
};
use wattfarm_coordinator::store::Store as _;
use wattfarm_cost::id::{JobId, LeaseNumber};
use wattfarm_cost::{Dtype, Subject};

use crate::world::{World, layer, number, platform, reading, uuid};

fn one_job() -> (World, wattfarm_coordinator::farm::SecretHash) {
    let mut world = World::new();
    let agent = world.agent("a");
    let campaign = world.campaign(1, Budget::Jobs(100));
    world.propose(campaign, [0]).expect("room");
    (world, agent)
}

fn only_job(world: &mut World) -> (StateName, String) {
    let jobs = world.jobs();
    assert_eq!(jobs.len(), 1);
    (jobs[0].job.state.name(), jobs[0].because.clone())
}

#[test]
fn what_an_agent_never_heard_of_goes_back_to_the_queue() {
    let (mut world, agent) = one_job();
    let lost = world.lease(agent, 1);
    let again = world.lease(agent, 1);
    assert_eq!(again[0].job, lost[0].job);
    assert!(again[0].number > lost[0].number);
    // A call that waited asks again without a list: what a later call got meanwhile is not its to give back.
    assert_eq!(world.lease_another(agent), None);
    let held = vec![again[0].number];
    assert_eq!(
        world
            .apply(LeaseJobs {
                credential: agent,
                jobs_max: 1,
                held: Some(held)
            })
            .expect("known")
            .leases,
        []
    );
    assert_eq!(world.measure(agent, &again[0]), Acknowledgement::Taken);
    // Late, under the lease that was lost: kept, beside the answer.
    assert_eq!(world.measure(agent, &lost[0]), Acknowledgement::Replica);
    assert_eq!(
        world.store.measurements_after(0, 10).expect("memory").len(),
        2
    );
}

#[test]
fn renewing_keeps_a_lease_and_silence_loses_it() {
    let (mut world, agent) = one_job();
    let lease = world.lease(agent, 1).remove(0);
    let renew = |leases| RenewLeases {
        credential: agent,
        leases,
    };
    for _ in 0..5 {
        world.pass(20);
        assert_eq!(
            world.apply(renew(vec![lease.number, LeaseNumber(99)])),
            Ok(vec![LeaseNumber(99)])
        );
    }
    assert_eq!(world.farm.next_deadline(), Some(world.now.plus(LEASE_TTL)));
    world.pass(25);
    assert_eq!(
        world.apply(renew(vec![lease.number])),
        Ok(vec![lease.number])
    );
    assert_eq!(only_job(&mut world).0, StateName::Queued);
    assert_eq!(world.farm.next_deadline(), None);
}

#[test]
fn a_late_report_is_the_answer_if_there_is_none_and_a_replica_if_there_is() {
    let (mut world, agent) = one_job();
    let other = world.agent("b");
    let lost = world.lease(agent, 1).remove(0);
    world.pass(25);
    let current = world.lease(other, 1).remove(0);
    assert_eq!(current.job, lost.job);
    assert_eq!(world.measure(agent, &lost), Acknowledgement::Taken);
    assert_eq!(
        world.apply(RenewLeases {
            credential: other,
            leases: vec![current.number]
        }),
        Ok(vec![current.number])
    );
    assert_eq!(world.measure(other, &current), Acknowledgement::Replica);
    // And each again: known, and booked once.
    assert_eq!(world.measure(agent, &lost), Acknowledgement::Known);
    assert_eq!(world.measure(other, &current), Acknowledgement::Known);
    world.restart();
    assert_eq!(world.measure(agent, &lost), Acknowledgement::Known);
    let booked = world.store.measurements_after(0, 10).expect("memory");
    assert_eq!(
        booked
            .iter()
            .map(|measurement| measurement.lease)
            .collect::<Vec<_>>(),
        [lost.number, current.number]
    );
}

#[test]
fn reports_are_taken_all_or_none() {
    let (mut world, agent) = one_job();
    let thief = world.agent("b");
    let lease = world.lease(agent, 1).remove(0);
    let good = Report {
        job: lease.job,
        lease: lease.number,
        outcome: Outcome::Reading(Box::new(reading(1.0))),
    };
    let unknown = JobId(uuid(5));
    let cases = [
        (
            agent,
            Report {
                job: unknown,
                ..good.clone()
            },
            Refusal::JobUnknown(unknown),
        ),
        (
            agent,
            Report {
                lease: LeaseNumber(9),
                ..good.clone()
            },
            Refusal::LeaseForged {
                job: lease.job,
                lease: LeaseNumber(9),
            },
        ),
        (
            thief,
            good.clone(),
            Refusal::LeaseForged {
                job: lease.job,
                lease: lease.number,
            },
        ),
    ];
    for (credential, bad, refusal) in cases {
        let reports = vec![good.clone(), bad];
        assert_eq!(
            world.apply(ReportResults {
                credential,
                reports
            }),
            Err(refusal)
        );
    }
    assert_eq!(world.store.measurements_after(0, 10).expect("memory"), []);
    let reports = vec![good.clone(), good];
    let taken = world.apply(ReportResults {
        credential: agent,
        reports,
    });
    let Booked {
        acknowledgements,
        unwanted,
        ..
    } = taken.expect("its own");
    let expected = [Acknowledgement::Taken, Acknowledgement::Known];
    assert_eq!((&acknowledgements[..], unwanted), (&expected[..], vec![]));
}

#[test]
fn a_job_that_fails_three_times_is_parked() {
    let (mut world, agent) = one_job();
    for attempt in 1..=FAILURES_MAX {
        // To hand a job back, or to lose it, is no failure.
        let lease = world.lease(agent, 1).remove(0);
        world
            .report(
                agent,
                (lease.job, lease.number),
                Outcome::Returned("draining".to_owned()),
            )
            .expect("its own");
        world.lease(agent, 1);
        let lease = world.lease(agent, 1).remove(0);
        assert_eq!(
            only_job(&mut world).0,
            StateName::Leased,
            "before attempt {attempt}"
        );
        let failed = Outcome::Failed("cuDNN: execution failed".to_owned());
        assert_eq!(
            world.report(agent, (lease.job, lease.number), failed),
            Ok(Acknowledgement::Taken)
        );
    }
    let because = "failed 3 times, at last: cuDNN: execution failed".to_owned();
    assert_eq!(only_job(&mut world), (StateName::Parked, because));
    assert_eq!(world.lease(agent, 1), []);
}

#[test]
fn a_job_that_silences_agents_is_parked() {
    let (mut world, agent) = one_job();
    for _ in 0..EXPIRIES_MAX {
        assert_eq!(world.lease(agent, 1).len(), 1);
        world.pass(25);
        world.apply(Tick);
    }
    let because = "5 agents in a row fell silent while they had it".to_owned();
    assert_eq!(only_job(&mut world), (StateName::Parked, because));
}

/// An agent that dies of a job and starts again at once never lets the lease run out.
#[test]
fn a_job_that_is_handed_out_again_and_again_is_parked() {
    let (mut world, agent) = one_job();
    for _ in 0..SILENT_MAX {
        assert_eq!(world.lease(agent, 1).len(), 1);
    }
    assert_eq!(world.lease(agent, 1), []);
    assert_eq!(
        only_job(&mut world),
        (
            StateName::Parked,
            "handed out 20 times without a word from the agent".to_owned()
        )
    );
}

#[test]
fn what_a_platform_cannot_run_is_tried_again_only_if_a_user_asks() {
    let (mut world, agent) = one_job();
    let lease = world.lease(agent, 1).remove(0);
    let outcome = Outcome::Infeasible("out of memory".to_owned());
    assert_eq!(
        world.report(agent, (lease.job, lease.number), outcome),
        Ok(Acknowledgement::Taken)
    );
    let campaign = world.campaign(2, Budget::Jobs(5));
    assert_eq!(world.propose(campaign, [0]).expect("room").queued, 0);
    let tasks = order(&mut world, 0).expect("room");
    assert_eq!(world.apply(Follow(tasks))[0].because, "out of memory");
    assert_eq!(world.lease(agent, 1), []);
    order(&mut world, 1).expect("room");
    let again = world.lease(agent, 1).remove(0);
    assert_eq!(again.job, lease.job);
    assert_eq!(world.measure(agent, &again), Acknowledgement::Taken);
    assert_eq!(only_job(&mut world).0, StateName::Done);
}

/// Orders layer 0.
fn order(world: &mut World, replicas: u32) -> Result<Vec<TaskKey>, Refusal> {
    let subjects = vec![(JobId(world.fresh()), Subject::Layer(layer(0)))];
    world.apply(Order {
        platform: platform(1).slug(),
        subjects,
        replicas,
    })
}

#[test]
fn a_job_given_up_is_tried_afresh_if_a_user_asks() {
    let (mut world, agent) = one_job();
    for round in 0..2 {
        for _ in 0..SILENT_MAX {
            assert_eq!(world.lease(agent, 1).len(), 1, "round {round}");
        }
        assert_eq!(world.lease(agent, 1), []);
        assert_eq!(only_job(&mut world).0, StateName::Parked);
        world.restart();
        let campaign = world.campaign(2 + round, Budget::Jobs(5));
        assert_eq!(world.propose(campaign, [0]).expect("room").queued, 0);
        order(&mut world, 1).expect("room");
    }
    let lease = world.lease(agent, 1).remove(0);
    assert_eq!(world.measure(agent, &lease), Acknowledgement::Taken);
}

#[test]
fn a_late_infeasible_says_nothing() {
    let (mut world, agent) = one_job();
    let other = world.agent("b");
    let lost = world.lease(agent, 1).remove(0);
    world.pass(25);
    let current = world.lease(other, 1).remove(0);
    let infeasible = || Outcome::Infeasible("out of memory".to_owned());
    assert_eq!(
        world.report(agent, (lost.job, lost.number), infeasible()),
        Ok(Acknowledgement::Replica)
    );
    assert_eq!(only_job(&mut world).0, StateName::Leased);
    world.pass(25);
    assert_eq!(
        world.report(other, (current.job, current.number), infeasible()),
        Ok(Acknowledgement::Replica)
    );
    assert_eq!(only_job(&mut world).0, StateName::Queued);
}

#[test]
fn users_may_wait_for_so_many_jobs_and_no_more() {
    let mut world = World::new();
    let agent = world.agent("a");
    let mut order = |layers: std::ops::Range<u64>, replicas| {
        let subjects = layers.map(|number| {
            let id = JobId(world.fresh());
            (id, Subject::Layer(layer(number)))
        });
        let subjects = subjects.collect();
        world.apply(Order {
            platform: platform(1).slug(),
            subjects,
            replicas,
        })
    };
    order(0..URGENT_MAX, 1).expect("room");
    let full = Err(Refusal::OrdersFull {
        outstanding: URGENT_MAX + 1,
        max: URGENT_MAX,
    });
    assert_eq!(order(5..URGENT_MAX + 1, 1), full);
    // What is waited for already, or asked after only, adds nothing.
    order(0..2, 2).expect("nothing new");
    order(URGENT_MAX..URGENT_MAX + 1, 0).expect("nothing new");
    // A job in an agent's hands is waited for as well; one that is answered no more.
    let lease = world.lease(agent, 3).remove(2);
    let last = |world: &mut World| {
        let subjects = vec![(JobId(uuid(77_777)), Subject::Layer(layer(URGENT_MAX)))];
        world.apply(Order {
            platform: platform(1).slug(),
            subjects,
            replicas: 1,
        })
    };
    assert_eq!(last(&mut world), full);
    world.measure(agent, &lease);
    last(&mut world).expect("room");
}

/// Networks are large, and an answer is one message.
#[test]
fn a_grant_has_one_network_at_most() {
    let mut world = World::new();
    let agent = world.agent("a");
    let network = |batch| {
        let network = wattfarm_cost::network::zoo::build("resnet18", Some(batch), Dtype::F32);
        Subject::Network(network.expect("built in"))
    };
    let subjects = [
        Subject::Layer(layer(0)),
        network(1),
        network(2),
        Subject::Layer(layer(1)),
    ];
    let subjects = subjects
        .into_iter()
        .map(|subject| (JobId(world.fresh()), subject));
    let subjects = subjects.collect();
    world
        .apply(Order {
            platform: platform(1).slug(),
            subjects,
            replicas: 1,
        })
        .expect("room");
    let mut granted = || {
        let leases = world.apply(LeaseJobs {
            credential: agent,
            jobs_max: 64,
            held: None,
        });
        leases.expect("enrolled").leases.len()
    };
    assert_eq!([granted(), granted(), granted(), granted()], [2, 1, 1, 0]);
}

#[test]
fn users_go_first_and_campaigns_take_turns() {
    let mut world = World::new();
    let agent = world.agent("a");
    let (large, small) = (
        world.campaign(1, Budget::Jobs(100)),
        world.campaign(2, Budget::Jobs(100)),
    );
    world.propose(large, 0..6).expect("room");
    world.pass(1);
    world.propose(small, 10..12).expect("room");
    world.pass(1);
    let subjects = vec![(JobId(uuid(900)), Subject::Layer(layer(20)))];
    world
        .apply(Order {
            platform: platform(1).slug(),
            subjects,
            replicas: 1,
        })
        .expect("a platform that is there");
    let order: Vec<u64> = world.lease(agent, 7).iter().map(number).collect();
    assert_eq!(order, [20, 0, 10, 1, 11, 2, 3]);
}

#[test]
fn an_order_for_more_replicas_opens_a_job_again() {
    let (mut world, agent) = one_job();
    let lease = world.lease(agent, 1).remove(0);
    world.measure(agent, &lease);
    let order = |replicas| {
        let subjects = vec![(JobId(uuid(800)), Subject::Layer(layer(0)))];
        Order {
            platform: platform(1).hash().to_string(),
            subjects,
            replicas,
        }
    };
    for replicas in [0, 1] {
        world
            .apply(order(replicas))
            .expect("a platform that is there");
        assert_eq!(only_job(&mut world).0, StateName::Done);
    }
    world.apply(order(3)).expect("a platform that is there");
    assert_eq!(only_job(&mut world).0, StateName::Queued);
    for _ in 0..2 {
        let lease = world.lease(agent, 1).remove(0);
        assert_eq!(world.measure(agent, &lease), Acknowledgement::Taken);
    }
    assert_eq!(only_job(&mut world).0, StateName::Done);
    let tasks = world.apply(order(0)).expect("a platform that is there");
    assert_eq!(world.apply(Follow(tasks))[0].measurements, [1, 2, 3]);
}

/// What an order adds is bounded, not what there is: whoever measures a network once more each night can go on for years.
#[test]
fn an_order_adds_so_many_replicas_and_no_more() {
    let (mut world, agent) = one_job();
    assert_eq!(
        order(&mut world, REPLICAS_ADDED_MAX + 1),
        Err(Refusal::ReplicasTooMany {
            wanted: REPLICAS_ADDED_MAX + 1,
            done: 0,
            max: REPLICAS_ADDED_MAX
        })
    );
    assert_eq!(only_job(&mut world).0, StateName::Queued);
    for replicas in 1..=1050 {
        order(&mut world, replicas).expect("one more");
        let lease = world.lease(agent, 1).remove(0);
        assert_eq!(world.measure(agent, &lease), Acknowledgement::Taken);
    }
    assert_eq!(only_job(&mut world).0, StateName::Done);
}

#[test]
fn a_restart_gives_live_leases_a_full_term_anew() {
    let (mut world, agent) = one_job();
    let lease = world.lease(agent, 1).remove(0);
    world.pass(1000);
    world.restart();
    assert_eq!(world.farm.next_deadline(), Some(world.now.plus(LEASE_TTL)));
    assert_eq!(
        world.apply(RenewLeases {
            credential: agent,
            leases: vec![lease.number]
        }),
        Ok(vec![])
    );
    assert_eq!(world.measure(agent, &lease), Acknowledgement::Taken);
}

#[test]
fn a_job_says_why_it_waits() {
    let (mut world, agent) = one_job();
    assert_eq!(only_job(&mut world).1, "next in line; 1 agent connected");
    let lease = world.lease(agent, 1).remove(0);
    world.pass(3);
    assert_eq!(only_job(&mut world).1, "`a` has it since 3 s");
    world.measure(agent, &lease);
    let campaign = world.campaign(2, Budget::Jobs(100));
    world.propose(campaign, 1..=30).expect("room");
    let queued = ListJobs {
        platform: None,
        states: vec![StateName::Queued],
        limit: 100,
    };
    let jobs = world.apply(queued).expect("no platform named");
    assert_eq!(
        jobs[29].because,
        "29 jobs go before it; 1 agent connected, about 60 s"
    );
    world.pass(31);
    let queued = ListJobs {
        platform: None,
        states: vec![StateName::Queued],
        limit: 1,
    };
    let because = &world.apply(queued).expect("no platform named")[0].because;
    assert_eq!(
        *because,
        format!("no agent of `{}` is connected", platform(1).slug())
    );
}
