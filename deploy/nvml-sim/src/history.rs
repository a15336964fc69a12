//! The true power over time: a step function with its integral, from which every sensor's reading is exact arithmetic.

/// A power that holds from a moment on.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// In s.
    from: f64,
    /// In W.
    watts: f64,
    /// Energy from time zero until `from`, in J.
    joules: f64,
}

/// The true power so far, in order.
#[derive(Debug, Clone)]
pub struct History {
    steps: Vec<Step>,
}

/// More steps than this are never kept, but for the newest: no sensor looks back further than some seconds.
const STEPS_MAX: usize = 1 << 20;

impl History {
    /// This power since ever.
    pub fn new(watts: f64) -> Self {
        let first = Step {
            from: 0.0,
            watts,
            joules: 0.0,
        };
        Self { steps: vec![first] }
    }

    /// From `from` on it is `watts`. What was to come later is forgotten.
    pub fn push(&mut self, from: f64, watts: f64) {
        let joules = self.energy(from);
        while self.steps.len() > 1 && self.steps[self.steps.len() - 1].from >= from {
            self.steps.pop();
        }
        if self.steps[self.steps.len() - 1].watts == watts {
            return;
        }
        if self.steps.len() >= STEPS_MAX {
            self.steps.drain(..STEPS_MAX / 2);
        }
        self.steps.push(Step {
            from,
            watts,
            joules,
        });
    }

    /// The step that holds at `time`; before the first one, the first one.
    fn index(&self, time: f64) -> usize {
        self.steps
            .partition_point(|step| step.from <= time)
            .saturating_sub(1)
    }

    /// Power at `time`, in W.
    pub fn power(&self, time: f64) -> f64 {
        self.steps[self.index(time)].watts
    }

    /// Energy from time zero until `time`, in J; negative before zero.
    pub fn energy(&self, time: f64) -> f64 {
        let step = self.steps[self.index(time)];
        step.joules + step.watts * (time - step.from)
    }

    /// Mean power from `from` to `to`, in W.
    pub fn mean(&self, from: f64, to: f64) -> f64 {
        (self.energy(to) - self.energy(from)) / (to - from)
    }

    /// The past before `time`, weighted by `exp(-age / constant)`.
    pub fn exponential_mean(&self, time: f64, constant: f64) -> f64 {
        let weight_until = |moment: f64| (-(time - moment) / constant).exp();
        let (mut mean, mut until) = (0.0, time);
        for (index, step) in self.steps[..=self.index(time)].iter().enumerate().rev() {
            let beginning = if index == 0 {
                0.0
            } else {
                weight_until(step.from)
            };
            mean += step.watts * (weight_until(until) - beginning);
            until = step.from;
            // 30 time constants ago is beyond what a float can tell.
            if time - until > 30.0 * constant {
                return mean + step.watts * beginning;
            }
        }
        mean
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn means_of_a_step() {
        let mut history = History::new(100.0);
        history.push(2.0, 300.0);
        assert_eq!((history.power(1.9), history.power(2.0)), (100.0, 300.0));
        assert_eq!(history.mean(1.0, 3.0), 200.0);
        assert_eq!(history.mean(-1.0, 0.0), 100.0);
        // One time constant after the step: 100 + 200 * (1 - 1/e).
        let expected = 100.0 + 200.0 * (1.0 - (-1.0f64).exp());
        assert!((history.exponential_mean(2.5, 0.5) - expected).abs() < 1e-9);
    }

    proptest! {
        /// Energy is what the steps say, summed slowly.
        #[test]
        fn energy_is_the_integral(
            steps in prop::collection::vec((1e-3..0.5f64, 0.0..700.0f64), 1..40),
            end in 0.0..30.0f64,
        ) {
            let mut history = History::new(50.0);
            let (mut time, mut watts, mut joules) = (0.0f64, 50.0, 0.0);
            for &(after, next) in &steps {
                joules += watts * ((time + after).min(end) - time.min(end));
                time += after;
                watts = next;
                history.push(time, watts);
            }
            joules += watts * (end - time.min(end));
            prop_assert!((history.energy(end) - joules).abs() < 1e-6 * joules.max(1.0));
        }
    }
}
