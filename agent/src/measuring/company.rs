//! Somebody else wants the device: what is measured is given up within seconds, whatever it is.

use std::thread;
use std::time::{Duration, Instant};

use crate::recipe::Pulse;

/// The exit status of a measuring process that ended itself for somebody else's sake: its job is nobody's failure.
pub const YIELDED: i32 = 75;

/// How often the board is asked who is on it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A call that goes on for so long after somebody else has come is ended with its process.
const PATIENCE: Duration = Duration::from_secs(5);

/// Watches for company for as long as the process lives.
pub(super) fn watch(company: impl Fn() -> Option<u32>, pulse: &Pulse) -> ! {
    loop {
        thread::sleep(LOOK_EVERY);
        if look(&company, pulse, PATIENCE).is_err() {
            tracing::warn!(
                "a call went on for too long after somebody else had come: ending it with its process"
            );
            // SAFETY: ends the process, and returns to nobody. Destructors must not run under a thread that is in libtorch.
            #[expect(
                unsafe_code,
                reason = "the standard library only ends a process with its destructors"
            )]
            unsafe {
                libc::_exit(YIELDED)
            }
        }
    }
}

/// What is measured did not end in time.
#[derive(Debug, PartialEq, Eq)]
struct Stuck;

/// Looks once. If somebody has come, has what is measured end.
fn look(
    company: &impl Fn() -> Option<u32>,
    pulse: &Pulse,
    patience: Duration,
) -> Result<(), Stuck> {
    let Some(process) = company() else {
        pulse.want_elsewhere(false);
        return Ok(());
    };
    if !pulse.want_elsewhere(true) {
        tracing::info!(process, "somebody else has come onto the board");
    }
    let (began, beats) = (Instant::now(), pulse.beats());
    // Whoever waits for the device beats as well.
    while pulse.is_at_work() && pulse.beats() == beats {
        if began.elapsed() > patience {
            return Err(Stuck);
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::recipe::Failure;

    const PATIENCE: Duration = Duration::from_millis(300);

    #[test]
    fn what_is_measured_hears_of_company_at_its_next_call() {
        let pulse = Arc::new(Pulse::default());
        pulse.at_work(true);
        let measuring = thread::spawn({
            let pulse = Arc::clone(&pulse);
            move || {
                let error = loop {
                    if let Err(error) = pulse.beat() {
                        break error;
                    }
                    thread::sleep(Duration::from_millis(5));
                };
                pulse.at_work(false);
                error
            }
        });
        assert_eq!(look(&|| None, &pulse, PATIENCE), Ok(()));
        assert!(!measuring.is_finished());
        assert_eq!(look(&|| Some(7), &pulse, PATIENCE), Ok(()));
        assert_eq!(measuring.join().expect("ends"), Failure::Interrupted);
        assert_eq!(look(&|| None, &pulse, PATIENCE), Ok(()));
        assert_eq!(pulse.beat(), Ok(()), "they have gone");
    }

    #[test]
    fn a_call_that_does_not_end_is_found_and_an_idle_device_is_not() {
        let pulse = Pulse::default();
        assert_eq!(look(&|| Some(7), &pulse, PATIENCE), Ok(()));
        pulse.at_work(true);
        assert_eq!(look(&|| Some(7), &pulse, PATIENCE), Err(Stuck));
    }
}
