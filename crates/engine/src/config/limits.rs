//! Limits that a user may want to be others than ours.

use std::str::FromStr;
use std::time::Duration;

use super::value::InvalidValue;

/// The limits that were given. `None` leaves ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsConfig {
    /// How long a half-closed connection may be silent.
    pub half_closed: Option<Wait>,
}

/// How long something may take: one millisecond to one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wait(Duration);

impl Wait {
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

    /// The time.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Wait {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let invalid = || {
            InvalidValue(format!("{text:?} is no time from 1ms to 24h; write it as 500ms, 300s, 5m or 1h"))
        };
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at_checked(digits).ok_or_else(invalid)?;
        let unit = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            _ => return Err(invalid()),
        };
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let time = number.checked_mul(unit).map(Duration::from_millis).ok_or_else(invalid)?;
        if time.is_zero() || time > Self::LONGEST { Err(invalid()) } else { Ok(Self(time)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_a_whole_number_and_a_unit() {
        let good = [("1ms", 1), ("500ms", 500), ("300s", 300_000), ("5m", 300_000), ("24h", 86_400_000)];
        for (text, millis) in good {
            assert_eq!(text.parse::<Wait>().unwrap().get(), Duration::from_millis(millis), "{text}");
        }
        let bad = [
            "",
            "s",
            "0s",
            "0",
            "5",
            "5 s",
            " 5s",
            "5s ",
            "+5s",
            "-5s",
            "1.5s",
            "5S",
            "5sec",
            "25h",
            "86400001ms",
            "99999999999999999999s",
            "18446744073709551615h",
            "٥s",
        ];
        for text in bad {
            assert!(text.parse::<Wait>().is_err(), "{text:?}");
        }
    }
}
