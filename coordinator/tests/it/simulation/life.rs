//! One farm's life: what happens when, drawn from the seed.

use std::collections::BTreeMap;

use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use wattfarm_coordinator::farm::{Budget, Outcome, Report, Timestamp};
use wattfarm_coordinator::store::{MemoryStore, Store as _};
use wattfarm_cost::id::{AgentId, CampaignId, LeaseNumber};

use super::books::{Books, IMPOSSIBLE_MS, mark};
use super::coordinator::{Coordinator, credential};
use super::device::{Character, Device, Wake};
use super::network::{Answer, Ask, Call, Caller, Network};
use crate::world::{reading, uuid};

/// All of the farm is looked at after so many steps, beside what is looked at after each.
const CHECK_STEPS: u64 = 1000;

/// Reports in a call.
const REPORTS_MAX: usize = 16;

/// How often a device renews, by its own clock.
const RENEWAL_MS: f64 = 8000.0;

/// After how long a user asks again.
const USER_PATIENCE_MS: u64 = 5000;

/// How long what is under way may take to arrive once the faults have stopped: repetitions come late.
const CALM_MS: u64 = 120_000;

/// How long a device that is stuck takes for a job.
const STUCK_MS: u64 = 3_600_000;

/// A year: how far a machine's clock may jump while the coordinator is away.
const YEAR_MS: u64 = 366 * 24 * 3600 * 1000;

/// How large a farm is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// A handful of devices, so that everything happens to each.
    Small,
    /// Thousands.
    Large,
}

/// Which faults a life has, and how often: drawn for each life, so that some have few and others all.
#[derive(Debug, Clone, Copy)]
struct Faults {
    network: Network,
    /// That the coordinator dies at a commit.
    death_at_commit: f64,
    /// That a turn of the world starts each of these.
    death_between: f64,
    device_death: f64,
    partition: f64,
    slow_disk: f64,
    forgery: f64,
    /// That the clock jumps while the coordinator is away.
    clock_jump: f64,
    /// That a device's measurement goes wrong, in any way.
    failure: f64,
}

impl Faults {
    fn draw(random: &mut ChaCha8Rng) -> Self {
        let mut odds = |max: f64| {
            if random.random_bool(0.3) {
                0.0
            } else {
                random.random_range(0.0..max)
            }
        };
        Self {
            network: Network {
                loss: odds(0.2),
                repetition: odds(0.2),
                delay_ms_max: 1 + odds(3000.0) as u64,
            },
            death_at_commit: odds(0.01),
            death_between: odds(0.02),
            device_death: odds(0.2),
            partition: odds(0.1),
            slow_disk: odds(0.1),
            forgery: odds(0.2),
            clock_jump: odds(0.5),
            failure: odds(0.3),
        }
    }

    const NONE: Self = Self {
        network: Network::GOOD,
        death_at_commit: 0.0,
        death_between: 0.0,
        device_death: 0.0,
        partition: 0.0,
        slow_disk: 0.0,
        forgery: 0.0,
        clock_jump: 0.0,
        failure: 0.0,
    };
}

/// Something that happens.
#[derive(Debug)]
enum Happening {
    /// A call reaches the coordinator.
    Arrives(Call),
    /// An answer reaches who asked.
    Hears {
        to: Caller,
        call: u64,
        answer: Answer,
    },
    /// A device's process, of so many starts, wakes up.
    Wakes {
        device: usize,
        starts: u32,
        wake: Wake,
    },
    /// The coordinator's disk is done, if it has not died since.
    Committed { starts: u32 },
    /// A lease of the coordinator's may have ended.
    Deadline { starts: u32 },
    /// The coordinator starts.
    Starts,
    /// Whoever waits for an answer looks whether it came.
    Overdue(u64),
    /// Users and fate have their turn.
    Turn,
}

/// One farm's life.
pub(super) struct Life {
    random: ChaCha8Rng,
    faults: Faults,
    /// True time, in ms.
    now: u64,
    /// How far the coordinator's clock is from it.
    clock: u64,
    agenda: BTreeMap<(u64, u64), Happening>,
    steps: u64,
    order: u64,
    calls: u64,
    fresh: u64,
    store: MemoryStore,
    coordinator: Option<Coordinator>,
    coordinator_starts: u32,
    deadline: Option<u64>,
    slow_until: u64,
    devices: Vec<Device>,
    platforms: u32,
    layers: u64,
    campaigns: Vec<CampaignId>,
    /// What users asked and have heard nothing of.
    unanswered: BTreeMap<u64, Ask>,
    books: Books,
    checked_at: u64,
    /// Faults have stopped, and nobody wants more.
    ending: bool,
}

