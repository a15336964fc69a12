//! Numbers and times as people read them.

use jiff::Timestamp;

/// Digits that a figure has: more than measuring can back.
const DIGITS: i32 = 4;

/// What stands for a figure that is not there.
pub(crate) const NONE: &str = "-";

/// A figure with four significant digits, never in powers of ten: `0.01234`, `12.34`, `1234`.
pub(crate) fn figure(value: f64) -> String {
    if value == 0.0 {
        // An empty sum is -0.0.
        return "0".to_owned();
    }
    let magnitude = value.abs().log10().floor() as i32;
    let decimals = (DIGITS - 1 - magnitude).clamp(0, 12) as usize;
    format!("{value:.decimals$}")
}

/// A figure that may be missing.
pub(crate) fn figure_or_none(value: Option<f64>) -> String {
    value.map_or_else(|| NONE.to_owned(), figure)
}

/// The two ends of an interval.
pub(crate) fn interval(low: Option<f64>, high: Option<f64>) -> String {
    low.zip(high).map_or_else(
        || NONE.to_owned(),
        |(low, high)| format!("{} .. {}", figure(low), figure(high)),
    )
}

/// A relative error in percent, with its sign.
pub(crate) fn signed_percent(value: Option<f64>) -> String {
    value.map_or_else(|| NONE.to_owned(), |percent| format!("{percent:+.1}"))
}

/// A part of a whole in percent.
pub(crate) fn share(part: Option<f64>, whole: Option<f64>) -> String {
    part.zip(whole).map_or_else(
        || NONE.to_owned(),
        |(part, whole)| format!("{:.1}", 100.0 * part / whole),
    )
}

/// Thousands of millions: FLOPs and bytes.
pub(crate) fn giga(value: u64) -> String {
    figure(value as f64 / 1e9)
}

/// Millions: parameters.
pub(crate) fn mega(value: u64) -> String {
    figure(value as f64 / 1e6)
}

/// Milliseconds since 1970 as a time in UTC.
pub(crate) fn time(ms: u64) -> String {
    let timestamp = i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    timestamp.map_or_else(
        || NONE.to_owned(),
        |timestamp| timestamp.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
    )
}

/// Milliseconds since 1970, where there are any.
pub(crate) fn time_or_none(ms: Option<u64>) -> String {
    ms.map_or_else(|| NONE.to_owned(), time)
}

/// The beginning of a UUID or a hash: enough to tell a few apart.
pub(crate) fn short(name: &str) -> &str {
    name.get(..12).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_four_digits() {
        let shown = [
            0.0,
            0.000_012_345,
            0.012_345,
            1.0,
            12.3456,
            999.96,
            1_234.5,
            1_234_567.0,
        ]
        .map(figure);
        assert_eq!(
            shown,
            [
                "0",
                "0.00001234",
                "0.01235",
                "1.000",
                "12.35",
                "1000.0",
                "1234",
                "1234567"
            ]
            .map(str::to_owned)
        );
        assert_eq!(figure_or_none(None), "-");
        assert_eq!(interval(Some(1.0), None), "-");
    }

    #[test]
    fn times_are_in_utc() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(u64::MAX), "-");
    }
}
