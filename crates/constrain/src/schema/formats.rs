//! Formats of strings, as patterns.
//!
//! They are the strings that RFC 3339, 5321, 1123, 4122, 3986 and 6901 call so, without what few readers take: leap
//! seconds, years beyond four digits, quoted local parts of addresses.

use std::sync::LazyLock;

/// Days of the proleptic Gregorian calendar.
const DATE: &str = concat!(
    r"(?:(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})-",
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))",
    r"|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29)",
);
const TIME: &str =
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
const DURATION: &str = concat!(
    r"P(?:[0-9]+W|(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)",
    r"(?:T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S))?",
    r"|T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S))",
);
const LABEL: &str = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
const ATEXT: &str = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]";
const BYTE: &str = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const UUID: &str = r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}";
/// What stands in paths, unreserved, escaped or delimiting.
const PCHAR: &str = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})";
const POINTER: &str = r"(?:/(?:[^~/]|~[01])*)*";

/// Formats of numbers that OpenAPI adds; they say nothing that could be enforced, or nothing at all about strings.
pub(super) const NUMERIC: [&str; 8] = ["int8", "int16", "int32", "int64", "uint32", "uint64", "float", "double"];

static FORMATS: LazyLock<Vec<(&str, String)>> = LazyLock::new(|| {
    let ipv4 = format!(r"{BYTE}(?:\.{BYTE}){{3}}");
    let ipv6 = ipv6(&ipv4);
    let authority = format!(
        r"(?:(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{{2}})*@)?(?:\[(?:{ipv6})\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{{2}})*)(?::[0-9]{{0,4}})?"
    );
    let tail = format!(r"(?:\?(?:{PCHAR}|[/?])*)?(?:#(?:{PCHAR}|[/?])*)?");
    let uri = format!(
        r"[A-Za-z][A-Za-z0-9+.-]*:(?://{authority}(?:/{PCHAR}*)*|/(?:{PCHAR}+(?:/{PCHAR}*)*)?|{PCHAR}+(?:/{PCHAR}*)*){tail}"
    );
    let first = PCHAR.replace(":@", "@");
    let relative =
        format!(r"(?://{authority}(?:/{PCHAR}*)*|/(?:{PCHAR}+(?:/{PCHAR}*)*)?|{first}+(?:/{PCHAR}*)*)?{tail}");
    // A host name has at most 253 characters; ten labels of at most 63 letters can have more, so the last are short.
    let hostname = format!(r"{LABEL}(?:\.{LABEL}){{0,2}}(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{{0,10}}[A-Za-z0-9])?){{0,4}}");
    let mut formats = vec![
        ("date", DATE.to_string()),
        ("time", TIME.to_string()),
        ("date-time", format!("{DATE}[Tt]{TIME}")),
        ("duration", DURATION.to_string()),
        ("email", format!(r"{ATEXT}{{1,32}}(?:\.{ATEXT}{{1,15}}){{0,2}}@{hostname}")),
        ("hostname", hostname),
        ("ipv4", ipv4),
        ("ipv6", ipv6),
        ("uuid", UUID.to_string()),
        ("uri-reference", format!("(?:{uri}|{relative})")),
        ("uri", uri),
        ("json-pointer", POINTER.to_string()),
        ("relative-json-pointer", format!("(?:0|[1-9][0-9]*)(?:#|{POINTER})")),
    ];
    for (_, pattern) in &mut formats {
        *pattern = format!("^(?:{pattern})$");
    }
    formats
});

/// RFC 4291's texts: eight groups, or fewer with `::` in the place of those that are 0; the last two may be an IPv4 address.
fn ipv6(ipv4: &str) -> String {
    let group = "[0-9A-Fa-f]{1,4}";
    let last = format!("(?:{group}:{group}|{ipv4})");
    let mut forms = vec![format!("(?:{group}:){{6}}{last}")];
    for before in 0..=7usize {
        let head = match before {
            0 => String::new(),
            n => format!("{group}(?::{group}){{{}}}", n - 1),
        };
        let after = 7 - before;
        if after >= 1 {
            forms.push(format!("{head}::(?:{group}(?::{group}){{0,{}}})?", after - 1));
        } else {
            forms.push(format!("{head}::"));
        }
        if after >= 2 {
            forms.push(format!("{head}::(?:{group}:){{0,{}}}{ipv4}", after - 2));
        }
    }
    format!("(?:{})", forms.join("|"))
}

/// The pattern of a format, if there is one.
pub(super) fn pattern(name: &str) -> Option<&'static str> {
    FORMATS.iter().find(|(known, _)| *known == name).map(|(_, pattern)| pattern.as_str())
}

/// All formats that have one.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FORMATS.iter().map(|(name, _)| *name)
}

/// The numbers of an integer format.
pub(super) fn range(name: &str) -> Option<(i64, i64)> {
    match name {
        "int8" => Some((i64::from(i8::MIN), i64::from(i8::MAX))),
        "int16" => Some((i64::from(i16::MIN), i64::from(i16::MAX))),
        "int32" => Some((i64::from(i32::MIN), i64::from(i32::MAX))),
        "uint32" => Some((0, i64::from(u32::MAX))),
        _ => None,
    }
}