impl Life {
    pub(super) fn new(seed: u64, scale: Scale) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let faults = Faults::draw(&mut random);
        let (devices, platforms_max, layers) = match scale {
            Scale::Small => (random.random_range(1..6), 2, 40),
            Scale::Large => (random.random_range(1000..4000), 20, 1500),
        };
        // In the end somebody must be there for each.
        let platforms = random.random_range(1..=platforms_max.min(devices as u32));
        let store = MemoryStore::default();
        let clock = YEAR_MS * 50;
        let mut life = Self {
            random,
            faults,
            now: 0,
            clock,
            agenda: BTreeMap::new(),
            steps: 0,
            order: 0,
            calls: 0,
            fresh: 0,
            coordinator: None,
            store,
            coordinator_starts: 0,
            deadline: None,
            slow_until: 0,
            devices: Vec::new(),
            platforms,
            layers,
            campaigns: Vec::new(),
            unanswered: BTreeMap::new(),
            books: Books::new(),
            checked_at: 0,
            ending: false,
        };
        life.start_coordinator();
        for device in 0..devices {
            life.add_device(device);
        }
        life.schedule(0, Happening::Turn);
        life
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// What came of it, for comparison.
    pub(super) fn fingerprint(&self) -> String {
        format!(
            "{} {} {:?} {:?}",
            self.steps,
            self.now,
            self.store.load().expect("memory"),
            self.store.jobs_after(None, usize::MAX).expect("memory")
        )
    }

    /// Lives on for so many steps.
    pub(super) fn run(&mut self, steps: u64) {
        let end = self.steps + steps;
        while self.steps < end {
            self.step();
        }
    }

    /// Faults stop: while agents live, every job ends.
    pub(super) fn finish(&mut self) {
        self.faults = Faults::NONE;
        self.ending = true;
        self.slow_until = 0;
        if self.coordinator.is_none() {
            self.schedule(0, Happening::Starts);
        }
        let calm = self.now + CALM_MS;
        while self.now < calm {
            self.step();
        }
        for index in 0..self.devices.len() {
            let device = &mut self.devices[index];
            device.cut_until = 0;
            if device.character.measuring_ms_max == STUCK_MS && device.alive {
                // Its owner notices, too.
                device.die();
            }
            device.character.measuring_ms_max = device.character.measuring_ms_max.min(5000);
            let (agent, alive) = (device.id, device.alive);
            if !alive {
                self.wake_after(index, 0.0, Wake::Start);
            }
            // Somebody is there for each platform, and nobody drains.
            self.tell(Ask::Drain {
                agent,
                draining: false,
            });
            if index < self.platforms as usize {
                self.tell(Ask::Enroll {
                    device: index,
                    platform: index as u32 + 1,
                });
                self.devices[index].platform = index as u32 + 1;
            }
        }
        for id in self.campaigns.clone() {
            self.tell(Ask::Pause { id, paused: false });
        }
        let patience = self.steps + 400_000;
        while self.is_open() {
            assert!(
                self.steps < patience,
                "some job never ended: {:?}",
                self.open_jobs().next()
            );
            self.run(1000);
        }
        self.books.check(None, &self.store);
        let told = self.books.told();
        assert!(
            told > 0 || self.books.granted() < 20,
            "nothing was measured: the simulation tests nothing"
        );
    }

    fn open_jobs(&self) -> impl Iterator<Item = &wattfarm_coordinator::farm::Job> {
        let jobs = self
            .coordinator
            .iter()
            .flat_map(|coordinator| coordinator.farm.jobs());
        jobs.filter(|job| job.state.is_open())
    }

    fn is_open(&self) -> bool {
        self.coordinator.is_none() || self.open_jobs().next().is_some()
    }

