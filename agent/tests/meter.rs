//! The meter against a simulated NVIDIA driver, loaded as a real one is. Time is played, so minutes pass in an instant.

use std::sync::Mutex;

use wattfarm_agent::meter::{
    Board, Busy, Ground, LockedClock, NoFigure, Offsets, Policy, Recorder, SensorClass, Source,
    Stage, Thoroughness, Tier, Timepiece, Trace, Trial, Void, idle_power, power_trial, probe,
};
use wattfarm_agent::recipe::Failure;
use wattfarm_nvml_sim::{Class, Counter, Event, Happening, Locking, Script, Sensors, Simulation};

const IDLE_W: f64 = 60.0;

/// How often the played stage polls, in s.
const POLL_S: f64 = 0.002;

/// The played time, and how the machine's other clocks jump: at a moment, by so much.
struct PlayedTime {
    now_s: Mutex<f64>,
    sleep: Option<(f64, f64)>,
    time_set: Option<(f64, f64)>,
}

impl Timepiece for PlayedTime {
    fn now_s(&self) -> f64 {
        *self.now_s.lock().expect("no panic")
    }

    fn offsets(&self) -> Offsets {
        let jump = |jump: Option<(f64, f64)>| match jump {
            Some((at_s, by_s)) if self.now_s() >= at_s => by_s,
            _ => 0.0,
        };
        let slept_s = jump(self.sleep);
        Offsets {
            boot_s: slept_s,
            real_s: 1.7e9 + slept_s + jump(self.time_set),
        }
    }
}

/// What one call draws: parts of its time and W, in order.
#[derive(Clone)]
struct Call(Vec<(f64, f64)>);

impl Call {
    /// A short call that draws the same throughout.
    fn steady(watts: f64) -> Self {
        Self(vec![(0.001, watts)])
    }

    fn seconds(&self) -> f64 {
        self.0.iter().map(|(seconds, _)| seconds).sum()
    }

    fn mean_w(&self) -> f64 {
        self.0
            .iter()
            .map(|(seconds, watts)| seconds * watts)
            .sum::<f64>()
            / self.seconds()
    }
}

struct Played {
    simulation: Simulation,
    board: Board,
    time: PlayedTime,
    call: Call,
    next_poll_s: f64,
    /// Nobody polls from the first moment to the second.
    blind_s: Option<(f64, f64)>,
    _folder: tempfile::TempDir,
}

impl Played {
    fn new(script: &Script, call: Call) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let simulation = Simulation::new(folder.path(), script).expect("the simulated driver");
        simulation.set_time(0.0);
        let board = Board::open(Some(simulation.path().as_os_str()), 0).expect("a board");
        let time = PlayedTime {
            now_s: Mutex::new(0.0),
            sleep: None,
            time_set: None,
        };
        Self {
            simulation,
            board,
            time,
            call,
            next_poll_s: 0.0,
            blind_s: None,
            _folder: folder,
        }
    }

    /// Goes on to `until_s`, polling on the way.
    fn go_on(&mut self, until_s: f64, trace: &mut Trace) {
        loop {
            let next_s = self.next_poll_s.min(until_s).max(self.time.now_s());
            *self.time.now_s.lock().expect("no panic") = next_s;
            self.simulation.set_time(next_s);
            if next_s >= self.next_poll_s {
                let is_blind = |(from_s, to_s)| from_s <= next_s && next_s < to_s;
                if !self.blind_s.is_some_and(is_blind) {
                    self.recorder().poll(trace);
                }
                self.next_poll_s = next_s + POLL_S;
            }
            if next_s >= until_s {
                return;
            }
        }
    }
}

impl Stage for Played {
    fn recorder(&self) -> Recorder<'_> {
        Recorder::new(&self.board, &self.time)
    }

    fn busy(&mut self, seconds: f64, trace: &mut Trace) -> Result<Busy, Failure> {
        let from_s = self.time.now_s();
        let mut calls = 0;
        while calls == 0 || self.time.now_s() < from_s + seconds {
            for (part_s, watts) in self.call.0.clone() {
                self.simulation.draw(watts);
                let until_s = self.time.now_s() + part_s;
                self.go_on(until_s, trace);
            }
            calls += 1;
        }
        self.simulation.draw(IDLE_W);
        Ok(Busy {
            from_s,
            to_s: self.time.now_s(),
            calls,
        })
    }

    fn idle(&mut self, seconds: f64, trace: &mut Trace) -> Result<(), Failure> {
        let until_s = self.time.now_s() + seconds;
        self.go_on(until_s, trace);
        Ok(())
    }
}

