//! Campaigns, proposals and models.

use wattfarm_coordinator::farm::{
    Acknowledgement, Budget, CancelCampaign, End, GetModels, Lease, ListCampaigns, ListJobs,
    OUTSTANDING_MAX, Outcome, Phase, PublishModels, Refusal, Report, ReportResults, RequestModels,
    StateName,
};
use wattfarm_coordinator::store::Store as _;
use wattfarm_cost::id::CampaignId;

use crate::world::{self, World, layer, model, platform, reading, request, uuid};

fn jobs(world: &mut World) -> usize {
    world.jobs().len()
}

#[test]
fn a_request_is_one_campaign_however_often_it_comes() {
    let mut world = World::new();
    world.agent("a");
    let id = CampaignId(uuid(1));
    let first = world
        .apply(request(id, Budget::Jobs(5)))
        .expect("a platform that is there");
    world.restart();
    assert_eq!(world.apply(request(id, Budget::Jobs(5))), Ok(first));
    assert_eq!(
        world.apply(request(id, Budget::Jobs(6))),
        Err(Refusal::CampaignDiffers(id))
    );
    let elsewhere = RequestModels {
        platform: "abacus".to_owned(),
        ..request(CampaignId(uuid(2)), Budget::Jobs(5))
    };
    assert_eq!(
        world.apply(elsewhere),
        Err(Refusal::PlatformUnknown("abacus".to_owned()))
    );
}

#[test]
fn a_proposal_is_queued_found_or_left_out() {
    let mut world = World::new();
    let agent = world.agent("a");
    let first = world.campaign(1, Budget::Jobs(100));
    assert_eq!(world.propose(first, 0..3).expect("room").queued, 3);
    // Repeated: the same answer, no more jobs.
    assert_eq!(world.propose(first, 0..3).expect("room").queued, 3);
    assert_eq!(jobs(&mut world), 3);
    let lease = world.lease_another(agent).expect("a job");
    world.measure(agent, &lease);

    let mut wish = request(CampaignId(uuid(2)), Budget::Jobs(100));
    wish.request.excluded = vec![layer(9).hash()];
    let second = wish.id;
    world.apply(wish).expect("a platform that is there");
    let proposed = world.propose(second, [0, 1, 9]).expect("room");
    assert_eq!(
        (
            proposed.queued,
            proposed.already_measured,
            proposed.excluded
        ),
        (1, 1, 1)
    );
    assert_eq!(jobs(&mut world), 3);
    let status = world.status(second);
    assert_eq!(
        (status.phase, status.tally.spent(), status.tally.outstanding),
        (Phase::Sampling, 0, 1)
    );
    assert_eq!(status.kinds[0].samples, 1);
    // The layers left out are told by their number alone.
    assert_eq!(
        (status.excluded, status.campaign.request.excluded.len()),
        (1, 0)
    );
    let unknown = CampaignId(uuid(3));
    assert_eq!(
        world.propose(unknown, [0]),
        Err(Refusal::CampaignUnknown(unknown))
    );
}

#[test]
fn a_full_queue_says_so_and_takes_none() {
    let mut world = World::new();
    world.agent("a");
    let campaign = world.campaign(1, Budget::Jobs(10_000));
    world.propose(campaign, 0..OUTSTANDING_MAX).expect("room");
    assert!(matches!(
        world.propose(campaign, [5, OUTSTANDING_MAX]),
        Err(Refusal::QueueFull { .. })
    ));
    assert_eq!(world.status(campaign).tally.outstanding, OUTSTANDING_MAX);
    assert_eq!(world.propose(campaign, [5]).expect("nothing new").queued, 1);
}

/// What agents hold when a budget is spent would overspend it: they are told, and told again until they have answered.
#[test]
fn an_agent_hands_back_what_a_campaign_no_longer_wants() {
    let mut world = World::new();
    let agent = world.agent("a");
    let (small, large) = (
        world.campaign(1, Budget::Seconds(2.0)),
        world.campaign(2, Budget::Seconds(100.0)),
    );
    world.propose(small, 0..4).expect("room");
    world.propose(large, 3..4).expect("room");
    let leases = world.lease(agent, 4);
    let send = |world: &mut World, lease: &Lease, outcome| {
        let reports = vec![Report {
            job: lease.job,
            lease: lease.number,
            outcome,
        }];
        let credential = agent;
        let booked = world.apply(ReportResults {
            credential,
            reports,
        });
        booked.expect("its own lease").unwanted
    };
    let measured = || Outcome::Reading(Box::new(reading(1.0)));
    let of = |number: u64| {
        let found = leases.iter().find(|lease| world::number(lease) == number);
        found.expect("leased")
    };
    let [first, second, third] = [0, 1, 2].map(of);
    // Two seconds: the budget of the small campaign. The large one still waits for layer 3.
    let unwanted = send(&mut world, first, measured());
    assert_eq!(world.status(small).phase, Phase::Ended(End::Exhausted));
    assert_eq!(unwanted, [second.number, third.number]);
    // One of them had been begun: it is measured, and kept.
    assert_eq!(send(&mut world, second, measured()), [third.number]);
    let returned = Outcome::Returned("nobody waits for it".to_owned());
    assert_eq!(send(&mut world, third, returned), []);
    // What is left is layer 3, which both had wanted.
    assert_eq!(world.status(small).tally.outstanding, 1);
    assert_eq!(world.status(large).tally.outstanding, 1);
    assert_eq!(
        world.store.measurements_after(0, 10).expect("memory").len(),
        2
    );
}

