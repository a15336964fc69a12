//! Who gets what: users share a platform by weight, what is urgent goes first, and nobody holds a job for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use wattfarm_coordinator::farm::{
    Budget, CreateKey, End, ExtendCampaign, FindKey, ListJobs, ListKeys, Owner, PauseCampaign,
    Phase, Refusal, RenewLeases, RequestModels, RevokeKey, Role, SecretHash, StateName, Tick,
    Weight,
};
use wattfarm_cost::id::CampaignId;

use crate::world::{World, number, request, uuid};

/// A campaign of somebody's, with layers from `first` on.
fn campaign(
    world: &mut World,
    id: u64,
    owner: Owner,
    weight: u32,
    layers: std::ops::Range<u64>,
) -> CampaignId {
    let id = CampaignId(uuid(2_000_000 + id));
    let mut wish = request(id, Budget::Jobs(10_000));
    wish.request.weight = Weight::new(weight).expect("in range");
    world
        .apply(RequestModels { owner, ..wish })
        .expect("a platform that is there");
    world.propose(id, layers).expect("room");
    id
}

/// Takes so many jobs and tells how many were of each thousand of layers.
fn served(world: &mut World, jobs: usize) -> BTreeMap<u64, usize> {
    let agent = world.agent("a");
    let mut served = BTreeMap::new();
    for _ in 0..jobs {
        let lease = world.lease_another(agent).expect("there is more");
        *served.entry(number(&lease) / 1000).or_default() += 1;
        world.measure(agent, &lease);
    }
    served
}

#[test]
fn two_users_share_whatever_their_backlogs() {
    let mut world = World::new();
    world.agent("a");
    campaign(&mut world, 1, Owner::Key(uuid(1)), 1, 0..900);
    campaign(&mut world, 2, Owner::Key(uuid(2)), 1, 1000..1090);
    let served = served(&mut world, 160);
    assert!((72..=88).contains(&served[&0]), "{served:?}");
}

/// Ten campaigns of one user get no more than one of another.
#[test]
fn many_campaigns_are_still_one_users() {
    let mut world = World::new();
    world.agent("a");
    for index in 0..10 {
        let first = index * 50;
        campaign(
            &mut world,
            10 + index,
            Owner::Key(uuid(1)),
            1,
            first..first + 50,
        );
    }
    campaign(&mut world, 2, Owner::Key(uuid(2)), 1, 1000..1200);
    let served = served(&mut world, 200);
    assert!((90..=110).contains(&served[&0]), "{served:?}");
}

#[test]
fn shares_follow_weights() {
    let mut world = World::new();
    world.agent("a");
    campaign(&mut world, 1, Owner::Key(uuid(1)), 3, 0..400);
    campaign(&mut world, 2, Owner::Key(uuid(2)), 1, 1000..1400);
    let served = served(&mut world, 400);
    assert!((290..=310).contains(&served[&0]), "{served:?}");
}

/// Who comes late gets a share from then on, not what others had meanwhile.
#[test]
fn waiting_idle_earns_nothing() {
    let mut world = World::new();
    world.agent("a");
    campaign(&mut world, 1, Owner::Key(uuid(1)), 1, 0..900);
    served(&mut world, 300);
    campaign(&mut world, 2, Owner::Key(uuid(2)), 1, 1000..1300);
    let served = served(&mut world, 100);
    assert!((45..=55).contains(&served[&0]), "{served:?}");
}

#[test]
fn urgent_campaigns_go_first_and_paused_ones_wait() {
    let mut world = World::new();
    world.agent("a");
    campaign(&mut world, 1, Owner::Key(uuid(1)), 1, 0..50);
    let id = CampaignId(uuid(2));
    let mut wish = request(id, Budget::Jobs(100));
    wish.request.urgent = true;
    world.apply(wish).expect("there");
    world.propose(id, 1000..1020).expect("room");
    assert_eq!(served(&mut world, 10), BTreeMap::from([(1, 10)]));

    let pause = |paused| PauseCampaign { id, paused };
    assert!(world.apply(pause(true)).expect("there").campaign.paused);
    assert_eq!(served(&mut world, 10), BTreeMap::from([(0, 10)]));
    world.restart();
    assert_eq!(
        served(&mut world, 5),
        BTreeMap::from([(0, 5)]),
        "also after a restart"
    );
    let queued = ListJobs {
        platform: None,
        states: vec![StateName::Queued],
        limit: 1000,
    };
    let jobs = world.apply(queued).expect("no platform named");
    let paused = jobs
        .iter()
        .filter(|job| job.because.contains("paused"))
        .count();
    assert_eq!(paused, 10, "{:?}", jobs[0].because);
    world.apply(pause(false)).expect("there");
    assert_eq!(served(&mut world, 10), BTreeMap::from([(1, 10)]));
}

