//! What makes a trial worthless: pure judgements over a trace.

use super::board::Fault;
use super::trace::{Source, Trace};

/// NVML's bits for reasons of lower clocks that no figure survives.
const HARDWARE_SLOWDOWN: u64 = 0x8;
const SOFTWARE_THERMAL: u64 = 0x20;
const HARDWARE_THERMAL: u64 = 0x40;
const POWER_BRAKE: u64 = 0x80;
/// ... and for the board's own power limit: the normal state of large layers, kept beside the figure.
const SOFTWARE_POWER_CAP: u64 = 0x4;

/// A locked clock that moves by more than this, in MHz, was not locked (Facebook's cluster monitor warns there).
const CLOCK_DRIFT_MHZ: f64 = 30.0;

/// A mean clock below this share of the highest one, without the power limit's doing, is not the board at work.
const CLOCK_SHARE_MIN: f64 = 0.75;

/// The machine's clocks may move against each other by this much in a trial, in s: time servers slew by 0.05 % at most.
const CLOCK_JUMP_S: f64 = 0.25;

/// Why there is no figure of power.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Void {
    /// Too hot.
    #[error("the board slowed down for its temperature (reasons {0:#x})")]
    ThermalSlowdown(u64),
    /// The hardware slowed down for another cause.
    #[error("the hardware slowed the board down (reasons {0:#x})")]
    HardwareSlowdown(u64),
    /// The power supply asked for it.
    #[error("the power supply braked the board (reasons {0:#x})")]
    PowerBrake(u64),
    /// A locked clock moved.
    #[error("the clock was locked to {locked_mhz} MHz and read {seen_mhz} MHz")]
    ClockDrift {
        /// What it was locked to.
        locked_mhz: u32,
        /// What it was.
        seen_mhz: u32,
    },
    /// The clock was low for no reason that is known.
    #[error("the mean clock was {mean_mhz:.0} MHz of {highest_mhz} MHz")]
    ClockLow {
        /// Mean over the trial.
        mean_mhz: f64,
        /// The board's highest.
        highest_mhz: u32,
    },
    /// Somebody else was on the board.
    #[error("process {0} is on the board too")]
    Foreign(u32),
    /// The board is split: no instance has a power of its own.
    #[error("the board is split into MIG instances, which have no power of their own")]
    Mig,
    /// The board is shared with other virtual machines.
    #[error("the board is a vGPU, shared with other virtual machines")]
    Vgpu,
    /// The counter went backwards: the driver was loaded anew.
    #[error("the energy counter went back: the driver was loaded anew")]
    CounterReset,
    /// The counter stood still over a busy window.
    #[error("the energy counter stood still")]
    CounterStuck,
    /// The machine slept.
    #[error("the machine slept for {0:.1} s")]
    Slept(f64),
    /// Somebody set the machine's time.
    #[error("the time of day was set by {0:+.1} s")]
    TimeSet(f64),
    /// Nobody looked for a while.
    #[error("the board was not read for {0:.1} s")]
    NotRead(f64),
    /// The board went away, or NVML failed.
    #[error("{0}")]
    Fault(Fault),
    /// Fewer changes of the source than a figure needs.
    #[error("{} changed {ticks} times in the window, and {wanted} are wanted", of.name())]
    TooFewTicks {
        /// The source.
        of: Source,
        /// Its changes.
        ticks: usize,
        /// What is wanted.
        wanted: usize,
    },
}

impl Void {
    /// Whether what was measured beside power is worthless too: the device was not itself, or not ours. Otherwise only
    /// power could not be told.
    pub fn spoils_runtime(&self) -> bool {
        match self {
            Self::ThermalSlowdown(_)
            | Self::HardwareSlowdown(_)
            | Self::PowerBrake(_)
            | Self::ClockDrift { .. }
            | Self::ClockLow { .. }
            | Self::Foreign(_)
            | Self::Slept(_)
            | Self::Fault(_) => true,
            Self::Mig
            | Self::Vgpu
            | Self::CounterReset
            | Self::CounterStuck
            | Self::TimeSet(_)
            | Self::NotRead(_)
            | Self::TooFewTicks { .. } => false,
        }
    }
}

/// What the clocks should be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Clocks {
    pub(super) locked_mhz: Option<u32>,
    pub(super) highest_mhz: Option<u32>,
}

/// Everything that is wrong with the time from `from_s` to `to_s`, during which the device was busy; the worst first.
pub(super) fn voids(trace: &Trace, clocks: Clocks, from_s: f64, to_s: f64) -> Vec<Void> {
    let mut found = Vec::new();
    found.extend(trace.fault().cloned().map(Void::Fault));
    let moments = || trace.moments(from_s, to_s);
    if let (Some(first), Some(last)) = (moments().next(), moments().last()) {
        let slept_s = last.offsets.boot_s - first.offsets.boot_s;
        // A sleep moves the time of day as well.
        let set_s = last.offsets.real_s - first.offsets.real_s - slept_s;
        if slept_s > CLOCK_JUMP_S {
            found.push(Void::Slept(slept_s));
        }
        if set_s.abs() > CLOCK_JUMP_S {
            found.push(Void::TimeSet(set_s));
        }
    }
    found.extend(trace.gap_s(from_s, to_s).map(Void::NotRead));
    if moments().any(|moment| moment.state.is_mig) {
        found.push(Void::Mig);
    }
    if moments().any(|moment| moment.state.is_vgpu) {
        found.push(Void::Vgpu);
    }
    found.extend(
        moments()
            .find_map(|moment| moment.state.foreign)
            .map(Void::Foreign),
    );
    let reasons = moments().fold(0, |reasons, moment| reasons | moment.state.reasons);
    if reasons & (SOFTWARE_THERMAL | HARDWARE_THERMAL) != 0 {
        found.push(Void::ThermalSlowdown(reasons));
    } else if reasons & POWER_BRAKE != 0 {
        found.push(Void::PowerBrake(reasons));
    } else if reasons & HARDWARE_SLOWDOWN != 0 {
        found.push(Void::HardwareSlowdown(reasons));
    }
    let counter = trace.changes(Source::Counter);
    let within = |at_s: f64| from_s <= at_s && at_s <= to_s;
    let went_back = |pair: &&[super::trace::Change]| pair[1].value < pair[0].value;
    if counter
        .windows(2)
        .filter(|pair| within(pair[1].at_s))
        .any(|pair| went_back(&pair))
    {
        found.push(Void::CounterReset);
    }
    let seen: Vec<u32> = moments()
        .filter_map(|moment| moment.state.clock_mhz)
        .collect();
    let drifted = clocks.locked_mhz.and_then(|locked_mhz| {
        let far = |&&seen: &&u32| (f64::from(seen) - f64::from(locked_mhz)).abs() > CLOCK_DRIFT_MHZ;
        let seen_mhz = *seen.iter().find(far)?;
        Some(Void::ClockDrift {
            locked_mhz,
            seen_mhz,
        })
    });
    found.extend(drifted);
    if let (None, Some(highest_mhz), false) =
        (clocks.locked_mhz, clocks.highest_mhz, seen.is_empty())
    {
        let mean_mhz = seen.iter().map(|&mhz| f64::from(mhz)).sum::<f64>() / seen.len() as f64;
        let is_low = mean_mhz < CLOCK_SHARE_MIN * f64::from(highest_mhz);
        if is_low && reasons & SOFTWARE_POWER_CAP == 0 {
            found.push(Void::ClockLow {
                mean_mhz,
                highest_mhz,
            });
        }
    }
    found
}
