//! Whole farms under seeded simulation: thousands of agents, a network that loses, repeats and reorders, clocks that run
//! apart and jump, slow disks, partitions, and a coordinator that dies at any write.
//!
//! The farm is the real one, and so is the order of what its writer does: apply a group, commit it, then answer. All else is
//! played, from one seed: the same seed gives the same life of a farm, to the last byte. [`books`] has the promises, kept
//! apart from the farm's own tables, and looks at every step; every thousand steps all of the farm is looked at.
//!
//! `make sim SEED=7 STEPS=1000000` lives through as many farms as it takes. What failed prints its seed, and becomes a test
//! here by one line.

mod books;
mod coordinator;
mod device;
mod life;
mod network;

use std::time::Instant;

use life::{Life, Scale};

/// One farm's life is no longer than this: many farms find more than a long one.
const STEPS_OF_A_LIFE: u64 = 50_000;

fn live(seed: u64, scale: Scale, steps: u64) -> u64 {
    println!("seed {seed}, {scale:?}, {steps} steps");
    let mut life = Life::new(seed, scale);
    life.run(steps);
    life.finish();
    life.steps()
}

#[test]
fn small_farms_keep_their_promises() {
    for seed in 0..16 {
        live(seed, Scale::Small, 3000);
    }
}

#[test]
fn large_farms_keep_their_promises() {
    for seed in 100..102 {
        live(seed, Scale::Large, 10_000);
    }
}

/// One seed twice is one life: what a seed found can be looked at again.
#[test]
fn a_seed_tells_all() {
    let life = |seed| {
        let mut life = Life::new(seed, Scale::Small);
        life.run(4000);
        life.finish();
        life.fingerprint()
    };
    assert_eq!(life(7), life(7));
    assert_ne!(life(7), life(8));
}

#[test]
#[ignore = "takes its length from the environment: make sim SEED=7 STEPS=1000000"]
fn from_the_environment() {
    let number = |name: &str, otherwise: u64| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty());
        text.map_or(otherwise, |text| text.parse().expect("a number"))
    };
    let (first, wanted) = (number("SEED", 0), number("STEPS", 1_000_000));
    let began = Instant::now();
    let (mut steps, mut seed) = (0, first);
    while steps < wanted {
        let scale = if seed % 2 == 0 {
            Scale::Large
        } else {
            Scale::Small
        };
        steps += live(seed, scale, (wanted - steps).min(STEPS_OF_A_LIFE));
        seed += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    let a_minute = steps as f64 / seconds * 60.0;
    println!(
        "{steps} events in {} farms, {seconds:.1} s: {a_minute:.0} a minute",
        seed - first
    );
}
