//! Quantities that are written with their unit.

use std::time::Duration;

/// Reads `30 s`, `10min`, `1h` or `1 day`.
///
/// # Errors
/// How to write it.
pub fn read_interval(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let seconds = match text[digits..].trim() {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" | "day" | "days" => 86_400,
        _ => 0,
    };
    let number = text[..digits].parse::<u32>().unwrap_or_default();
    match u64::from(number) * seconds {
        0 => Err("write a whole number and s, min, h or d: 1h".to_owned()),
        seconds => Ok(Duration::from_secs(seconds)),
    }
}

/// Reads `16MiB` or `1 GiB`, in bytes.
pub(super) fn read_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[digits..].trim() {
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit).filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_a_unit() {
        let seconds = |text: &str| read_interval(text).map(|interval| interval.as_secs());
        assert_eq!(["90s", "10 min", "1h", "2 days"].map(|text| seconds(text).unwrap()), [90, 600, 3600, 172_800]);
        assert_eq!(["16MiB", "1 GiB", "1GB", "MiB"].map(read_size), [Some(16 << 20), Some(1 << 30), None, None]);
        assert!(["", "1", "h", "0h", "1.5h", "-1h"].iter().all(|text| seconds(text).is_err()));
    }
}
