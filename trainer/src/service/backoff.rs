//! How long to wait before trying again.

use std::time::Duration;

use rand::RngExt as _;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

/// Waits that double up to ten seconds. Each is drawn from its upper half, so that many trainers and agents don't all
/// come back to a restarted coordinator at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(super) async fn wait(&mut self) {
        let jitter = rand::rng().random_range(0.5..1.0);
        tokio::time::sleep(delay(self.failures).mul_f64(jitter)).await;
        self.failures = self.failures.saturating_add(1);
    }

    /// Something worked.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

fn delay(failures: u32) -> Duration {
    FIRST
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit() {
        let seconds: Vec<f64> = [0, 1, 2, 5, 6, 1000]
            .map(|failures| delay(failures).as_secs_f64())
            .to_vec();
        assert_eq!(seconds, [0.2, 0.4, 0.8, 6.4, 10.0, 10.0]);
    }
}