fn policy(tier: Tier) -> Policy {
    Policy {
        tier,
        gain: None,
        locked_mhz: None,
    }
}

fn probed(played: &mut Played) -> SensorClass {
    let call = std::mem::replace(&mut played.call, Call::steady(400.0));
    let class = probe(played, Thoroughness::Enrolment).expect("a class");
    played.call = call;
    class
}

fn measured(played: &mut Played, class: &SensorClass, policy: &Policy) -> Result<Trial, NoFigure> {
    let ground = idle_power(played, class, 2.0)?;
    power_trial(played, class, &ground, policy)
}

/// Every class of sensors, with its counter as it is, wrong by a tenth, and absent.
fn classes() -> Vec<(String, Class)> {
    let mut classes = Vec::new();
    for class in [
        Class::Ga100,
        Class::Hopper,
        Class::Ampere,
        Class::Turing,
        Class::Volta,
        Class::Pascal,
        Class::Maxwell,
    ] {
        let sensors = class.sensors();
        classes.push((format!("{class:?}"), class.clone()));
        if let Some(counter) = sensors.counter {
            let with = |counter| {
                Class::Custom(Sensors {
                    counter,
                    ..sensors.clone()
                })
            };
            let wrong = Counter {
                gain: 0.9,
                ..counter
            };
            classes.push((format!("{class:?}, wrong counter"), with(Some(wrong))));
            classes.push((format!("{class:?}, no counter"), with(None)));
        }
    }
    classes
}

/// How far off the truth (times gain) a reader is who times a layer for a while and reads power once at its end: root mean
/// square over ten moments of the sensor's period at which that may be.
fn naive_error(played: &mut Played, seconds: f64, truth_w: f64) -> f64 {
    let mut trace = Trace::default();
    let errors = (0..10).map(|phase| {
        played
            .idle(1.5 + 0.01 * f64::from(phase), &mut trace)
            .expect("idles");
        played.busy(seconds, &mut trace).expect("runs");
        let readings = played.board.readings().expect("readings");
        readings.usage_w.expect("every class has one") / truth_w - 1.0
    });
    (errors.map(|error| error * error).sum::<f64>() / 10.0).sqrt()
}

/// Rules 1 to 5 and 17: within 3 % of the truth times the sensor's gain, whatever the class, and of the truth where the
/// owner gave the gain. One reading after 0.6 s errs by 10 to 45 % (RMS).
#[test]
fn energy_is_right_for_every_class_of_sensors_and_naive_readings_are_not() {
    let calls = [
        // A long call with three parts, in step with the sensors' 100 ms: what a part-time sensor is worst at.
        Call(vec![(0.035, 420.0), (0.04, 180.0), (0.025, 330.0)]),
        // One that is in step with nothing.
        Call(vec![(0.045, 330.0), (0.05, 420.0), (0.075, 200.0)]),
    ];
    let gain = 0.945;
    println!(
        "{:24} {:20} {:>8} {:>8} {:>8}",
        "class", "source", "light %", "full %", "naive %"
    );
    let mut naive_errors = Vec::new();
    for (name, class) in classes() {
        let mut script = Script::of_class(class);
        script.boards[0].gain = gain;
        let mut played = Played::new(&script, calls[0].clone());
        let class = probed(&mut played);
        let mut errors = [0.0f64; 2];
        for (call, tier) in calls
            .iter()
            .flat_map(|call| [(call, Tier::Light), (call, Tier::Full)])
        {
            played.call = call.clone();
            let truth_j = call.mean_w() * call.seconds();
            let mut error = |policy: &Policy| {
                let trial = measured(&mut played, &class, policy).expect("a figure");
                trial.mean_w * trial.call_s / truth_j - 1.0
            };
            let without = (1.0 + error(&policy(tier))) / gain - 1.0;
            assert!(without.abs() <= 0.03, "{name}, {tier:?}: {without}");
            let with = error(&Policy {
                gain: Some(gain),
                ..policy(tier)
            });
            assert!(
                with.abs() <= 0.03,
                "{name}, {tier:?}, with the gain: {with}"
            );
            let worst = &mut errors[usize::from(tier == Tier::Full)];
            if without.abs() > worst.abs() {
                *worst = without;
            }
        }
        let naive_error = naive_error(&mut played, 0.6, calls[1].mean_w() * gain);
        naive_errors.push((name.clone(), naive_error));
        let source = class.source().expect("a source").0.name();
        let [light, full, naive] = [errors[0], errors[1], naive_error].map(|share| share * 100.0);
        println!("{name:24} {source:20} {light:>+8.2} {full:>+8.2} {naive:>+8.1}");
    }
    for (name, error) in naive_errors {
        assert!(
            (0.10..=0.45).contains(&error.abs()),
            "naive, {name}: {error}"
        );
    }
}

