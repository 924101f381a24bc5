//! Python's two ways to format: `'%s' % x` and `'{}'.format(x)`, with the specifications that both share.
//!
//! Source: the Python library reference, "Format String Syntax" and "printf-style String Formatting".

use crate::access;
use crate::meter::{Meter, Res, fail};
use crate::text;
use crate::value::Value;
use std::sync::Arc;

/// Widths and precisions above this are refused.
const MAX_WIDTH: usize = 100_000;

/// `[[fill]align][sign][#][0][width][grouping][.precision][type]`
#[derive(Default)]
struct Spec {
    fill: Option<char>,
    /// One of `<>=^`.
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

type Chars<'s> = std::iter::Peekable<std::str::Chars<'s>>;

fn number(chars: &mut Chars<'_>) -> Res<Option<usize>> {
    let mut n = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        chars.next();
        let value = n.unwrap_or(0) * 10 + digit as usize;
        if value > MAX_WIDTH {
            return fail(format!("a width or precision is above {MAX_WIDTH}"));
        }
        n = Some(value);
    }
    Ok(n)
}

/// Python's `format(value, spec)`.
fn format_value(value: &Value, spec: &str, meter: &Meter) -> Res<String> {
    if spec.is_empty() {
        let mut out = String::new();
        text::write_str(&mut out, value, meter)?;
        return Ok(out);
    }
    let is_align = |c: &char| "<>=^".contains(*c);
    let mut parsed = Spec::default();
    let mut chars = spec.chars().peekable();
    let (first, second) = (spec.chars().next(), spec.chars().nth(1));
    if second.as_ref().is_some_and(is_align) {
        (parsed.fill, parsed.align) = (first, second);
        chars.nth(1);
    } else if first.as_ref().is_some_and(is_align) {
        parsed.align = chars.next();
    }
    parsed.sign = chars.next_if(|c| "+- ".contains(*c));
    parsed.alternate = chars.next_if_eq(&'#').is_some();
    if chars.next_if_eq(&'0').is_some() && parsed.align.is_none() {
        (parsed.fill, parsed.align) = (Some('0'), Some('='));
    }
    parsed.width = number(&mut chars)?.unwrap_or(0);
    parsed.grouping = chars.next_if(|c| ",_".contains(*c));
    if chars.next_if_eq(&'.').is_some() {
        parsed.precision = number(&mut chars)?;
    }
    parsed.kind = chars.next();
    if chars.next().is_some() {
        return fail(format!("invalid format specifier '{spec}'"));
    }
    parsed.apply(value, meter)
}

impl Spec {
    fn apply(&self, value: &Value, meter: &Meter) -> Res<String> {
        meter.alloc(self.width + self.precision.unwrap_or(0))?;
        let kind = self.kind.unwrap_or(match value {
            Value::Str(_) | Value::Markup(_) => 's',
            Value::Float(_) => ' ',
            _ => 'd',
        });
        match (value, kind) {
            (Value::Str(s) | Value::Markup(s), 's') => {
                meter.alloc(s.len())?;
                let cut: String = s.chars().take(self.precision.unwrap_or(usize::MAX)).collect();
                Ok(self.pad("", cut, '<'))
            }
            (Value::Int(_) | Value::Bool(_), 'd' | 'n' | 'b' | 'o' | 'x' | 'X' | 'c') => {
                let i = value.as_int().unwrap_or(0);
                let size = i.unsigned_abs();
                let (prefix, digits) = match kind {
                    'b' => ("0b", format!("{size:b}")),
                    'o' => ("0o", format!("{size:o}")),
                    'x' => ("0x", format!("{size:x}")),
                    'X' => ("0X", format!("{size:X}")),
                    'c' => match u32::try_from(i).ok().and_then(char::from_u32) {
                        Some(c) => return Ok(self.pad("", c.to_string(), '<')),
                        None => return fail("%c arg not in range(0x110000)"),
                    },
                    _ => ("", size.to_string()),
                };
                let prefix = if self.alternate { prefix } else { "" };
                Ok(self.pad(&format!("{}{prefix}", self.sign(i < 0)), self.group(digits), '>'))
            }
            (Value::Int(_) | Value::Bool(_) | Value::Float(_), ' ' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%' | 'n') => {
                let f = value.as_float().unwrap_or(0.0);
                Ok(self.pad(self.sign(f.is_sign_negative()), self.group(self.float(f.abs(), kind)), '>'))
            }
            (Value::None | Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Undefined(_), _) => {
                fail(format!("unsupported format string passed to {}.__format__", value.type_name()))
            }
            _ => fail(format!("unknown format code '{kind}' for object of type '{}'", value.type_name())),
        }
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.sign) {
            (true, _) => "-",
            (_, Some('+')) => "+",
            (_, Some(' ')) => " ",
            _ => "",
        }
    }

    /// The digits of a number that is not negative.
    fn float(&self, f: f64, kind: char) -> String {
        if !f.is_finite() {
            let name = if f.is_nan() { "nan" } else { "inf" };
            return if kind.is_uppercase() { name.to_uppercase() } else { name.into() };
        }
        let precision = self.precision.unwrap_or(6);
        let text = match kind.to_ascii_lowercase() {
            'f' => format!("{f:.precision$}"),
            '%' => format!("{:.precision$}%", f * 100.0),
            'e' => python_exponent(&format!("{f:.precision$e}")),
            ' ' if self.precision.is_none() => text::float(f),
            _ => {
                // `g`: the shorter of the two notations, without zeros at the end.
                let digits = precision.max(1);
                let scientific = format!("{f:.*e}", digits - 1);
                let exponent: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
                let most = digits as i32 - i32::from(kind == ' ');
                if exponent < -4 || exponent >= most {
                    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
                    python_exponent(&format!("{}e{exponent}", self.trimmed(mantissa)))
                } else {
                    let plain = format!("{f:.*}", (digits as i32 - 1 - exponent).max(0) as usize);
                    let plain = self.trimmed(&plain);
                    if kind == ' ' && !plain.contains('.') { plain + ".0" } else { plain }
                }
            }
        };
        if kind.is_uppercase() { text.to_uppercase() } else { text }
    }

    fn trimmed(&self, digits: &str) -> String {
        let trim = digits.contains('.') && !self.alternate;
        if trim { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }.into()
    }

    /// Thousands apart, if asked for.
    fn group(&self, digits: String) -> String {
        let Some(mark) = self.grouping else { return digits };
        let whole = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
        let mut out = String::new();
        for (i, c) in digits.chars().enumerate() {
            if i > 0 && i < whole && (whole - i) % 3 == 0 {
                out.push(mark);
            }
            out.push(c);
        }
        out
    }

    fn pad(&self, sign: &str, body: String, default: char) -> String {
        let missing = self.width.saturating_sub(sign.chars().count() + body.chars().count());
        let fill = |n: usize| String::from_iter(std::iter::repeat_n(self.fill.unwrap_or(' '), n));
        match self.align.unwrap_or(default) {
            '<' => format!("{sign}{body}{}", fill(missing)),
            '=' => format!("{sign}{}{body}", fill(missing)),
            '^' => format!("{}{sign}{body}{}", fill(missing / 2), fill(missing - missing / 2)),
            _ => format!("{}{sign}{body}", fill(missing)),
        }
    }
}