    fn step(&mut self) {
        let ((now, _), happening) = self
            .agenda
            .pop_first()
            .expect("the world's turn always comes");
        self.now = now;
        self.steps += 1;
        match happening {
            Happening::Arrives(call) => self.arrives(call),
            Happening::Hears { to, call, answer } => self.hears(to, call, answer),
            Happening::Wakes {
                device,
                starts,
                wake,
            } => self.wakes(device, starts, wake),
            Happening::Committed { starts } if starts == self.coordinator_starts => {
                self.committed()
            }
            Happening::Deadline { starts } if starts == self.coordinator_starts => {
                self.deadline = None;
                self.work();
            }
            Happening::Committed { .. } | Happening::Deadline { .. } => (),
            Happening::Starts => self.start_coordinator(),
            Happening::Overdue(call) => self.tell_again(call),
            Happening::Turn => self.turn(),
        }
    }

    fn schedule(&mut self, after_ms: u64, happening: Happening) {
        self.order += 1;
        self.agenda
            .insert((self.now + after_ms, self.order), happening);
    }

    fn time(&self) -> Timestamp {
        Timestamp(self.clock + self.now)
    }

    // The coordinator.

    fn start_coordinator(&mut self) {
        if self.coordinator.is_some() {
            return;
        }
        if self.random.random_bool(self.faults.clock_jump) {
            // Set anew, forwards or backwards.
            self.clock = YEAR_MS * 50 + self.random.random_range(0..YEAR_MS * 2) - YEAR_MS;
        }
        let coordinator = Coordinator::start(&self.store, self.time());
        self.books.restarted(self.time(), &coordinator.farm);
        self.books.check(Some(&coordinator.farm), &self.store);
        self.coordinator = Some(coordinator);
        self.deadline = None;
        self.work();
    }

    /// The coordinator takes what waits, unless its disk is busy; and knows when time alone will give it work.
    fn work(&mut self) {
        let (now, starts) = (self.time(), self.coordinator_starts);
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        if coordinator.committing.is_some() {
            return;
        }
        coordinator.apply_group(&self.store, now, &mut self.fresh, &mut self.books);
        let deadline = coordinator.farm.next_deadline();
        let group = coordinator.committing.as_ref().expect("just applied");
        if !group.is_durable() {
            self.committed();
        } else if self.random.random_bool(self.faults.death_at_commit) {
            self.die_at_commit();
        } else {
            let slow = self.now < self.slow_until;
            let takes_ms = self
                .random
                .random_range(if slow { 500..8000 } else { 0..3 });
            self.schedule(takes_ms, Happening::Committed { starts });
        }
        let Some(deadline) = deadline else { return };
        let after_ms = deadline.0.saturating_sub(now.0);
        if self
            .deadline
            .is_none_or(|alarm| alarm > self.now + after_ms)
        {
            self.deadline = Some(self.now + after_ms);
            self.schedule(
                after_ms,
                Happening::Deadline {
                    starts: self.coordinator_starts,
                },
            );
        }
    }

    fn committed(&mut self) {
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        if coordinator.committing.is_none() {
            return;
        }
        let answers = coordinator.commit(&self.store, &mut self.books);
        if self.steps >= self.checked_at + CHECK_STEPS {
            self.checked_at = self.steps;
            self.books.check(Some(&coordinator.farm), &self.store);
        }
        let more = !coordinator.inbox.is_empty();
        for (call, answer) in answers {
            self.answer(call, answer);
        }
        if more {
            self.work();
        }
    }

    /// The process dies at a write: whether the disk has it, and whether anybody hears, are two coins. Nobody hears of a
    /// success that the disk has not: answers come after the commit.
    fn die_at_commit(&mut self) {
        let kept = self.random.random_bool(0.5);
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        let answers = if kept {
            coordinator.commit(&self.store, &mut self.books)
        } else {
            coordinator
                .committing
                .take()
                .map(|group| group.answers)
                .unwrap_or_default()
        };
        for (call, answer) in answers {
            if self.random.random_bool(0.5) {
                self.answer(call, if kept { answer } else { Answer::Unavailable });
            }
        }
        self.die();
    }

    fn die(&mut self) {
        self.coordinator = None;
        self.coordinator_starts += 1;
        // Sometimes longer than any lease.
        let away_ms = self.random.random_range(50..40_000);
        self.schedule(away_ms, Happening::Starts);
    }