/// Rule 1: what a probe finds is what the sensors were made as.
#[test]
fn the_probe_finds_the_class() {
    for class in [
        Class::Ga100,
        Class::Hopper,
        Class::Ampere,
        Class::Turing,
        Class::Volta,
    ] {
        let sensors = class.sensors();
        let mut played = Played::new(&Script::of_class(class.clone()), Call::steady(400.0));
        let found = probed(&mut played);
        println!("{class:?}\n{}\n", found.summary());
        let of = |source| {
            let found = found.sensors.iter().find(|(found, _)| *found == source);
            found.map(|(_, sensor)| *sensor)
        };
        for (source, made) in [
            (Source::Instant, sensors.instant),
            (Source::Average, sensors.average),
            (Source::Usage, sensors.usage),
        ] {
            let (Some(found), Some(made)) = (of(source), made) else {
                assert_eq!(of(source).is_some(), made.is_some(), "{class:?} {source:?}");
                continue;
            };
            let wattfarm_nvml_sim::Averaging::Window(window_s) = made.averaging else {
                panic!("these classes have windows")
            };
            let close =
                |found: f64, made: f64, share: f64| (found - made).abs() <= share * made + 0.003;
            assert!(
                close(found.update_s, made.update_s, 0.02),
                "{class:?} {source:?} {found:?}"
            );
            assert!(
                close(found.window_s, window_s, 0.10),
                "{class:?} {source:?} {found:?}"
            );
            assert!(
                found.settle_s >= window_s && found.settle_s <= window_s + 3.0 * made.update_s,
                "{class:?} {source:?} {found:?}"
            );
        }
        let counter = found.counter.expect("they all have one");
        assert!(counter.is_usable(), "{class:?} {counter:?}");
        assert!((found.idle_w.expect("idle") - IDLE_W).abs() < 0.5);
        assert_eq!(found.busy_clock_mhz, Some(1980));
    }
}

#[test]
fn a_board_without_any_reading_is_infeasible() {
    let mut played = Played::new(&Script::of_class(Class::None), Call::steady(400.0));
    let found = probe(&mut played, Thoroughness::Quick);
    assert!(
        matches!(found, Err(NoFigure::Failure(Failure::Infeasible(_)))),
        "{found:?}"
    );
}

/// What a class and a ground are on a quiet board, without the minutes of finding out.
fn quiet() -> (SensorClass, Ground) {
    let mut played = Played::new(&Script::of_class(Class::Hopper), Call::steady(400.0));
    let class = probed(&mut played);
    let ground = idle_power(&mut played, &class, 2.0).expect("idle");
    (class, ground)
}

