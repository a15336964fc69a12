//! A board at a moment: what NVML says of it.

use nvml_wrapper_sys::bindings::{
    nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST as GPU_IS_LOST,
    nvmlReturn_enum_NVML_ERROR_NO_PERMISSION as NO_PERMISSION,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED, nvmlReturn_t,
};

use crate::history::History;
use crate::script::{
    Averaging, BoardScript, Counter, Event, Happening, Locking, PowerSource, Sensor, Sensors,
};

/// A reason for lower clocks: nothing runs.
const IDLE_REASON: u64 = 0x1;

/// A board, its past, and what was set on it.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) script: BoardScript,
    sensors: Sensors,
    pub(crate) history: History,
    locked_mhz: Option<u32>,
}

impl Board {
    pub(crate) fn new(script: BoardScript) -> Self {
        let mut history = History::new(script.idle_w);
        if let PowerSource::OverTime(steps) = &script.power {
            for &(from, watts) in steps {
                history.push(from, watts);
            }
        }
        Self {
            sensors: script.class.sensors(),
            script,
            history,
            locked_mhz: None,
        }
    }

    fn happening(&self, now: f64) -> impl Iterator<Item = &Happening> {
        let lasts =
            move |event: &&Event| event.from_s <= now && event.to_s.is_none_or(|to_s| now < to_s);
        self.script
            .events
            .iter()
            .filter(lasts)
            .map(|event| &event.what)
    }

    /// Whether it can be talked to.
    pub(crate) fn check(&self, now: f64) -> Result<(), nvmlReturn_t> {
        match self.happening(now).any(|what| *what == Happening::Lost) {
            true => Err(GPU_IS_LOST),
            false => Ok(()),
        }
    }

    pub(crate) fn usage_mw(&self, now: f64) -> Result<u32, nvmlReturn_t> {
        self.reading_mw(self.sensors.usage, now)
    }

    pub(crate) fn average_mw(&self, now: f64) -> Result<u32, nvmlReturn_t> {
        self.reading_mw(self.sensors.average, now)
    }

    pub(crate) fn instant_mw(&self, now: f64) -> Result<u32, nvmlReturn_t> {
        self.reading_mw(self.sensors.instant, now)
    }

    fn reading_mw(&self, sensor: Option<Sensor>, now: f64) -> Result<u32, nvmlReturn_t> {
        let sensor = sensor.ok_or(NOT_SUPPORTED)?;
        let renewed = last_update(sensor.update_s, now);
        let watts = match sensor.averaging {
            Averaging::Window(window_s) => self.history.mean(renewed - window_s, renewed),
            Averaging::Exponential(constant) => self.history.exponential_mean(renewed, constant),
        };
        Ok((watts * self.script.gain * 1e3) as u32)
    }

    /// Energy since the driver was loaded.
    pub(crate) fn energy_mj(&self, now: f64) -> Result<u64, nvmlReturn_t> {
        let Counter { update_s, gain } = self.sensors.counter.ok_or(NOT_SUPPORTED)?;
        let resets = self
            .script
            .events
            .iter()
            .filter(|event| event.what == Happening::CounterReset && event.from_s <= now);
        let loaded = resets.map(|event| event.from_s).fold(0.0, f64::max);
        let stuck = self.script.events.iter().filter(|event| {
            event.what == Happening::CounterStuck
                && event.from_s <= now
                && event.to_s.is_none_or(|to_s| now < to_s)
        });
        let moved = stuck.map(|event| event.from_s).fold(now, f64::min);
        let renewed = last_update(update_s, moved).max(loaded);
        let joules = self.history.energy(renewed) - self.history.energy(loaded);
        Ok((joules * gain * self.script.gain * 1e3) as u64)
    }

    /// Clock of the multiprocessors.
    pub(crate) fn clock_mhz(&self, now: f64) -> u32 {
        let (idle, busy) = self.script.clock_mhz;
        let clock = match (self.locked_mhz, self.is_busy(now)) {
            (Some(locked), _) => locked,
            (None, true) => busy,
            (None, false) => idle,
        };
        let drops = self.happening(now).map(|what| match what {
            Happening::ClockDrop(mhz) => *mhz,
            _ => 0,
        });
        clock.saturating_sub(drops.sum())
    }

    pub(crate) fn clock_mhz_max(&self) -> u32 {
        self.script.clock_mhz.1
    }

    fn is_busy(&self, now: f64) -> bool {
        self.history.power(now) > self.script.idle_w * 1.05
    }

