//! Whether a compiled character map, as it stands in base64, keeps inside of itself wherever a text may lead.

/// The error says what is wrong. The library reads these maps without a check.
pub(super) fn check(base64: &str) -> Result<(), &'static str> {
    let blob = decode(base64).ok_or("is no base64")?;
    let (len, rest) = blob.split_first_chunk().ok_or("is shorter than its length field")?;
    let (array, texts) =
        rest.split_at_checked(u32::from_le_bytes(*len) as usize / 4 * 4).ok_or("ends inside of its double array")?;
    let texts = std::str::from_utf8(texts).map_err(|_| "has replacements that are no UTF-8")?;
    let units: Vec<u32> =
        array.chunks_exact(4).map(|b| b.iter().rev().fold(0, |v, &x| v << 8 | u32::from(x))).collect();
    let outside = "leads outside of its double array";
    let base = |u: u32| ((u >> 10) << ((u & 1 << 9) >> 6)) as usize;
    let root = base(*units.first().ok_or("has no double array")?);
    let mut seen = vec![false; units.len()];
    let mut todo = vec![root];
    while let Some(node) = todo.pop() {
        for byte in 1..256 {
            let at = node ^ byte;
            let unit = *units.get(at).ok_or(outside)?;
            if (unit & (1 << 31 | 0xff)) as usize != byte || std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let next = at ^ base(unit);
            if unit >> 8 & 1 == 1 {
                let start = (units.get(next).ok_or(outside)? & !(1 << 31)) as usize;
                if !texts.is_char_boundary(start) {
                    return Err("has a replacement that begins inside of a character");
                }
            }
            todo.push(next);
        }
    }
    Ok(())
}

/// The bytes of a base64 text.
fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    let value = |c: u8| {
        Some(u32::from(match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        }))
    };
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 || digits.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() / 4 * 3 + 3);
    for four in digits.chunks(4) {
        let bits = four.iter().try_fold(0, |bits, &c| Some(bits << 6 | value(c)?))? << (6 * (4 - four.len()));
        out.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64() {
        assert_eq!(super::decode("TWFu").as_deref(), Some(&b"Man"[..]));
        assert_eq!(super::decode("TWE=").as_deref(), Some(&b"Ma"[..]));
        assert_eq!(super::decode("TQ==").as_deref(), Some(&b"M"[..]));
        assert!(super::decode("TQ=").is_none() && super::decode("T===").is_none() && super::decode("T*==").is_none());
    }

    #[test]
    fn maps_that_lead_astray() {
        assert_eq!(super::check("AAAA"), Err("is shorter than its length field"));
        assert_eq!(super::check("AAAAAA=="), Err("has no double array"));
        assert_eq!(super::check("/////w=="), Err("ends inside of its double array"));
        assert_eq!(super::check("BAAAAAAAAAA="), Err("leads outside of its double array"));
    }
}
