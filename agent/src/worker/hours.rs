//! The hours of the day during which the owner lends the device.

use super::Wish;

/// From one minute of the day to another, which may be the next day's; by the machine's own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    from: u16,
    to: u16,
}

/// A text that names no hours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not like 22-7 or 22:30-7:15")]
pub struct HoursError(String);

/// Minutes in a day.
const DAY: u16 = 24 * 60;

impl Hours {
    /// All day.
    pub const ALWAYS: Self = Self { from: 0, to: DAY };

    /// Whether the device is lent at this minute of the day.
    pub fn hold(&self, minute: u16) -> bool {
        match self.from < self.to {
            true => (self.from..self.to).contains(&minute),
            false => minute >= self.from || minute < self.to,
        }
    }

    /// What is to happen now.
    pub fn wish(&self) -> Wish {
        let now = jiff::ZonedDateTime::now();
        let minute = i32::from(now.hour()) * 60 + i32::from(now.minute());
        match self.hold(minute.unsigned_abs() as u16) {
            true => Wish::Measure,
            false => Wish::Rest,
        }
    }
}

impl std::str::FromStr for Hours {
    type Err = HoursError;

    fn from_str(text: &str) -> Result<Self, HoursError> {
        let error = || HoursError(text.chars().take(80).collect());
        let (from, to) = text.split_once('-').ok_or_else(error)?;
        let minute = |text: &str| {
            let (hour, minute) = text.split_once(':').unwrap_or((text, "0"));
            let [hour, minute] = [hour, minute].map(|part| part.trim().parse::<u16>().ok());
            let total =
                hour.filter(|hour| *hour <= 24)? * 60 + minute.filter(|minute| *minute < 60)?;
            (total <= DAY).then_some(total)
        };
        let (from, to) = (
            minute(from).ok_or_else(error)?,
            minute(to).ok_or_else(error)?,
        );
        // The same twice could mean always or never.
        match from == to || from == DAY {
            true => Err(error()),
            false => Ok(Self { from, to }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hours_go_over_midnight() {
        let night: Hours = "22-7".parse().expect("hours");
        for (minute, is_lent) in [
            (21 * 60 + 59, false),
            (22 * 60, true),
            (0, true),
            (419, true),
            (420, false),
        ] {
            assert_eq!(night.hold(minute), is_lent, "{minute}");
        }
        let day: Hours = "9:30-17:00".parse().expect("hours");
        assert!(day.hold(570) && !day.hold(569) && day.hold(1019) && !day.hold(1020));
        assert_eq!("0-24".parse(), Ok(Hours::ALWAYS));
    }

    #[test]
    fn what_is_no_hours_is_named() {
        for text in [
            "", "22", "22-", "7-7", "24-7", "22-25", "22:60-7", "a-b", "-1-7", "65535-3",
        ] {
            let error = text.parse::<Hours>().expect_err(text);
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,20}") {
            let _ = text.parse::<Hours>();
        }

        /// A device is lent either by some hours or by those that are left of the day.
        #[test]
        fn the_rest_of_the_day_is_the_rest(from in 0..DAY, to in 0..DAY, minute in 0..DAY) {
            prop_assume!(from != to);
            let (lent, kept) = (Hours { from, to }, Hours { from: to, to: from });
            prop_assert!(lent.hold(minute) != kept.hold(minute));
        }
    }
}