#[test]
fn a_spent_budget_withdraws_what_only_that_campaign_wanted() {
    let mut world = World::new();
    let agent = world.agent("a");
    let (small, large) = (
        world.campaign(1, Budget::Seconds(3.0)),
        world.campaign(2, Budget::Seconds(100.0)),
    );
    world.propose(small, 0..6).expect("room");
    world.propose(large, 4..8).expect("room");
    // One job of the small campaign was handed out once: its record stays, for the agent may still report.
    let handed_out = world.lease_another(agent).expect("a job");
    let mut answered = 0;
    while world.status(small).campaign.end.is_none() {
        let lease = world.lease_another(agent).expect("a job");
        let outcome = if answered == 0 {
            Outcome::Infeasible("no".to_owned())
        } else {
            Outcome::Reading(Box::new(crate::world::reading(1.0)))
        };
        world
            .report(agent, (lease.job, lease.number), outcome)
            .expect("its own lease");
        answered += 1;
    }
    let status = world.status(small);
    assert_eq!(status.phase, Phase::Ended(End::Exhausted));
    // Two readings of two seconds, and what cannot be measured costs a little.
    assert_eq!((status.tally.spent(), status.tally.measured_ms), (3, 4100));
    assert_eq!(
        world.propose(small, [50]),
        Err(Refusal::CampaignEnded(small))
    );
    let left = world.apply(ListJobs {
        platform: None,
        states: vec![StateName::Queued],
        limit: 100,
    });
    let left = left.expect("no platform named");
    assert!(
        left.iter()
            .all(|status| status.job.shares.keys().eq([&large])),
        "{left:?}"
    );
    // What is under way goes on, and counts.
    assert_eq!(world.measure(agent, &handed_out), Acknowledgement::Taken);
    world.restart();
}

#[test]
fn a_withdrawn_job_takes_a_late_report_and_opens_for_another_campaign() {
    let mut world = World::new();
    let agent = world.agent("a");
    let first = world.campaign(1, Budget::Jobs(9));
    world.propose(first, 0..2).expect("room");
    let (one, two) = (
        world.lease_another(agent).expect("a job"),
        world.lease_another(agent).expect("a job"),
    );
    world.pass(25);
    world.apply(CancelCampaign(first)).expect("there");
    assert_eq!(jobs(&mut world), 2);
    assert_eq!(world.lease(agent, 5), []);
    assert_eq!(world.measure(agent, &one), Acknowledgement::Taken);
    let second = world.campaign(2, Budget::Jobs(9));
    let proposed = world.propose(second, 0..2).expect("room");
    assert_eq!((proposed.queued, proposed.already_measured), (1, 1));
    world.restart();
    assert_eq!(world.lease(agent, 5)[0].job, two.job);
}

#[test]
fn a_campaign_goes_its_way() {
    let mut world = World::new();
    let agent = world.agent("a");
    let hash = platform(1).hash();
    let campaign = world.campaign(1, Budget::Jobs(100));
    assert_eq!(world.status(campaign).phase, Phase::Waiting);
    assert_eq!(
        world.status(campaign).waiting_because,
        "the trainer has proposed no layers yet"
    );
    // A model as good as asked for, but of other people's samples: not yet the end.
    assert_eq!(
        world.apply(PublishModels(vec![model(hash, 9.0)])),
        Ok(vec![1])
    );
    assert_eq!(world.status(campaign).phase, Phase::Waiting);
    world.propose(campaign, [0]).expect("room");
    assert_eq!(world.status(campaign).waiting_because, "");
    let lease = world.lease_another(agent).expect("a job");
    world.measure(agent, &lease);
    assert_eq!(world.status(campaign).phase, Phase::Ready);
    assert_eq!(
        world.apply(PublishModels(vec![model(hash, 20.0)])),
        Ok(vec![2])
    );
    assert_eq!(world.status(campaign).kinds[0].rmspe, Some(20.0));
    assert_eq!(world.status(campaign).phase, Phase::Ready);
    assert_eq!(
        world.apply(PublishModels(vec![model(hash, 10.0)])),
        Ok(vec![3])
    );
    let status = world.status(campaign);
    assert_eq!(status.phase, Phase::Ended(End::Converged));
    // It stays as it ended.
    assert_eq!(world.apply(CancelCampaign(campaign)), Ok(status));
}

