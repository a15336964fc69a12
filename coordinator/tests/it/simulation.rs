//! Random farms: agents that lease, fall silent, lose replies, report late and twice; a coordinator that dies between any
//! two commits, or before one. The same seed gives the same farm.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use wattfarm_coordinator::farm::{
    Acknowledgement, Budget, LeaseJobs, ListJobs, Order, Outcome, RenewLeases, Report,
    ReportResults, SecretHash, StateName, Tick,
};
use wattfarm_coordinator::store::Store as _;
use wattfarm_cost::Subject;
use wattfarm_cost::id::{CampaignId, JobId, LeaseNumber};

use crate::world::{World, layer, platform, reading};

const SEEDS: u64 = 60;
const STEPS: usize = 400;

/// An agent as the simulation plays it: what it believes to hold, and what it reported and may report again.
struct Device {
    credential: SecretHash,
    held: Vec<(JobId, LeaseNumber)>,
    sent: Vec<Report>,
}

struct Simulation {
    world: World,
    random: SmallRng,
    devices: Vec<Device>,
    campaigns: Vec<CampaignId>,
    /// Readings that the farm said it took, by lease.
    acknowledged: BTreeSet<LeaseNumber>,
    lease_last: LeaseNumber,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut world = World::new();
        let devices = (0..4).map(|index| world.agent(&format!("agent {index}")));
        let devices = devices
            .map(|credential| Device {
                credential,
                held: vec![],
                sent: vec![],
            })
            .collect::<Vec<_>>();
        let campaigns = vec![
            world.campaign(1, Budget::Jobs(40)),
            world.campaign(2, Budget::Seconds(150.0)),
        ];
        let random = SmallRng::seed_from_u64(seed);
        Self {
            world,
            random,
            devices,
            campaigns,
            acknowledged: BTreeSet::new(),
            lease_last: LeaseNumber(0),
        }
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..30 => self.lease(),
            30..60 => self.report(),
            60..65 => self.report_again(),
            65..75 => self.renew(),
            75..80 => self.forget(),
            80..90 => self.pass(),
            90..95 => self.want(),
            95..98 => self.restart(),
            _ => self.die_before_the_commit(),
        }
        self.check_books();
    }

    /// Takes jobs; sometimes the reply is lost.
    fn lease(&mut self) {
        let heard = self.random.random_bool(0.9);
        let jobs_max = self.random.random_range(1..4);
        let device = pick(&mut self.devices, &mut self.random);
        let held = Some(device.held.iter().map(|&(_, lease)| lease).collect());
        let leased = self
            .world
            .apply(LeaseJobs {
                credential: device.credential,
                jobs_max,
                held,
            })
            .expect("enrolled");
        for lease in leased.leases {
            assert!(lease.number > self.lease_last, "lease numbers only grow");
            self.lease_last = lease.number;
            if heard {
                device.held.push((lease.job, lease.number));
            }
        }
    }

    /// Reports what an agent holds, or believes to hold; sometimes the reply is lost and it reports again later.
    fn report(&mut self) {
        let index = self.random.random_range(0..self.devices.len());
        let Some((job, lease)) = self.devices[index].held.pop() else {
            return;
        };
        let outcome = match self.random.random_range(0..10) {
            0 => Outcome::Infeasible("no".to_owned()),
            1 => Outcome::Failed("oh".to_owned()),
            2 => Outcome::Returned("later".to_owned()),
            _ => Outcome::Reading(Box::new(reading(1.0))),
        };
        let report = Report {
            job,
            lease,
            outcome,
        };
        self.devices[index].sent.push(report.clone());
        self.send(index, report);
    }

    fn report_again(&mut self) {
        let index = self.random.random_range(0..self.devices.len());
        let Some(report) = self.devices[index].sent.choose(&mut self.random).cloned() else {
            return;
        };
        assert_eq!(self.send(index, report), Acknowledgement::Known);
    }

    fn send(&mut self, index: usize, report: Report) -> Acknowledgement {
        let measured = matches!(report.outcome, Outcome::Reading(_)).then_some(report.lease);
        let event = ReportResults {
            credential: self.devices[index].credential,
            reports: vec![report],
        };
        let booked = self.world.apply(event).expect("its own lease");
        let acknowledgement = booked.acknowledgements[0];
        // Half of the agents hand back what nobody wants, half are deaf.
        if self.random.random_bool(0.5) {
            self.hand_back(index, &booked.unwanted);
        }
        self.acknowledged.extend(measured);
        acknowledgement
    }

    fn hand_back(&mut self, index: usize, unwanted: &[LeaseNumber]) {
        let device = &mut self.devices[index];
        let unwanted = device
            .held
            .extract_if(.., |(_, lease)| unwanted.contains(lease));
        let reports: Vec<_> = unwanted
            .map(|(job, lease)| Report {
                job,
                lease,
                outcome: Outcome::Returned("nobody wants it".to_owned()),
            })
            .collect();
        device.sent.extend(reports.iter().cloned());
        let event = ReportResults {
            credential: device.credential,
            reports,
        };
        self.world.apply(event).expect("its own leases");
    }

    fn renew(&mut self) {
        let device = pick(&mut self.devices, &mut self.random);
        let leases = device.held.iter().map(|&(_, lease)| lease).collect();
        let lost = self
            .world
            .apply(RenewLeases {
                credential: device.credential,
                leases,
            })
            .expect("enrolled");
        // Half of the agents stop what they lost, half are slow to.
        if self.random.random_bool(0.5) {
            device.held.retain(|(_, lease)| !lost.contains(lease));
        }
    }

    /// An agent dies and starts with nothing.
    fn forget(&mut self) {
        pick(&mut self.devices, &mut self.random).held.clear();
    }

    fn pass(&mut self) {
        let seconds = self.random.random_range(0..12);
        self.world.pass(seconds);
        self.world.apply(Tick);
    }

    fn want(&mut self) {
        if self.random.random_bool(0.2) {
            let subjects = vec![(
                JobId(self.world.fresh()),
                Subject::Layer(layer(self.random.random_range(0..60))),
            )];
            let replicas = self.random.random_range(1..3);
            self.world
                .apply(Order {
                    platform: platform(1).slug(),
                    subjects,
                    replicas,
                })
                .expect("there");
        } else if let Some(&campaign) = self.campaigns.choose(&mut self.random) {
            let layers: Vec<u64> = (0..5).map(|_| self.random.random_range(0..60)).collect();
            // Refused once the campaign has ended.
            let _ = self.world.propose(campaign, layers);
        }
    }

    /// The coordinator dies between two commits: it goes on with the jobs that it had.
    fn restart(&mut self) {
        let all = || ListJobs {
            platform: None,
            states: vec![],
            limit: usize::MAX,
        };
        let before = self.world.apply(all()).expect("no platform named");
        self.world.restart();
        let after = self.world.apply(all()).expect("no platform named");
        assert!(
            before
                .iter()
                .map(|status| &status.job)
                .eq(after.iter().map(|status| &status.job))
        );
    }

    /// An event is applied, and the process dies before the commit: nobody was told, so nothing happened.
    fn die_before_the_commit(&mut self) {
        let device = pick(&mut self.devices, &mut self.random);
        let credential = device.credential;
        match device.held.last() {
            Some(&(job, lease)) => {
                let reports = vec![Report {
                    job,
                    lease,
                    outcome: Outcome::Reading(Box::new(reading(1.0))),
                }];
                self.world
                    .apply_unstored(ReportResults {
                        credential,
                        reports,
                    })
                    .0
                    .expect("its own lease");
            }
            None => drop(self.world.apply_unstored(LeaseJobs {
                credential,
                jobs_max: 2,
                held: Some(vec![]),
            })),
        }
        self.world.restart();
    }

    /// What was acknowledged is stored, once each.
    fn check_books(&self) {
        let booked = self
            .world
            .store
            .measurements_after(0, usize::MAX)
            .expect("memory");
        let mut counts: BTreeMap<LeaseNumber, usize> = BTreeMap::new();
        booked
            .iter()
            .for_each(|measurement| *counts.entry(measurement.lease).or_default() += 1);
        assert!(
            counts.values().all(|&count| count == 1),
            "a measurement was booked twice: {counts:?}"
        );
        assert!(
            counts.keys().eq(&self.acknowledged),
            "booked {counts:?}\nacknowledged {:?}",
            self.acknowledged
        );
    }

    /// Faults stop: every job must end while agents work on.
    fn finish(&mut self) {
        for _ in 0..1000 {
            self.world.pass(1);
            let credential = self.devices[0].credential;
            for lease in self.world.lease(credential, 4) {
                self.world.measure(credential, &lease);
                self.acknowledged.insert(lease.number);
            }
            let states = vec![StateName::Queued, StateName::Leased];
            let open = self
                .world
                .apply(ListJobs {
                    platform: None,
                    states,
                    limit: 1,
                })
                .expect("no platform named");
            if open.is_empty() {
                return self.check_books();
            }
        }
        panic!("some job never ended");
    }
}

fn pick<'a>(devices: &'a mut [Device], random: &mut SmallRng) -> &'a mut Device {
    let index = random.random_range(0..devices.len());
    &mut devices[index]
}

#[test]
fn random_farms_keep_their_promises() {
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut simulation = Simulation::new(seed);
        for _ in 0..STEPS {
            simulation.step();
        }
        simulation.finish();
        assert!(
            !simulation.acknowledged.is_empty(),
            "nothing was measured: the simulation tests nothing"
        );
    }
}