    pub(crate) fn temperature_c(&self, now: f64) -> u32 {
        let thermal = self.script.thermal;
        let warmth = self.history.exponential_mean(now, thermal.time_s);
        (thermal.ambient_c + thermal.per_w * warmth).round() as u32
    }

    pub(crate) fn throttle_reasons(&self, now: f64) -> u64 {
        let idle = if self.is_busy(now) { 0 } else { IDLE_REASON };
        self.happening(now).fold(idle, |reasons, what| match what {
            Happening::Throttle(bits) => reasons | bits,
            _ => reasons,
        })
    }

    pub(crate) fn compute_processes(&self, now: f64) -> Vec<u32> {
        let pid = |what: &Happening| match what {
            Happening::ComputeProcess(pid) => Some(*pid),
            _ => None,
        };
        self.happening(now).filter_map(pid).collect()
    }

    pub(crate) fn graphics_processes(&self, now: f64) -> Vec<u32> {
        let pid = |what: &Happening| match what {
            Happening::GraphicsProcess(pid) => Some(*pid),
            _ => None,
        };
        self.happening(now).filter_map(pid).collect()
    }

    pub(crate) fn is_mig(&self, now: f64) -> bool {
        self.happening(now).any(|what| *what == Happening::Mig)
    }

    pub(crate) fn is_vgpu(&self, now: f64) -> bool {
        self.happening(now).any(|what| *what == Happening::Vgpu)
    }

    pub(crate) fn locked_mhz(&self) -> Option<u32> {
        self.locked_mhz
    }

    pub(crate) fn lock(&mut self, mhz: Option<u32>) -> Result<(), nvmlReturn_t> {
        match self.script.locking {
            Locking::Permitted => {
                self.locked_mhz = mhz;
                Ok(())
            }
            Locking::NoPermission => Err(NO_PERMISSION),
            Locking::NotSupported => Err(NOT_SUPPORTED),
        }
    }
}

/// When what is renewed every `period` was last renewed.
fn last_update(period: f64, now: f64) -> f64 {
    // A moment that is meant to be a multiple of the period may be a hair below it in floating point.
    (now / period + 1e-9).floor() * period
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Class, Script};

    fn board(class: Class) -> Board {
        let mut script = Script::of_class(class).boards.remove(0);
        script.power = PowerSource::OverTime(vec![(2.0, 300.0)]);
        Board::new(script)
    }

    /// How long after the load began each class's reading is still short of it by more than 1 %.
    #[test]
    fn readings_rise_as_long_as_their_class_takes() {
        for (class, least, most) in [
            (Class::Ga100, 0.02, 0.13),
            (Class::Hopper, 0.9, 1.1),
            (Class::Turing, 0.08, 0.2),
            (Class::Volta, 0.0, 0.03),
            (Class::Maxwell, 1.2, 2.2),
        ] {
            let board = board(class.clone());
            let short = |ms: &u32| {
                let now = 2.0 + f64::from(*ms) * 1e-3;
                board.usage_mw(now).expect("has it") < 297_000
            };
            let rise = f64::from((0..5000).rev().find(short).unwrap_or(0)) * 1e-3;
            assert!((least..=most).contains(&rise), "{class:?}: {rise}");
        }
    }

    #[test]
    fn the_counter_steps_and_starts_anew() {
        let mut board = board(Class::Hopper);
        assert_eq!(board.energy_mj(2.0), Ok(120_000));
        assert_eq!(board.energy_mj(2.09), Ok(120_000));
        assert_eq!(board.energy_mj(2.1), Ok(150_000));
        board.script.events.push(Event {
            from_s: 3.0,
            to_s: None,
            what: Happening::CounterReset,
        });
        assert_eq!(board.energy_mj(2.95), Ok(390_000));
        assert_eq!(board.energy_mj(3.1), Ok(30_000));
    }

    #[test]
    fn what_a_model_lacks_is_not_supported() {
        let board = board(Class::Pascal);
        assert_eq!(board.energy_mj(3.0), Err(NOT_SUPPORTED));
        assert_eq!(board.instant_mw(3.0), Err(NOT_SUPPORTED));
        assert_eq!(board.usage_mw(3.0), Ok(300_000));
    }

    #[test]
    fn locked_clocks_hold_until_they_are_reset() {
        let mut board = board(Class::Hopper);
        assert_eq!((board.clock_mhz(1.0), board.clock_mhz(3.0)), (345, 1980));
        board.lock(Some(1500)).expect("permitted");
        assert_eq!((board.clock_mhz(1.0), board.clock_mhz(3.0)), (1500, 1500));
        board.lock(None).expect("permitted");
        assert_eq!(board.clock_mhz(3.0), 1980);
    }
}
