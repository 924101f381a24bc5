//! Values of flags, read from text.

/// `ID=X`.
pub fn bias(text: &str) -> Result<(u32, f32), String> {
    let pair = text.split_once(['=', ':']).and_then(|(id, x)| Some((id.trim().parse().ok()?, x.trim().parse().ok()?)));
    pair.ok_or_else(|| "write it as ID=X, for example 42=-1.5".to_owned())
}

/// A number of bytes, with a unit.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit: Option<f64> = match text[at..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1.0),
        "k" | "kb" => Some(1e3),
        "m" | "mb" => Some(1e6),
        "g" | "gb" => Some(1e9),
        "t" | "tb" => Some(1e12),
        "kib" => Some(1024.0),
        "mib" => Some(1048576.0),
        "gib" => Some(1073741824.0),
        _ => None,
    };
    let number = text[..at].parse::<f64>().ok().filter(|n| n.is_finite());
    let bytes = number.zip(unit).map(|(n, unit)| n * unit).filter(|b| (1.0..1e18).contains(b));
    bytes.map(|b| b as u64).ok_or_else(|| "give a number of bytes, for example 12GB, 512MB or 4GiB".to_owned())
}

/// A token id, with blanks around it.
pub(super) fn id(text: &str) -> Result<u32, String> {
    text.trim().parse().map_err(|_| "give token ids as numbers separated by commas".to_owned())
}

/// Tokens of a step.
pub(super) fn step(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=4096).contains(n)).ok_or_else(|| "give 1 to 4096".to_owned())
}

/// A time in seconds, above 0.
pub(super) fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "give a number of seconds".to_owned())?;
    match std::time::Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("give a number of seconds above 0".to_owned()),
    }
}

/// An origin as browsers write it (RFC 6454, 6.2), or `*`.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let fits = |(scheme, host): (&str, &str)| {
        let plain = |c: char| c.is_ascii_graphic() && !c.is_ascii_uppercase() && !"/?#@\\".contains(c);
        let scheme_fits =
            !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_lowercase() || "+-.0123456789".contains(c));
        scheme_fits && !host.is_empty() && host.chars().all(plain)
    };
    match text == "*" || text == "null" || text.split_once("://").is_some_and(fits) {
        true => Ok(text.to_owned()),
        false => Err("give an origin as browsers send it, like https://chat.example or http://localhost:3000: in small letters, without a path or a last `/`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, want) in [("12GB", 12_000_000_000), ("1.5 GiB", 1_610_612_736), ("512mb", 512_000_000), ("77", 77)] {
            assert_eq!(bytes(text), Ok(want));
        }
        for bad in ["", "GB", "-1GB", "1 XB", "1e3", "0", "1..2", "9999999999GB", "nan"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_are_as_browsers_send_them() {
        for good in
            ["*", "https://chat.example", "http://localhost:3000", "http://[::1]:8080", "chrome-extension://abc"]
        {
            assert_eq!(origin(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "chat.example",
            "https://chat.example/",
            "https://Chat.example",
            "https://",
            "://x",
            "https://a b",
            "https://a/b",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