    fn arrives(&mut self, call: Call) {
        let Some(coordinator) = &mut self.coordinator else {
            // Nobody listens: the connection is refused, and who asked hears of that or not.
            return self.answer(call, Answer::Unavailable);
        };
        coordinator.inbox.push(call);
        self.work();
    }

    fn answer(&mut self, call: Call, answer: Answer) {
        if self.is_cut(call.from) {
            return;
        }
        for after_ms in self.faults.network.carry(&mut self.random) {
            let (to, answer) = (call.from, answer.clone());
            self.schedule(
                after_ms,
                Happening::Hears {
                    to,
                    call: call.id,
                    answer,
                },
            );
        }
    }

    // Who asks.

    fn is_cut(&self, caller: Caller) -> bool {
        match caller {
            Caller::Device(device, _) => self.now < self.devices[device].cut_until,
            Caller::User => false,
        }
    }

    fn call(&mut self, from: Caller, ask: Ask) -> u64 {
        self.calls += 1;
        let id = self.calls;
        if !self.is_cut(from) {
            for after_ms in self.faults.network.carry(&mut self.random) {
                let call = Call {
                    id,
                    from,
                    ask: ask.clone(),
                };
                self.schedule(after_ms, Happening::Arrives(call));
            }
        }
        id
    }

    /// What users, trainers and operators ask. They ask again until they are heard.
    fn tell(&mut self, ask: Ask) {
        let call = self.call(Caller::User, ask.clone());
        self.unanswered.insert(call, ask);
        self.schedule(USER_PATIENCE_MS, Happening::Overdue(call));
    }

    fn tell_again(&mut self, call: u64) {
        if let Some(ask) = self.unanswered.remove(&call) {
            self.tell(ask);
        }
    }

    fn user_hears(&mut self, call: u64, answer: &Answer) {
        if matches!(answer, Answer::Unavailable) {
            return;
        }
        if let Some(Ask::Enroll { device, .. }) = self.unanswered.remove(&call)
            && !self.devices[device].alive
        {
            // Enrolled: its process starts, unless it has before and will again.
            let pause_ms = self.random.random_range(10.0..10_000.0);
            self.wake_after(device, pause_ms, Wake::Start);
        }
    }

    fn hears(&mut self, to: Caller, call: u64, answer: Answer) {
        self.books.heard(&answer);
        let Caller::Device(index, starts) = to else {
            return self.user_hears(call, &answer);
        };
        let device = &mut self.devices[index];
        if device.starts != starts || !device.alive || self.now < device.cut_until {
            return;
        }
        match answer {
            Answer::Leased(leased) if device.asking == Some(call) => {
                device.asking = None;
                let none = leased.leases.is_empty();
                device
                    .held
                    .extend(leased.leases.iter().map(|lease| (lease.job, lease.number)));
                self.measure(index);
                let pause_ms = if none { 15_000.0 } else { 2000.0 };
                let pause_ms = self.random.random_range(10.0..pause_ms);
                self.wake_after(index, pause_ms, Wake::Ask);
            }
            Answer::Renewed(lost) => {
                if device.character.obedient {
                    device.held.retain(|(_, lease)| !lost.contains(lease));
                }
            }
            Answer::Acknowledged(acknowledged) if device.reporting == Some(call) => {
                device.reporting = None;
                device.results.retain(|report| {
                    !acknowledged
                        .iter()
                        .any(|(known, _)| known.lease == report.lease)
                });
                self.report(index);
            }
            // Stale: what it asked was given up.
            Answer::Leased(_) | Answer::Acknowledged(_) => (),
            Answer::Unavailable => {
                let pause_ms = self.random.random_range(100.0..3000.0);
                self.wake_after(index, pause_ms, Wake::Silence(call));
            }
            Answer::Refused(_) | Answer::Done => (),
        }
    }

    // Devices.

    fn add_device(&mut self, index: usize) {
        let character = Character {
            rate: self.random.random_range(0.98..1.02),
            obedient: self.random.random_bool(0.7),
            spools: self.random.random_bool(0.5),
            measuring_ms_max: *[200, 5000, 5000, 5000, 90_000, STUCK_MS]
                .choose(&mut self.random)
                .expect("not empty"),
            jobs_max: self.random.random_range(1..16),
        };
        let platform = index as u32 % self.platforms + 1;
        let id = AgentId(uuid(1 << 40 | index as u64));
        self.devices
            .push(Device::new(id, credential(index), platform, character));
        self.tell(Ask::Enroll {
            device: index,
            platform,
        });
    }