/// Rust's `1e5` as Python's `1e+05`.
fn python_exponent(text: &str) -> String {
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text.into(),
    }
}

/// What a conversion writes: escaped if the format is markup.
fn convert(value: &Value, conversion: char, markup: bool, meter: &Meter) -> Res<Value> {
    let mut text = String::new();
    match conversion {
        'r' | 'a' => text = text::repr(value, meter)?,
        _ => text::write_str(&mut text, value, meter)?,
    }
    let safe = !markup || (conversion == 's' && matches!(value, Value::Markup(_)));
    Value::text(if safe { text } else { text::escape(&text, meter)? }, meter)
}

/// `format % values`: a tuple gives several values, a dict gives named ones.
pub(crate) fn percent(format: &Value, values: &Value, meter: &Meter) -> Res<Value> {
    let Some(text) = format.as_str() else { return fail("only a string can be formatted") };
    let markup = matches!(format, Value::Markup(_));
    let mut positional = match values {
        Value::Tuple(seq) => seq.items.clone(),
        _ => vec![values.clone()],
    }
    .into_iter();
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    let mut named = false;
    meter.alloc(text.len())?;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut given = None;
        if chars.next_if_eq(&'(').is_some() {
            let name: String = chars.by_ref().take_while(|c| *c != ')').collect();
            let Value::Dict(dict) = values else { return fail("format requires a mapping") };
            let Some(value) = dict.get_str(&name.as_str().into()) else { return fail(format!("no key '{name}'")) };
            (given, named) = (Some(value.clone()), true);
        }
        let mut spec = Spec::default();
        let mut zero = false;
        while let Some(flag) = chars.next_if(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => spec.align = Some('<'),
                '#' => spec.alternate = true,
                '0' => zero = true,
                sign if spec.sign != Some('+') => spec.sign = Some(sign),
                _ => {}
            }
        }
        let mut star_or_number = |chars: &mut Chars<'_>| match chars.next_if_eq(&'*') {
            None => number(chars),
            Some(_) => match positional.next().and_then(|v| v.as_int()) {
                Some(n) if (0..=MAX_WIDTH as i128).contains(&n) => Ok(Some(n as usize)),
                _ => fail("`*` wants a small positive integer"),
            },
        };
        spec.width = star_or_number(&mut chars)?.unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(star_or_number(&mut chars)?.unwrap_or(0));
        }
        while chars.next_if(|c| "hlL".contains(*c)).is_some() {}
        let Some(kind) = chars.next() else { return fail("incomplete format") };
        if kind == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = given.or_else(|| positional.next()) else {
            return fail("not enough arguments for format string");
        };
        if zero && spec.align.is_none() && !"srac".contains(kind) {
            (spec.fill, spec.align) = (Some('0'), Some('='));
        }
        spec.align = spec.align.or(Some('>'));
        let value = match kind {
            's' | 'r' | 'a' => {
                spec.kind = Some('s');
                convert(&value, kind, markup, meter)?
            }
            'd' | 'i' | 'u' => {
                spec.kind = Some('d');
                match value {
                    Value::Float(f) if f.is_finite() => Value::Int(f.trunc() as i128),
                    value => value,
                }
            }
            'c' => match value.as_str() {
                Some(s) if s.chars().count() == 1 => value,
                Some(_) => return fail("%c requires int or char"),
                None => {
                    spec.kind = Some('c');
                    value
                }
            },
            'x' | 'X' | 'o' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                spec.kind = Some(kind);
                value
            }
            _ => return fail(format!("unsupported format character '{kind}'")),
        };
        if !"src".contains(kind) && kind != 'a' && value.as_float().is_none() {
            return fail(format!("%{kind} format: a number is required, not {}", value.type_name()));
        }
        out.push_str(&spec.apply(&value, meter)?);
    }
    let leftover = positional.next().is_some();
    if leftover && !named && !matches!(values, Value::Dict(_) | Value::List(_)) {
        return fail("not all arguments converted during string formatting");
    }
    Ok(format.like(&out))
}

