//! Devices of a platform against each other.

use wattfarm_coordinator::farm::{
    AgentStatus, Budget, DrainAgent, ListAgents, PublishModels, ReportCanary, SecretHash,
};
use wattfarm_cost::model::DeviceEffect;

use crate::world::{World, model, platform};

/// The status of the agent of a credential.
fn status(world: &mut World, credential: SecretHash) -> AgentStatus {
    let agents = world.apply(ListAgents).into_iter();
    let mut own = agents.filter(|status| status.agent.credential == credential);
    own.next().expect("enrolled")
}

/// Publishes a model by which each device is so far from the mean, in logarithms, give or take `log_error`.
fn publish(world: &mut World, effects: &[(SecretHash, f64)], log_error: f64) {
    let mut model = model(platform(1).hash(), 5.0);
    let of = |&(credential, log_ratio): &(SecretHash, f64)| DeviceEffect {
        agent: status(world, credential).agent.id,
        layers: 100,
        log_ratio,
        log_error,
    };
    model.provenance.devices = effects.iter().map(of).collect();
    model.provenance.devices.sort_by_key(|effect| effect.agent);
    world
        .apply(PublishModels(vec![model]))
        .expect("a known platform");
}

#[test]
fn the_odd_one_of_three_devices_gets_no_more_jobs_until_an_operator_says_so() {
    let mut world = World::new();
    let [a, b, odd] = ["a", "b", "odd"].map(|name| world.agent(name));
    let campaign = world.campaign(1, Budget::Jobs(100));
    world.propose(campaign, 0..10).expect("room");
    world.lease(odd, 2);
    let apart = [(a, -0.2), (b, -0.1), (odd, 0.3)];

    // Within what healthy boards differ by, or not known well enough, or by two alone: nothing follows.
    publish(&mut world, &[(a, -0.1), (b, 0.0), (odd, 0.25)], 0.01);
    publish(&mut world, &apart, 0.12);
    let fourth = world.agent("c");
    publish(
        &mut world,
        &[(a, -0.2), (b, -0.2), (fourth, 0.2), (odd, 0.2)],
        0.01,
    );
    publish(&mut world, &apart[1..], 0.01);
    let before = status(&mut world, odd);
    assert_eq!((before.agent.quarantined, before.leases), (None, 2));
    assert_eq!(before.effect.map(|effect| effect.log_ratio), Some(0.3));

    publish(&mut world, &apart, 0.01);
    for _ in 0..2 {
        let told = status(&mut world, odd);
        let because = told.agent.quarantined.expect("far from both");
        assert_eq!(
            because,
            "layers take `odd` 49 % longer than the platform's other devices"
        );
        assert_eq!(told.leases, 0);
        assert_eq!(told.effect.map(|effect| effect.log_ratio), Some(0.3));
        assert_eq!(status(&mut world, a).agent.quarantined, None);
        // Its canary is as slow as ever: that says nothing.
        let well = ReportCanary {
            credential: odd,
            because: None,
        };
        world.apply(well).expect("enrolled");
        world.restart();
    }

    let release = DrainAgent {
        agent: status(&mut world, odd).agent.id,
        draining: false,
    };
    world.apply(release).expect("enrolled");
    publish(&mut world, &apart, 0.02);
    assert_eq!(status(&mut world, odd).agent.quarantined, None);
    assert!(world.lease_another(odd).is_some());
}