    /// A device wakes up after so many ms of its own clock.
    fn wake_after(&mut self, index: usize, ms: f64, wake: Wake) {
        let device = &self.devices[index];
        let happening = Happening::Wakes {
            device: index,
            starts: device.starts,
            wake,
        };
        let after_ms = (ms * device.character.rate) as u64;
        self.schedule(after_ms, happening);
    }

    fn wakes(&mut self, index: usize, starts: u32, wake: Wake) {
        let device = &mut self.devices[index];
        if device.starts != starts || (!device.alive && wake != Wake::Start) {
            return;
        }
        match wake {
            Wake::Start if !device.alive => {
                device.alive = true;
                self.report(index);
                self.ask(index);
                self.wake_after(index, RENEWAL_MS, Wake::Renew);
            }
            Wake::Start => (),
            Wake::Ask => self.ask(index),
            Wake::Renew => {
                let (credential, leases) = (device.credential, device.leases());
                if !leases.is_empty() {
                    self.call(
                        Caller::Device(index, starts),
                        Ask::Renew { credential, leases },
                    );
                }
                self.wake_after(index, RENEWAL_MS, Wake::Renew);
            }
            Wake::Measured(lease) => self.measured(index, lease),
            Wake::Silence(call) => {
                if device.asking == Some(call) {
                    device.asking = None;
                    self.ask(index);
                } else if device.reporting == Some(call) {
                    device.reporting = None;
                    self.report(index);
                }
            }
        }
    }

    fn ask(&mut self, index: usize) {
        let device = &self.devices[index];
        if device.asking.is_some() {
            return;
        }
        let known = device.leases();
        let jobs_max = device.character.jobs_max.saturating_sub(known.len());
        if jobs_max == 0 {
            return self.wake_after(index, 1000.0, Wake::Ask);
        }
        let ask = Ask::Lease {
            credential: device.credential,
            jobs_max,
            held: known,
        };
        let call = self.call(Caller::Device(index, device.starts), ask);
        self.devices[index].asking = Some(call);
        self.wake_after(index, 30_000.0, Wake::Silence(call));
    }

    fn measure(&mut self, index: usize) {
        let device = &mut self.devices[index];
        let Some(&(_, lease)) = device.held.front().filter(|_| !device.measuring) else {
            return;
        };
        device.measuring = true;
        let ms = self
            .random
            .random_range(10.0..device.character.measuring_ms_max as f64);
        self.wake_after(index, ms, Wake::Measured(lease));
    }

    fn measured(&mut self, index: usize, lease: LeaseNumber) {
        let wrong = self.random.random_bool(self.faults.failure);
        let outcome = match self.random.random_range(0..4) {
            _ if !wrong => Outcome::Reading(Box::new(reading(mark(lease)))),
            0 => Outcome::Infeasible("no".to_owned()),
            1 => Outcome::Failed("oh".to_owned()),
            2 => Outcome::Reading(Box::new(reading(IMPOSSIBLE_MS))),
            _ => Outcome::Returned("later".to_owned()),
        };
        let device = &mut self.devices[index];
        device.measuring = false;
        // It may have lost it meanwhile.
        if let Some(at) = device.held.iter().position(|&(_, held)| held == lease)
            && let Some((job, lease)) = device.held.remove(at)
        {
            device.results.push(Report {
                job,
                lease,
                outcome,
            });
        }
        self.measure(index);
        self.report(index);
    }

    fn report(&mut self, index: usize) {
        let device = &self.devices[index];
        if device.reporting.is_some() || device.results.is_empty() {
            return;
        }
        let reports = device.results.iter().take(REPORTS_MAX).cloned().collect();
        let ask = Ask::Report {
            credential: device.credential,
            reports,
        };
        let call = self.call(Caller::Device(index, device.starts), ask);
        self.devices[index].reporting = Some(call);
        self.wake_after(index, 10_000.0, Wake::Silence(call));
    }