/// `format.format(*pos, **kw)`, with attributes and items looked up as templates do.
pub(crate) fn braces(format: &Value, pos: &[Value], kw: &[(Arc<str>, Value)], meter: &Meter) -> Res<Value> {
    let Some(text) = format.as_str() else { return fail("only a string can be formatted") };
    let mut out = String::new();
    let mut auto = 0;
    write_braces(&mut out, text, &mut auto, &Given { pos, kw, markup: matches!(format, Value::Markup(_)) }, 2, meter)?;
    Ok(format.like(&out))
}

struct Given<'a> {
    pos: &'a [Value],
    kw: &'a [(Arc<str>, Value)],
    markup: bool,
}

fn write_braces(
    out: &mut String,
    text: &str,
    auto: &mut usize,
    given: &Given<'_>,
    depth: usize,
    meter: &Meter,
) -> Res<()> {
    meter.alloc(text.len())?;
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if from.starts_with("{{") || from.starts_with("}}") {
            out.push_str(&from[..1]);
            rest = &from[2..];
            continue;
        }
        // The field ends at the brace that closes it: its specification may hold fields.
        let mut open = 0;
        let end = from.char_indices().find_map(|(i, c)| {
            open += i32::from(c == '{') - i32::from(c == '}');
            (open == 0).then_some(i)
        });
        let Some(end) = end.filter(|_| from.starts_with('{')) else {
            return fail("a format string has a single brace");
        };
        let field = &from[1..end];
        rest = &from[end + 1..];
        let (field, spec) = field.split_once(':').unwrap_or((field, ""));
        let (name, conversion) = field.split_once('!').unwrap_or((field, ""));
        let value = field_value(name, auto, given, meter)?;
        let mut whole_spec = String::new();
        if depth == 0 {
            return fail("max string recursion exceeded");
        }
        write_braces(&mut whole_spec, spec, auto, given, depth - 1, meter)?;
        let value = match conversion {
            "" => value,
            "r" | "s" | "a" => convert(&value, conversion.chars().next().unwrap_or('s'), false, meter)?,
            _ => return fail(format!("unknown conversion specifier '{conversion}'")),
        };
        let written = format_value(&value, &whole_spec, meter)?;
        let escape = given.markup && !matches!(value, Value::Markup(_));
        out.push_str(&if escape { text::escape(&written, meter)? } else { written });
    }
    out.push_str(rest);
    Ok(())
}

fn field_value(name: &str, auto: &mut usize, given: &Given<'_>, meter: &Meter) -> Res<Value> {
    let end = name.find(['.', '[']).unwrap_or(name.len());
    let (first, mut rest) = name.split_at(end);
    let mut value = if first.is_empty() || first.bytes().all(|b| b.is_ascii_digit()) {
        let index = first.parse().unwrap_or(*auto);
        *auto += usize::from(first.is_empty());
        given.pos.get(index).cloned()
    } else {
        given.kw.iter().find(|(key, _)| **key == *first).map(|(_, value)| value.clone())
    };
    while let Some(base) = value.clone() {
        if let Some(tail) = rest.strip_prefix('.') {
            let end = tail.find(['.', '[']).unwrap_or(tail.len());
            value = Some(access::attr(&base, &tail[..end].into(), meter)?);
            rest = &tail[end..];
        } else if let Some((key, tail)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            let index = key.parse().map(Value::Int).unwrap_or_else(|_| Value::Str(key.into()));
            value = Some(access::item(&base, &index, meter)?);
            rest = tail;
        } else {
            return Ok(base);
        }
    }
    fail(format!("no argument for the field '{{{name}}}'"))
}
