//! Durations, counts and sizes as people write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use spoolway::Timestamp;

/// Units of a duration with their milliseconds, longest name first.
const UNITS: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Reads `500ms`, `5s`, `10m`, `24h`, `7d`, `1.5h`, `1h30m` or `0`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let allowed =
        || format!("{text:?} is no duration; write for example 500ms, 5s, 10m, 24h or 7d");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(allowed)?;
        let (number, behind) = rest.split_at(digits);
        let end = behind
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(behind.len());
        let (name, next) = behind.split_at(end);
        let (_, millis) = UNITS
            .iter()
            .find(|(unit, _)| *unit == name)
            .ok_or_else(allowed)?;
        let number: f64 = number.parse().map_err(|_| allowed())?;
        let seconds = number * *millis as f64 / 1_000.0;
        let part = Duration::try_from_secs_f64(seconds).map_err(|_| allowed())?;
        total = total.checked_add(part).ok_or_else(allowed)?;
        rest = next;
    }
    if text.is_empty() {
        Err(allowed())
    } else {
        Ok(total)
    }
}

/// Units of a size with their bytes, longest name first.
const SIZES: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("B", 1),
    ("", 1),
];

/// Reads `512MiB`, `1.5GiB` or bytes.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size; write for example 512MiB, 2GiB, or bytes");
    let split = |(unit, bytes): &(&str, u64)| Some((text.strip_suffix(unit)?, *bytes));
    let (number, bytes) = SIZES.iter().find_map(split).ok_or_else(wrong)?;
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(wrong());
    }
    let size = number.parse::<f64>().map_err(|_| wrong())? * bytes as f64;
    if size < u64::MAX as f64 {
        Ok(size as u64)
    } else {
        Err(wrong())
    }
}

/// Reads a moment: RFC 3339, or a duration, which is so long ago.
pub(crate) fn parse_moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(ago) = parse_duration(text) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let then = now.unwrap_or_default().saturating_sub(ago);
        let millis = i64::try_from(then.as_millis()).unwrap_or(i64::MAX);
        return Ok(Timestamp(millis));
    }
    Timestamp::from_rfc3339(text).map_err(|_| {
        format!(
            "{text:?} is no time; write for example 2026-11-21T09:30:00Z, or 1h for an hour ago"
        )
    })
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 message`, `2 messages`.
pub(crate) fn plural(number: u64, word: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {word}{s}", count(number))
}

/// A length of time to two or three figures: `0.2 ms`, `35 ms`, `1.2 s`, `4 min 5 s`, `3 h 2 min`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let whole = time.as_secs();
    match whole {
        _ if seconds < 0.01 => format!("{:.1} ms", seconds * 1e3),
        _ if seconds < 0.999_5 => format!("{:.0} ms", seconds * 1e3),
        0..60 => format!("{seconds:.1} s"),
        60..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        3_600..86_400 => format!("{} h {} min", whole / 3_600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3_600 % 24),
    }
}

/// A size in binary units: `512 B`, `1.5 KiB`, `3.0 MiB`.
pub(crate) fn bytes(size: u64) -> String {
    let mut value = size as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1_024.0 {
            break;
        }
        value /= 1_024.0;
        unit = larger;
    }
    if unit == "B" {
        format!("{size} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_any_unit() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("5s", 5_000),
            ("1.5s", 1_500),
            ("10m", 600_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
            ("1h30m", 5_400_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
    }

    #[test]
    fn anything_else_is_no_duration() {
        for text in [
            "",
            "5",
            "s",
            "-5s",
            "5 s",
            "5sec",
            "1..5s",
            "5h5",
            "99999999999999999999d",
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains("500ms, 5s"), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_read_in_binary_units() {
        for (text, size) in [
            ("0", 0),
            ("4096", 4_096),
            ("512B", 512),
            ("64KiB", 64 << 10),
            ("1.5GiB", 3 << 29),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(parse_bytes(text), Ok(size), "{text}");
        }
        for text in [
            "",
            "MiB",
            "-1",
            "1 MiB",
            "1MB",
            "1e3MiBMiB",
            "inf",
            "99999999TiB",
        ] {
            let error = parse_bytes(text).unwrap_err();
            assert!(error.contains("512MiB"), "{text}: {error}");
        }
    }

    #[test]
    fn a_moment_is_absolute_or_so_long_ago() {
        let at = parse_moment("2023-11-14T22:13:20Z").unwrap();
        assert_eq!(at, Timestamp(1_700_000_000_000));
        let ago = parse_moment("1h").unwrap().0 - parse_moment("2h").unwrap().0;
        assert!((3_590_000..3_610_000).contains(&ago), "{ago}");
        assert!(parse_moment("yesterday").unwrap_err().contains("1h"));
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(plural(1, "message"), "1 message");
        assert_eq!(plural(1_707, "message"), "1,707 messages");
        assert_eq!(span(Duration::from_micros(213)), "0.2 ms");
        assert_eq!(span(Duration::from_millis(35)), "35 ms");
        assert_eq!(span(Duration::from_millis(1_249)), "1.2 s");
        assert_eq!(span(Duration::from_secs(245)), "4 min 5 s");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(3 << 20), "3.0 MiB");
    }
}