#[test]
fn a_spent_campaign_can_be_given_more() {
    let mut world = World::new();
    let agent = world.agent("a");
    let id = world.campaign(1, Budget::Jobs(1));
    world.propose(id, [0]).expect("room");
    let lease = world.lease_another(agent).expect("a job");
    world.measure(agent, &lease);
    assert_eq!(world.status(id).phase, Phase::Ended(End::Exhausted));
    let extend = |budget| ExtendCampaign { id, budget };
    for smaller in [Budget::Jobs(1), Budget::Seconds(100.0)] {
        let refused = world
            .apply(extend(smaller))
            .expect_err("no more than it spent");
        assert_eq!(refused, Refusal::BudgetSmaller(id));
    }
    let status = world.apply(extend(Budget::Jobs(3))).expect("more");
    assert!(
        !matches!(status.phase, Phase::Ended(_)),
        "{:?}",
        status.phase
    );
    world.restart();
    let proposed = world.propose(id, [1, 2, 3]).expect("room");
    assert_eq!((proposed.queued, proposed.over_budget), (2, 1));
    // The request that made it is still the same one when it is repeated.
    world.apply(request(id, Budget::Jobs(1))).expect("known");
}

/// An agent that lives and renews, and brings nothing, loses its job in the end; a job that is merely long does not.
#[test]
fn who_holds_a_job_without_progress_loses_it() {
    let mut world = World::new();
    let agent = world.agent("a");
    let id = world.campaign(1, Budget::Jobs(10));
    world.propose(id, [0]).expect("room");
    let lease = world.lease_another(agent).expect("a job");
    let renew = |world: &mut World, seconds: u64| {
        for _ in 0..seconds / 8 {
            world.pass(8);
            let leases = vec![lease.number];
            let renew = RenewLeases {
                credential: agent,
                leases,
            };
            if !world.apply(renew).expect("enrolled").is_empty() {
                return false;
            }
        }
        true
    };
    assert!(
        renew(&mut world, 14 * 60),
        "fourteen minutes are not too long"
    );
    assert!(
        !renew(&mut world, 2 * 60),
        "fifteen are, when nothing is known of its jobs"
    );
    let again = world.lease_another(agent).expect("it was offered again");
    assert_eq!(again.job, lease.job);
    // What comes all the same is the answer.
    world.measure(agent, &lease);
    assert_eq!(world.status(id).tally.done, 1);
}

#[test]
fn keys_open_until_they_end() {
    let mut world = World::new();
    let key = |name: &str, ttl| CreateKey {
        key: SecretHash::of(name),
        id: uuid(if ttl == Some(Duration::from_secs(60)) {
            1
        } else {
            2
        }),
        name: name.to_owned(),
        role: Role::Read,
        ttl,
    };
    world
        .apply(key("short", Some(Duration::from_secs(60))))
        .expect("room");
    world.apply(key("long", None)).expect("room");
    let opens =
        |world: &mut World, name: &str| world.apply(FindKey(SecretHash::of(name))).is_some();
    assert!(opens(&mut world, "short") && opens(&mut world, "long") && !opens(&mut world, "other"));
    world.pass(60);
    world.apply(Tick);
    world.restart();
    assert!(!opens(&mut world, "short") && opens(&mut world, "long"));
    world.apply(RevokeKey(uuid(2))).expect("there");
    world.restart();
    assert!(!opens(&mut world, "long"));
    assert_eq!(world.apply(ListKeys), []);
}

/// What waits says why in words, and a long list costs no more for that.
#[test]
fn many_jobs_say_why_they_wait() {
    let mut world = World::new();
    world.agent("a");
    for index in 0..3 {
        let first = index * 4000;
        campaign(&mut world, index, Owner::Anonymous, 1, first..first + 1000);
    }
    let all = ListJobs {
        platform: None,
        states: vec![],
        limit: usize::MAX,
    };
    let jobs = world.apply(all).expect("no platform named");
    assert_eq!(jobs.len(), 3000);
    assert!(jobs.iter().all(|job| job.because.contains("connected")));
}
