//! Points in time as people write and read them.

use std::time::SystemTime;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

/// `05:31:02` of today, `2026-10-17 05:31:02` of another day; in the local time zone.
pub fn clock(time: Timestamp, now: &Zoned) -> String {
    let local = time.to_zoned(now.time_zone().clone());
    let today = local.date() == now.date();
    local.strftime(if today { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" }).to_string()
}

/// With the date and, to a millisecond, the time; in the local time zone.
pub fn precisely(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// `3 min`: about how long.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..120 => format!("{whole} s"),
        120..7_200 => format!("{} min", whole / 60),
        7_200..172_800 => format!("{} h", whole / 3_600),
        _ => format!("{} days", whole / 86_400),
    }
}

/// `3 min ago`
pub fn ago(time: Timestamp, now: Timestamp) -> String {
    format!("{} ago", duration(now.duration_since(time).as_secs_f64()))
}

/// Reads `10 min`, `2h`, `yesterday`'s like `1 day`, or a date and time (local unless it says otherwise).
pub fn since(text: &str) -> Result<SystemTime, String> {
    let wrong =
        || "write how long ago (10min, 2h, 1 day) or a time (2026-10-17 05:30, with or without zone)".to_owned();
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp.into());
    }
    if let Ok(civil) = text.parse::<DateTime>() {
        return Ok(civil.to_zoned(TimeZone::system()).map_err(|_| wrong())?.timestamp().into());
    }
    let span: Span = text.parse().map_err(|_| wrong())?;
    let then = Zoned::now().checked_sub(span.abs()).map_err(|_| wrong())?;
    Ok(then.timestamp().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let now = SystemTime::now();
        let ago = |text: &str| now.duration_since(since(text).unwrap()).unwrap().as_secs();
        assert!((590..=600).contains(&ago("10 min")), "{}", ago("10 min"));
        assert!((7_190..=7_200).contains(&ago("2h")));
        assert!(ago("1 day") >= 23 * 3_600);
        assert_eq!(since("2026-10-17T05:30:00Z").unwrap(), since("2026-10-17 07:30:00+02").unwrap());
        assert!(since("2026-10-17 05:30").is_ok());
        assert!(since("2026-10-17").is_ok());
        assert!(since("lately").is_err());
    }

    #[test]
    fn durations_are_short() {
        let shown = [0.4, 90.0, 150.0, 7_300.0, 200_000.0].map(duration);
        assert_eq!(shown, ["0 s", "90 s", "2 min", "2 h", "2 days"]);
    }
}
