//! Durations as people write them: humantime's grammar within limits that it can't panic on.

use std::time::Duration;

/// The longest duration that any option takes.
pub const MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Reads `90s`, `2h 30m`, `1500ms`. A unit is required; 7 days at most.
///
/// # Errors
/// What is wrong, as the end of a sentence that starts with the value.
pub fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let plain = text.trim_start_matches('0');
        return match plain {
            "" => Err("needs a unit, for example 0s".to_owned()),
            _ if plain.len() > 6 => Err("needs a unit, and is too long: 7d at most".to_owned()),
            _ => Err(format!("needs a unit, for example {plain}s or 2h")),
        };
    }
    if has_month(text) {
        return Err("M is months; minutes are m".to_owned());
    }
    // humantime overflows (and panics) on sums near 2^64 seconds. Ten digits a number and 64 bytes in all keep
    // every sum far below that, and anything larger is over the limit anyway.
    if text.len() > 64 || longest_number(text) > 10 {
        return Err("is too long: 7d at most".to_owned());
    }
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("is no duration ({error}); write it like 90s, 10m or 2h"))?;
    if duration > MAX { Err("is too long: 7d at most".to_owned()) } else { Ok(duration) }
}

fn has_month(text: &str) -> bool {
    text.split(|c: char| c.is_ascii_digit() || c.is_whitespace()).any(|unit| unit == "M")
}

fn longest_number(text: &str) -> usize {
    text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0)
}

/// A duration as it was asked for.
pub fn exact(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// A measured duration, for people: whole seconds from one second on (`12m 40s`), milliseconds below.
pub fn show(duration: Duration) -> String {
    let rounded = match duration.as_secs() {
        0 => Duration::from_millis(u64::from(duration.subsec_millis())),
        seconds => Duration::from_secs(seconds),
    };
    humantime::format_duration(rounded).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_for_everything_that_is_no_duration() {
        for bad in [
            "",
            "120",
            "0",
            "1M",
            "2h 1M",
            "500years",
            "18446744073709551615s 1000000000ns",
            "9999999999y",
            "-1s",
            "1.5",
            "1 fortnight",
            "h",
            "8d",
            "\u{661}s",
            "184467440737095516150s",
            "99999999999999999999999999",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse("120"), Err("needs a unit, for example 120s or 2h".to_owned()));
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("120s", 120), ("2h", 7200), ("1m 30s", 90), ("7d", 604_800), ("0s", 0)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(show(Duration::from_millis(760_400)), "12m 40s");
        assert_eq!(show(Duration::from_micros(12_500)), "12ms");
    }
}