    // Users and fate.

    fn turn(&mut self) {
        let pause_ms = self.random.random_range(200..1500);
        self.schedule(pause_ms, Happening::Turn);
        if self.ending {
            return;
        }
        for _ in 0..1 + self.devices.len() / 500 {
            self.wish();
        }
        if self.random.random_bool(self.faults.death_between) && self.coordinator.is_some() {
            self.die();
        }
        if self.random.random_bool(self.faults.slow_disk) {
            self.slow_until = self.now + self.random.random_range(1000..60_000);
        }
        for _ in 0..1 + self.devices.len() / 100 {
            self.strike();
        }
    }

    /// Fate strikes a device, perhaps.
    fn strike(&mut self) {
        let index = self.random.random_range(0..self.devices.len());
        if self.random.random_bool(self.faults.device_death) && self.devices[index].alive {
            self.devices[index].die();
            let away_ms = self.random.random_range(100.0..60_000.0);
            self.wake_after(index, away_ms, Wake::Start);
        }
        if self.random.random_bool(self.faults.partition) {
            let until = self.now + self.random.random_range(1000..90_000);
            let together = self
                .random
                .random_range(1..=self.devices.len().div_ceil(10));
            self.devices
                .iter_mut()
                .skip(index)
                .take(together)
                .for_each(|device| device.cut_until = until);
        }
        if self.random.random_bool(self.faults.forgery) {
            let other = self.random.random_range(0..self.devices.len());
            let stolen = self.devices[other].held.front().copied();
            if let Some((job, lease)) = stolen.filter(|_| other != index) {
                let outcome = Outcome::Reading(Box::new(reading(1e9)));
                let credential = self.devices[index].credential;
                self.tell(Ask::Forge {
                    credential,
                    report: Report {
                        job,
                        lease,
                        outcome,
                    },
                });
            }
        }
    }

    fn wish(&mut self) {
        let platform = self.random.random_range(1..=self.platforms);
        let many = self
            .random
            .random_range(1..if self.devices.len() > 100 { 200 } else { 8 });
        let mut layers: Vec<u64> = Vec::new();
        for _ in 0..many {
            layers.push(self.random.random_range(0..self.layers));
        }
        let campaign = self.campaigns.choose(&mut self.random).copied();
        match (self.random.random_range(0..100), campaign) {
            (0..60, Some(campaign)) => self.tell(Ask::Propose { campaign, layers }),
            (60..75, _) => {
                let replicas = self.random.random_range(1..4);
                layers.truncate(20);
                self.tell(Ask::Order {
                    platform,
                    layers,
                    replicas,
                });
            }
            (75..77, Some(campaign)) => self.tell(Ask::Cancel(campaign)),
            (77..78, Some(id)) => {
                let budget = Budget::Jobs(self.random.random_range(1..1000));
                self.tell(Ask::Extend { id, budget });
            }
            (90..93, Some(id)) => {
                let paused = self.random.random_bool(0.5);
                self.tell(Ask::Pause { id, paused });
            }
            (78..84, _) => {
                let agent = self.devices[self.random.random_range(0..self.devices.len())].id;
                let draining = self.random.random_bool(0.3);
                self.tell(Ask::Drain { agent, draining });
            }
            (84..87, _) => {
                let rmspe = self.random.random_range(5.0..40.0);
                self.tell(Ask::Publish { platform, rmspe });
            }
            (93..95, _) if self.books.sequence() > 0 => {
                let sequence = self.random.random_range(1..=self.books.sequence());
                self.tell(Ask::Retract(sequence));
            }
            (87..90, _) => {
                // A new driver: the device measures for another platform from now on.
                let device = self.random.random_range(0..self.devices.len());
                self.devices[device].platform = platform;
                self.tell(Ask::Enroll { device, platform });
            }
            _ => {
                let id = CampaignId(uuid(1 << 41 | self.campaigns.len() as u64));
                let budget = match self.random.random_bool(0.5) {
                    true => Budget::Jobs(self.random.random_range(1..500)),
                    false => Budget::Seconds(self.random.random_range(1.0..1000.0)),
                };
                self.campaigns.push(id);
                self.tell(Ask::Campaign {
                    id,
                    platform,
                    budget,
                });
            }
        }
    }
}