/// Every reason to void a trial, provoked during the window of a light one and seen.
#[test]
fn every_void_has_its_reason() {
    let (class, ground) = quiet();
    let trial = |happening: Option<Happening>, change: &dyn Fn(&mut Played)| {
        let mut script = Script::of_class(Class::Hopper);
        script.boards[0].events.extend(happening.map(|what| Event {
            from_s: 2.0,
            to_s: None,
            what,
        }));
        let mut played = Played::new(&script, Call::steady(400.0));
        change(&mut played);
        power_trial(&mut played, &class, &ground, &policy(Tier::Light))
    };
    let undisturbed = trial(None, &|_| ()).expect("nothing happens");
    assert_eq!(undisturbed.reasons, 0);
    // The board's own power limit is no reason: it is kept beside the figure.
    assert_eq!(
        trial(Some(Happening::Throttle(0x4)), &|_| ())
            .expect("a figure")
            .reasons,
        0x4
    );

    let void = |happening| match trial(Some(happening), &|_| ()) {
        Err(NoFigure::Void(void)) => void,
        other => panic!("not void: {other:?}"),
    };
    assert_eq!(void(Happening::Throttle(0x20)), Void::ThermalSlowdown(0x20));
    assert_eq!(void(Happening::Throttle(0x40)), Void::ThermalSlowdown(0x40));
    assert_eq!(void(Happening::Throttle(0x8)), Void::HardwareSlowdown(0x8));
    assert_eq!(void(Happening::Throttle(0x80)), Void::PowerBrake(0x80));
    assert_eq!(void(Happening::ComputeProcess(4711)), Void::Foreign(4711));
    assert_eq!(void(Happening::GraphicsProcess(815)), Void::Foreign(815));
    assert_eq!(void(Happening::Mig), Void::Mig);
    assert_eq!(void(Happening::Vgpu), Void::Vgpu);
    assert_eq!(void(Happening::CounterReset), Void::CounterReset);
    assert!(matches!(
        void(Happening::ClockDrop(1200)),
        Void::ClockLow {
            highest_mhz: 1980,
            ..
        }
    ));
    assert!(matches!(void(Happening::Lost), Void::Fault(_)));

    // One that stops on the way has moved, but for too short a time.
    assert!(matches!(
        void(Happening::CounterStuck),
        Void::TooFewTicks { .. }
    ));
    let unread = trial(None, &|played| played.blind_s = Some((2.0, 3.5)));
    assert!(
        matches!(unread, Err(NoFigure::Void(Void::NotRead(gap_s))) if (gap_s - 1.5).abs() < 0.01),
        "{unread:?}"
    );
    let slept = trial(None, &|played| played.time.sleep = Some((2.0, 30.0)));
    assert_eq!(slept, Err(NoFigure::Void(Void::Slept(30.0))));
    let set = trial(None, &|played| played.time.time_set = Some((2.0, -3600.0)));
    assert!(
        matches!(set, Err(NoFigure::Void(Void::TimeSet(by_s))) if (by_s + 3600.0).abs() < 1e-3),
        "{set:?}"
    );
}

#[test]
fn a_counter_that_stands_still_is_void() {
    let (class, ground) = quiet();
    let mut script = Script::of_class(Class::Hopper);
    script.boards[0].events.push(Event {
        from_s: 0.0,
        to_s: None,
        what: Happening::CounterStuck,
    });
    let mut played = Played::new(&script, Call::steady(400.0));
    let found = power_trial(&mut played, &class, &ground, &policy(Tier::Light));
    assert_eq!(found, Err(NoFigure::Void(Void::CounterStuck)));
}

/// A board whose only reading changes once in a while: a short window has too few changes for a figure.
#[test]
fn a_source_that_hardly_changes_is_void() {
    let slow = wattfarm_nvml_sim::Sensor {
        update_s: 0.4,
        ..Class::Turing.sensors().usage.expect("it has one")
    };
    let sensors = Sensors {
        usage: Some(slow),
        average: None,
        instant: None,
        counter: None,
    };
    let mut played = Played::new(
        &Script::of_class(Class::Custom(sensors)),
        Call::steady(400.0),
    );
    let class = probed(&mut played);
    let found = measured(&mut played, &class, &policy(Tier::Light));
    let Err(NoFigure::Void(Void::TooFewTicks { of, ticks, wanted })) = found else {
        panic!("not void: {found:?}")
    };
    assert_eq!((of, wanted), (Source::Usage, 20));
    assert!(ticks < 10, "{ticks} changes in 3 s");
}

