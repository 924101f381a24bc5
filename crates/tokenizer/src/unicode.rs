//! Unicode facts as of version 15.1, which llama.cpp's tables hold too, from the table that `tools/unicode.py` writes.

static DATA: &[u8] = include_bytes!("unicode.bin");

/// A set of general categories, a bit for each in the order of the table (`tools/unicode.py`).
pub(crate) type Categories = u32;
pub(crate) const LETTER: Categories = 0b1_1111 << 1;
pub(crate) const MARK: Categories = 0b111 << 6;
pub(crate) const NUMBER: Categories = 0b111 << 9;
pub(crate) const PUNCTUATION: Categories = 0b111_1111 << 12;
pub(crate) const SYMBOL: Categories = 0b1111 << 19;
pub(crate) const CONTROL: Categories = 0b1111 << 26;

const FIRST: usize = 0x1100;

fn u32_at(at: usize) -> u32 {
    DATA.get(at..at + 4).map_or(0, |b| b.iter().rev().fold(0, |v, &x| v << 8 | u32::from(x)))
}

/// The general category, as a set of one.
pub(crate) fn category(c: char) -> Categories {
    let block = DATA.get(8 + (c as usize >> 8)).copied().unwrap_or(0);
    1 << DATA.get(8 + FIRST + (usize::from(block) << 8 | (c as usize & 0xff))).copied().unwrap_or(0)
}

/// The first code point of the canonical decomposition.
pub(crate) fn decomposed(c: char) -> char {
    let cp = c as u32;
    if (0xac00..0xd7a4).contains(&cp) {
        return char::from_u32(0x1100 + (cp - 0xac00) / 588).unwrap_or(c);
    }
    let (at, n) = (8 + FIRST + u32_at(0) as usize * 256, u32_at(4) as usize);
    let (mut lo, mut hi) = (0, n);
    while lo < hi {
        let mid = (lo + hi) / 2;
        match u32_at(at + mid * 8).cmp(&cp) {
            std::cmp::Ordering::Less => lo = mid + 1,
            std::cmp::Ordering::Greater => hi = mid,
            std::cmp::Ordering::Equal => return char::from_u32(u32_at(at + mid * 8 + 4)).unwrap_or(c),
        }
    }
    c
}

/// The simple lower-case mapping; code points that are newer than the table map to themselves.
pub(crate) fn lower(c: char) -> char {
    if category(c) == 1 { c } else { c.to_lowercase().next().unwrap_or(c) }
}

/// A CJK ideograph by BERT's ranges. (One of them begins at 2B920 where Unicode says 2B820; the models were trained so.)
pub(crate) fn is_chinese(c: char) -> bool {
    matches!(c as u32, 0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x20000..=0x2a6df | 0x2a700..=0x2b73f | 0x2b740..=0x2b81f
        | 0x2b920..=0x2ceaf | 0xf900..=0xfaff | 0x2f800..=0x2fa1f)
}

/// GPT-2's alphabet: a printable character for each byte.
pub(crate) fn byte_char(b: u8) -> char {
    match b {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(b),
        0..=0x20 => char::from_u32(0x100 + u32::from(b)).unwrap_or(' '),
        0x7f..=0xa0 => char::from_u32(0x121 + u32::from(b) - 0x7f).unwrap_or(' '),
        0xad => '\u{143}',
    }
}

/// The byte of a character of that alphabet.
pub(crate) fn char_byte(c: char) -> Option<u8> {
    match c as u32 {
        v @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(v as u8),
        v @ 0x100..=0x120 => Some((v - 0x100) as u8),
        v @ 0x121..=0x142 => Some((v - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The byte that a token such as `<0x0A>` stands for.
pub(crate) fn byte_token(text: &[u8]) -> Option<u8> {
    match text {
        [b'<', b'0', b'x', hi, lo, b'>'] => {
            let hex = |b: &u8| char::from(*b).to_digit(16);
            Some((hex(hi)? * 16 + hex(lo)?) as u8)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts() {
        assert_eq!(category('a'), 1 << 2);
        assert!(category('٣') & NUMBER != 0 && category('\u{301}') & MARK != 0);
        assert!(category('«') & PUNCTUATION != 0 && category('€') & SYMBOL != 0 && category('\u{7}') & CONTROL != 0);
        assert_eq!(category('\u{2ffc}'), 1 << 22); // new in 15.1
        assert_eq!((decomposed('é'), decomposed('ậ'), decomposed('각'), decomposed('a')), ('e', 'a', '\u{1100}', 'a'));
        assert_eq!((lower('Ä'), lower('İ'), lower('ß')), ('ä', 'i', 'ß'));
        for b in 0..=255 {
            assert_eq!(char_byte(byte_char(b)), Some(b));
        }
        assert_eq!((byte_char(b' '), byte_char(b'\n'), byte_char(0xad)), ('Ġ', 'Ċ', 'Ń'));
        assert_eq!((byte_token(b"<0x0a>"), byte_token(b"<0xFF>"), byte_token(b"<0xG0>")), (Some(10), Some(255), None));
    }
}