#[test]
fn an_equal_model_is_not_published_twice() {
    let mut world = World::new();
    world.agent("a");
    let hash = platform(1).hash();
    assert_eq!(
        world.apply(PublishModels(vec![model(hash, 9.0)])),
        Ok(vec![1])
    );
    world.restart();
    assert_eq!(
        world.apply(PublishModels(vec![model(hash, 9.0)])),
        Ok(vec![1])
    );
    assert_eq!(
        world.apply(PublishModels(vec![model(hash, 8.0), model(hash, 7.0)])),
        Ok(vec![2, 3])
    );
    let elsewhere = platform(5).hash();
    let refused = world.apply(PublishModels(vec![model(hash, 6.0), model(elsewhere, 9.0)]));
    assert_eq!(
        refused,
        Err(Refusal::PlatformUnknown(elsewhere.to_string()))
    );
    let set = world
        .apply(GetModels {
            platform: platform(1).slug(),
            kinds: vec![],
        })
        .expect("there");
    assert_eq!(
        set.models
            .iter()
            .map(|model| model.version)
            .collect::<Vec<_>>(),
        [3]
    );
    let key = set.models[0].key;
    assert_eq!(
        world
            .store
            .model_versions_after(&key, 1)
            .expect("memory")
            .len(),
        2
    );
}

#[test]
fn a_campaign_of_impossible_jobs_spends_its_seconds_too() {
    let mut world = World::new();
    let agent = world.agent("a");
    let campaign = world.campaign(1, Budget::Seconds(1.0));
    world.propose(campaign, 0..20).expect("room");
    for number in 0..10 {
        assert_eq!(world.status(campaign).campaign.end, None, "after {number}");
        let lease = world.lease_another(agent).expect("a job");
        let at = (lease.job, lease.number);
        match number {
            9 => (0..3).fold(at, |at, _| {
                let failed = Outcome::Failed("oh".to_owned());
                world.report(agent, at, failed).expect("its own lease");
                let again = world.lease_another(agent);
                again.map_or(at, |lease| (lease.job, lease.number))
            }),
            _ => {
                let impossible = Outcome::Infeasible("no".to_owned());
                world.report(agent, at, impossible).expect("its own lease");
                at
            }
        };
    }
    let status = world.status(campaign);
    assert_eq!(status.phase, Phase::Ended(End::Exhausted));
    assert_eq!(
        (status.tally.infeasible, status.tally.parked),
        (9, 1),
        "{status:?}"
    );
    assert_eq!(status.tally.measured_ms, 1000);
}

#[test]
fn a_list_of_campaigns_begins_with_those_under_way_and_has_an_end() {
    let mut world = World::new();
    world.agent("a");
    let mut ended: Vec<CampaignId> = (0..1005)
        .map(|number| {
            world.pass(1);
            let campaign = world.campaign(number, Budget::Jobs(1));
            world.apply(CancelCampaign(campaign)).expect("there");
            campaign
        })
        .collect();
    let live = [
        world.campaign(2000, Budget::Jobs(1)),
        world.campaign(2001, Budget::Jobs(1)),
    ];
    ended.reverse();
    let mut ids = |ended| -> Vec<CampaignId> {
        let listed = world.apply(ListCampaigns { ended });
        listed.iter().map(|status| status.campaign.id).collect()
    };
    assert_eq!(ids(false), live);
    let all = ids(true);
    assert_eq!(all.len(), 1000);
    assert_eq!((&all[..2], &all[2..]), (&live[..], &ended[..998]));
}

/// Seconds come from agents: whatever they are, the sums hold.
#[test]
fn absurd_durations_overflow_nothing() {
    let mut world = World::new();
    let agent = world.agent("a");
    let campaign = world.campaign(1, Budget::Jobs(100));
    world.propose(campaign, 0..5).expect("room");
    for seconds in [f64::MAX, 1e300, f64::INFINITY, f64::NAN] {
        let lease = world.lease_another(agent).expect("a job");
        let mut reading = crate::world::reading(1.0);
        reading.conditions.seconds = seconds;
        let outcome = Outcome::Reading(Box::new(reading));
        world
            .report(agent, (lease.job, lease.number), outcome)
            .expect("its own lease");
        jobs(&mut world);
    }
    let day_ms = 24 * 3600 * 1000;
    assert_eq!(world.status(campaign).tally.measured_ms, 3 * day_ms);
    world.restart();
}