/// Rule 7: a locked clock is put back whatever happens, and one that drifts voids the trial.
#[test]
fn locked_clocks_are_watched_and_put_back() {
    let (class, ground) = quiet();
    let mut script = Script::of_class(Class::Hopper);
    script.boards[0].events.push(Event {
        from_s: 20.0,
        to_s: None,
        what: Happening::ClockDrop(45),
    });
    let mut played = Played::new(&script, Call::steady(400.0));
    let policy = Policy {
        locked_mhz: Some(1500),
        ..policy(Tier::Light)
    };
    // The guard borrows a board of its own, as the agent's runtime does: the stage is busy with this one.
    let board = Board::open(Some(played.simulation.path().as_os_str()), 0).expect("a board");
    {
        let held = LockedClock::hold(&board, 1500)
            .expect("answers")
            .expect("permitted");
        assert_eq!(
            (held.mhz(), played.simulation.locked_mhz()),
            (1500, Some(1500))
        );
        let trial = power_trial(&mut played, &class, &ground, &policy).expect("a figure");
        assert_eq!(
            (trial.clock_mhz, trial.clock_min_mhz),
            (Some(1500.0), Some(1500))
        );
    }
    assert_eq!(played.simulation.locked_mhz(), None);

    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _held = LockedClock::hold(&board, 1500)
            .expect("answers")
            .expect("permitted");
        panic!("in the middle of a trial");
    }));
    assert!(panicked.is_err());
    assert_eq!(played.simulation.locked_mhz(), None);

    let _held = LockedClock::hold(&board, 1500)
        .expect("answers")
        .expect("permitted");
    played.idle(20.0, &mut Trace::default()).expect("idles");
    let drifted = power_trial(&mut played, &class, &ground, &policy);
    let drift = Void::ClockDrift {
        locked_mhz: 1500,
        seen_mhz: 1455,
    };
    assert_eq!(drifted, Err(NoFigure::Void(drift)));
}

#[test]
fn clocks_that_may_not_be_locked_are_no_fault() {
    for locking in [Locking::NoPermission, Locking::NotSupported] {
        let mut script = Script::of_class(Class::Hopper);
        script.boards[0].locking = locking;
        let played = Played::new(&script, Call::steady(400.0));
        assert!(
            LockedClock::hold(&played.board, 1500)
                .expect("answers")
                .is_none()
        );
    }
}

/// Rule 8: a thorough trial begins in a band above the resting temperature.
#[test]
fn a_thorough_trial_waits_until_the_board_has_cooled() {
    let (class, ground) = quiet();
    let mut played = Played::new(&Script::of_class(Class::Hopper), Call::steady(600.0));
    let mut trace = Trace::default();
    played.busy(60.0, &mut trace).expect("runs");
    let hot_at_s = played.time.now_s();
    let hot_c = played
        .board
        .state()
        .expect("a state")
        .temperature_c
        .expect("a temperature");
    let resting_c = ground.temperature_c.expect("a temperature");
    assert!(hot_c > resting_c + 15, "{hot_c} against {resting_c}");
    let trial = power_trial(&mut played, &class, &ground, &policy(Tier::Full)).expect("a figure");
    let took_s = played.time.now_s() - hot_at_s;
    assert!(trial.windows == 3 && took_s > 20.0, "{took_s} s");

    let mut stays_hot = Script::of_class(Class::Hopper);
    stays_hot.boards[0].thermal.ambient_c = 80.0;
    let mut played = Played::new(&stays_hot, Call::steady(600.0));
    let refused = power_trial(&mut played, &class, &ground, &policy(Tier::Full));
    assert!(
        matches!(refused, Err(NoFigure::Failure(Failure::Failed(_)))),
        "{refused:?}"
    );
}

/// Rule 13 and 16: idle power stands beside the figure, the raw readings behind it.
#[test]
fn a_trial_keeps_its_samples_and_its_idle_power() {
    let (class, ground) = quiet();
    let mut played = Played::new(&Script::of_class(Class::Hopper), Call::steady(400.0));
    let trial = power_trial(&mut played, &class, &ground, &policy(Tier::Full)).expect("a figure");
    assert!((trial.idle_w.expect("idle") - IDLE_W).abs() < 1.0);
    assert!(trial.ticks >= 3 * 50 - 3, "{}", trial.ticks);
    assert!(trial.samples.len() >= 150 && trial.samples.len() <= 1024);
    assert!(trial.low_w <= trial.mean_w && trial.mean_w <= trial.high_w);
    assert!(trial.high_w - trial.low_w < 0.02 * trial.mean_w);
    assert!((trial.call_s - 0.001).abs() < 1e-6);
}

#[test]
fn own_processes_are_not_company() {
    let mut script = Script::of_class(Class::Hopper);
    script.boards[0].events.push(Event {
        from_s: 1.0,
        to_s: None,
        what: Happening::ComputeProcess(99),
    });
    let mut played = Played::new(&script, Call::steady(400.0));
    let simulation = &played.simulation;
    played
        .board
        .adopt(|| simulation.set_time(1.5))
        .expect("lists processes");
    assert_eq!(played.board.state().expect("a state").foreign, None);
}
