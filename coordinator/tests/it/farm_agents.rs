//! Enrolment, recognition, draining.

use std::time::Duration;

use wattfarm_coordinator::farm::{
    CreateToken, DrainAgent, Enroll, LeaseJobs, ListAgents, ListPlatforms, Refusal, SecretHash,
};
use wattfarm_cost::Platform;
use wattfarm_cost::id::AgentId;

use crate::world::{World, platform, uuid};

fn enroll(
    world: &mut World,
    token: &str,
    credential: &str,
    platform: Platform,
) -> Result<AgentId, Refusal> {
    let fresh_id = AgentId(world.fresh());
    let (token, credential) = (SecretHash::of(token), SecretHash::of(credential));
    let enroll = Enroll {
        token: Some(token),
        credential,
        name: "box".to_owned(),
        platform,
        fresh_id,
    };
    world.apply(enroll).map(|enrolled| enrolled.agent)
}

#[test]
fn a_token_enrols_one_agent_once_and_in_time() {
    let mut world = World::new();
    world.token("good");
    world.token("late");
    assert_eq!(
        enroll(&mut world, "never made", "a", platform(1)),
        Err(Refusal::TokenUnknown)
    );
    let first = enroll(&mut world, "good", "a", platform(1)).expect("a good token");
    assert_eq!(
        enroll(&mut world, "good", "b", platform(1)),
        Err(Refusal::TokenUsed)
    );
    world.pass(61);
    assert_eq!(
        enroll(&mut world, "late", "b", platform(1)),
        Err(Refusal::TokenExpired)
    );
    // The reply was lost: the repeated call is answered as the first, even after the token's end and a restart.
    assert_eq!(enroll(&mut world, "good", "a", platform(1)), Ok(first));
    world.restart();
    assert_eq!(enroll(&mut world, "good", "a", platform(1)), Ok(first));
    assert_eq!(
        enroll(&mut world, "good", "b", platform(1)),
        Err(Refusal::TokenUsed)
    );
}

#[test]
fn an_agent_whose_device_changed_moves_to_the_new_platform() {
    let mut world = World::new();
    world.token("first");
    let agent = enroll(&mut world, "first", "a", platform(1)).expect("a good token");
    world.token("second");
    assert_eq!(enroll(&mut world, "second", "a", platform(2)), Ok(agent));
    let agents = world.apply(ListAgents);
    assert_eq!(agents.len(), 1);
    assert_eq!(agents[0].agent.platform, platform(2).hash());
}

#[test]
fn two_platforms_never_share_a_slug() {
    let mut world = World::new();
    let one = platform(1);
    let other = Platform {
        libtorch: "2.11.0 ".to_owned(),
        ..platform(1)
    };
    assert_eq!(one.slug(), other.slug());
    for (token, platform) in [("a", one.clone()), ("b", other.clone())] {
        world.token(token);
        enroll(&mut world, token, token, platform).expect("a good token");
    }
    let slugs = world.apply(ListPlatforms);
    let slug = |of: &Platform| {
        let status = slugs
            .iter()
            .find(|status| status.entry.hash == of.hash())
            .expect("listed");
        status.entry.slug.clone()
    };
    assert_eq!(slug(&one), one.slug());
    assert_eq!(
        slug(&other),
        format!("{}-{}", one.slug(), &other.hash().to_string()[..6])
    );
}

#[test]
fn only_a_known_credential_passes() {
    let mut world = World::new();
    world.agent("a");
    let stranger = LeaseJobs {
        credential: SecretHash::of("b"),
        jobs_max: 1,
        held: None,
    };
    assert_eq!(
        world.apply(stranger).map(|_| ()),
        Err(Refusal::CredentialUnknown)
    );
}

#[test]
fn a_draining_agent_keeps_its_leases_and_gets_no_more() {
    let mut world = World::new();
    let credential = world.agent("a");
    let campaign = world.campaign(1, wattfarm_coordinator::farm::Budget::Jobs(10));
    world.propose(campaign, 0..3).expect("room");
    let lease = world.lease_another(credential).expect("a job");
    let agent = world.apply(ListAgents)[0].agent.id;
    assert!(
        world
            .apply(DrainAgent {
                agent,
                draining: true
            })
            .expect("enrolled")
            .agent
            .draining
    );
    let leased = world
        .apply(LeaseJobs {
            credential,
            jobs_max: 8,
            held: Some(vec![lease.number]),
        })
        .expect("enrolled");
    assert!(leased.draining && leased.leases.is_empty());
    assert_eq!(
        world.status(campaign).waiting_because.split("` ").last(),
        Some("that is connected is draining")
    );
    world.measure(credential, &lease);
    world
        .apply(DrainAgent {
            agent,
            draining: false,
        })
        .expect("enrolled");
    assert!(world.lease_another(credential).is_some());
    let unknown = AgentId(uuid(77));
    assert_eq!(
        world
            .apply(DrainAgent {
                agent: unknown,
                draining: true
            })
            .map(|_| ()),
        Err(Refusal::AgentUnknown(unknown))
    );
}

#[test]
fn a_token_made_anew_lives_its_own_time() {
    let mut world = World::new();
    let token = SecretHash::of("t");
    let expires_at = world.apply(CreateToken {
        token,
        note: "rack 4".to_owned(),
        ttl: Duration::from_secs(5),
    });
    assert_eq!(expires_at, world.now.plus(Duration::from_secs(5)));
    world.pass(5);
    assert_eq!(
        enroll(&mut world, "t", "a", platform(1)),
        Err(Refusal::TokenExpired)
    );
}
