//! Amounts as people type them: `90s`, `1h30m`, `500`.

use std::fmt;
use std::str::FromStr;

use wattfarm_proto::v1;

/// A text that is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QuantityError {
    /// Not a sequence of numbers with units.
    #[error("`{0}` is not a duration, such as `90s`, `5m`, `1h30m` or `1d`")]
    Duration(String),
    /// Neither a number of jobs nor a duration.
    #[error("`{0}` is neither a number of jobs, such as `500`, nor a duration, such as `30m`")]
    Budget(String),
    /// Not a positive, finite number.
    #[error("`{0}` is not a positive number")]
    Positive(String),
    /// No numbers of measurements.
    #[error("`{0}` is neither a sequence, such as `17`, nor a range of them, such as `20-25`")]
    Sequences(String),
}

/// A positive, finite number: nothing is over a limit of NaN.
pub(crate) fn positive(text: &str) -> Result<f64, QuantityError> {
    let refused = || QuantityError::Positive(text.to_owned());
    let number: f64 = text.parse().map_err(|_| refused())?;
    match number.is_finite() && number > 0.0 {
        true => Ok(number),
        false => Err(refused()),
    }
}

/// A positive number of whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Duration {
    pub(crate) seconds: u64,
}

impl Duration {
    /// Ten years: beyond that, somebody meant something else.
    const SECONDS_MAX: u64 = 10 * 365 * 86_400;
    /// The units, longest first.
    const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];
}

/// Numbers with units, longest unit first, each at most once.
impl FromStr for Duration {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let refused = || QuantityError::Duration(text.to_owned());
        let mut rest = text;
        let mut seconds = 0u64;
        for (unit, unit_seconds) in Self::UNITS {
            let Some((number, after)) = rest.split_once(unit) else {
                continue;
            };
            let number: u64 = number.parse().map_err(|_| refused())?;
            let part = number.checked_mul(unit_seconds).ok_or_else(refused)?;
            seconds = seconds.checked_add(part).ok_or_else(refused)?;
            rest = after;
        }
        match rest.is_empty() && (1..=Self::SECONDS_MAX).contains(&seconds) {
            true => Ok(Self { seconds }),
            false => Err(refused()),
        }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.seconds;
        for (unit, unit_seconds) in Self::UNITS {
            if rest >= unit_seconds {
                write!(f, "{}{unit}", rest / unit_seconds)?;
                rest %= unit_seconds;
            }
        }
        Ok(())
    }
}

/// Measurements by their sequences: one, or all from one to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sequences {
    first: u64,
    last: u64,
}

impl Sequences {
    pub(crate) fn count(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = u64> {
        self.first..=self.last
    }
}

impl FromStr for Sequences {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let refused = || QuantityError::Sequences(text.to_owned());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.parse::<u64>().map_err(|_| refused());
        let (first, last) = (number(first)?, number(last)?);
        match 1 <= first && first <= last {
            true => Ok(Self { first, last }),
            false => Err(refused()),
        }
    }
}

/// What a campaign may spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Budget {
    /// So many jobs.
    Jobs(u64),
    /// So much measuring, summed over agents.
    Time(Duration),
}

impl FromStr for Budget {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        match (text.parse(), text.parse()) {
            (Ok(jobs), _) if jobs > 0 => Ok(Self::Jobs(jobs)),
            (_, Ok(time)) => Ok(Self::Time(time)),
            (_, Err(_)) => Err(QuantityError::Budget(text.to_owned())),
        }
    }
}

impl From<Budget> for v1::campaign_request::Budget {
    fn from(budget: Budget) -> Self {
        use v1::campaign_request::budget::Budget as Wire;
        let budget = match budget {
            Budget::Jobs(jobs) => Wire::Jobs(jobs),
            Budget::Time(time) => Wire::Seconds(time.seconds as f64),
        };
        Self {
            budget: Some(budget),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_write() {
        for (text, seconds) in [
            ("90s", 90),
            ("5m", 300),
            ("1h30m", 5_400),
            ("1d", 86_400),
            ("2d1s", 172_801),
        ] {
            let duration: Duration = text.parse().expect("a duration");
            assert_eq!(duration.seconds, seconds, "{text}");
            assert_eq!(duration.to_string().parse(), Ok(duration), "{text}");
        }
        for text in [
            "",
            "5",
            "m",
            "0s",
            "-5m",
            "5m5",
            "30s5m",
            "5m5m",
            "1.5h",
            "5 m",
            "99999999999999999999d",
            "4000d",
        ] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_plain_number_is_a_budget_of_jobs() {
        assert_eq!("500".parse(), Ok(Budget::Jobs(500)));
        assert_eq!("30m".parse(), Ok(Budget::Time(Duration { seconds: 1_800 })));
        for text in ["0", "-1", "many", ""] {
            assert!(text.parse::<Budget>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_limit_is_positive_and_finite() {
        assert_eq!(positive("1e9"), Ok(1e9));
        for text in ["nan", "NaN", "inf", "-inf", "0", "-1", "", "5ms"] {
            assert!(positive(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sequences_are_one_or_a_range() {
        let all = |text: &str| {
            text.parse::<Sequences>()
                .map(|some| some.iter().collect::<Vec<_>>())
        };
        assert_eq!(all("7"), Ok(vec![7]));
        assert_eq!(all("7-9"), Ok(vec![7, 8, 9]));
        for bad in [
            "",
            "0",
            "9-7",
            "a",
            "1-",
            "-1",
            "1-2-3",
            "99999999999999999999",
        ] {
            assert!(all(bad).is_err(), "{bad}");
        }
        let huge: Sequences = "1-18446744073709551615".parse().expect("a range");
        assert_eq!(huge.count(), u64::MAX);
    }
}
