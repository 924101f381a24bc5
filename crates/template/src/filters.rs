//! jinja2's filters, and the `tojson` that transformers puts in its place.
//!
//! Not here, because no chat template has a use for them: `filesizeformat`, `groupby`, `pprint`, `random`, `striptags`,
//! `urlencode`, `urlize`, `wordwrap` and `xmlattr`.

use crate::access;
use crate::args::{Args, flag, int_or, need, need_str};
use crate::format;
use crate::meter::{Meter, Res, fail};
use crate::methods;
use crate::ops::{self, BinOp, CmpOp};
use crate::tests;
use crate::text::{self, Json, is_space};
use crate::value::{Value, View, sort};
use std::collections::HashSet;
use std::sync::Arc;

/// A filter: what it is applied to, and its arguments.
pub(crate) type Filter = fn(Value, &Args, &Meter) -> Res<Value>;

pub(crate) const FILTERS: &[(&str, Filter)] = &[
    ("abs", abs),
    ("attr", attr),
    ("batch", batch),
    ("capitalize", |v, a, m| method(v, a, m, methods::capitalize)),
    ("center", center),
    ("count", length),
    ("d", default),
    ("default", default),
    ("dictsort", dictsort),
    ("e", escape),
    ("escape", escape),
    ("first", first),
    ("float", to_float),
    ("forceescape", |v, _, m| Ok(Value::Markup(text::escape(&text::str(&v, m)?, m)?.into()))),
    ("format", printf),
    ("indent", indent),
    ("int", to_int),
    ("items", items),
    ("join", join),
    ("last", last),
    ("length", length),
    ("list", |v, _, m| Value::list(v.items(m)?, m)),
    ("lower", |v, a, m| method(v, a, m, str::to_lowercase)),
    ("map", map),
    ("max", |v, a, m| extreme(v, a, m, CmpOp::Gt)),
    ("min", |v, a, m| extreme(v, a, m, CmpOp::Lt)),
    ("reject", |v, a, m| select(v, a, m, false, false)),
    ("rejectattr", |v, a, m| select(v, a, m, true, false)),
    ("replace", replace),
    ("reverse", reverse),
    ("round", round),
    ("safe", |v, _, m| Ok(Value::Markup(text::str(&v, m)?))),
    ("select", |v, a, m| select(v, a, m, false, true)),
    ("selectattr", |v, a, m| select(v, a, m, true, true)),
    ("slice", slice),
    ("sort", sorted),
    ("string", |v, _, m| soft_str(v, m)),
    ("sum", sum),
    ("title", |v, a, m| method(v, a, m, title)),
    ("tojson", tojson),
    ("trim", trim),
    ("truncate", truncate),
    ("unique", unique),
    ("upper", |v, a, m| method(v, a, m, str::to_uppercase)),
    ("wordcount", wordcount),
];

/// The filter of this name.
pub(crate) fn find(name: &str) -> Option<Filter> {
    FILTERS.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
}

/// A string as it is, anything else as `str` gives it.
fn soft_str(value: Value, meter: &Meter) -> Res<Value> {
    if value.as_str().is_some() { Ok(value) } else { Ok(Value::Str(text::str(&value, meter)?)) }
}

fn method(value: Value, args: &Args, meter: &Meter, f: fn(&str) -> String) -> Res<Value> {
    args.bind::<0>("the filter", [])?;
    let text = text::str(&value, meter)?;
    meter.alloc(text.len() * 2)?;
    Ok(value.like(&f(&text)))
}

fn title(s: &str) -> String {
    let starts_word = |c: char| is_space(c) || "-({[<".contains(c);
    let mut out = String::with_capacity(s.len());
    let mut rest = s;
    while !rest.is_empty() {
        let gap = rest.find(|c| !starts_word(c)).unwrap_or(rest.len());
        out.push_str(&rest[..gap]);
        rest = &rest[gap..];
        let end = rest.find(starts_word).unwrap_or(rest.len());
        let head = rest.chars().next().map_or(0, char::len_utf8);
        out.push_str(&rest[..head].to_uppercase());
        out.push_str(&rest[head..end].to_lowercase());
        rest = &rest[end..];
    }
    out
}

fn abs(value: Value, _: &Args, _: &Meter) -> Res<Value> {
    match value {
        Value::Float(f) => Ok(Value::Float(f.abs())),
        _ => match value.as_int().and_then(i128::checked_abs) {
            Some(i) => Ok(Value::Int(i)),
            None => fail(format!("bad operand type for abs(): '{}'", value.type_name())),
        },
    }
}

fn attr(value: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let [name] = args.bind("attr", ["name"])?;
    let name = need_str(name, "attr")?;
    match access::attr(&value, &name, meter)? {
        found @ (Value::Method(_) | Value::Undefined(_)) => Ok(found),
        _ if matches!(value, Value::Dict(_)) => Ok(Value::Undefined(Some(name))),
        found => Ok(found),
    }
}

fn batch(value: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let [size, fill] = args.bind("batch", ["linecount", "fill_with"])?;
    let size = int_or(Some(need(size, "batch")?), 1, "batch")?;
    let Ok(size @ 1..=100_000) = usize::try_from(size) else { return fail("batch wants a size from 1 to 100,000") };
    let mut rows = Vec::new();
    for row in value.items(meter)?.chunks(size) {
        let mut row = row.to_vec();
        if let Some(fill) = fill.as_ref().filter(|f| !matches!(f, Value::None)) {
            meter.alloc(size * size_of::<Value>())?;
            row.resize(size, fill.clone());
        }
        rows.push(Value::list(row, meter)?);
    }
    Value::generator(rows, meter)
}

fn slice(value: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let [count, fill] = args.bind("slice", ["slices", "fill_with"])?;
    let count = int_or(Some(need(count, "slice")?), 1, "slice")?;
    let Ok(count @ 1..=100_000) = usize::try_from(count) else { return fail("slice wants a count from 1 to 100,000") };
    let items = value.items(meter)?;
    let (each, longer) = (items.len() / count, items.len() % count);
    let mut rest = items.into_iter();
    let mut columns = Vec::new();
    for i in 0..count {
        let mut column: Vec<Value> = rest.by_ref().take(each + usize::from(i < longer)).collect();
        if let Some(fill) = fill.as_ref().filter(|f| !matches!(f, Value::None) && i >= longer && longer > 0) {
            column.push(fill.clone());
        }
        columns.push(Value::list(column, meter)?);
    }
    Value::generator(columns, meter)
}

fn center(value: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let [width] = args.bind("center", ["width"])?;
    let args = Args { pos: vec![width.unwrap_or(Value::Int(80))], kw: Vec::new() };
    methods::call(&soft_str(value, meter)?, "center", &args, meter)
}

fn length(value: Value, _: &Args, meter: &Meter) -> Res<Value> {
    meter.scan(value.as_str().map_or(0, |s| s.len()))?;
    match value.len() {
        Some(len) => Ok(Value::Int(len as i128)),
        None => fail(format!("object of type '{}' has no len()", value.type_name())),
    }
}

fn default(value: Value, args: &Args, _: &Meter) -> Res<Value> {
    let [default, boolean] = args.bind("default", ["default_value", "boolean"])?;
    let missing = value.is_undefined() || (flag(&boolean) && !value.truthy());
    Ok(if missing { default.unwrap_or(Value::Str("".into())) } else { value })
}

/// Lower case for strings: sorting ignores case unless told otherwise.
fn ignore_case(value: Value, meter: &Meter) -> Res<Value> {
    match value.as_str() {
        Some(s) => Value::text(s.to_lowercase(), meter),
        None => Ok(value),
    }
}

fn dictsort(value: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let [case, by, reverse] = args.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let by_value = match by.as_ref().and_then(Value::as_str).map(|s| &**s) {
        None if by.is_none() => false,
        Some("key") => false,
        Some("value") => true,
        _ => return fail("You can only sort by either \"key\" or \"value\""),
    };
    let Value::Dict(dict) = &value else { return undefined_or(&value, "dictsort wants a dict") };
    let mut keyed = Vec::new();
    for (key, value) in dict.pairs() {
        let by = if by_value { value } else { key }.clone();
        let by = if flag(&case) { by } else { ignore_case(by, meter)? };
        keyed.push((by, Value::tuple(vec![key.clone(), value.clone()], meter)?));
    }
    Value::list(sort(keyed, flag(&reverse), meter)?.into_iter().map(|(_, pair)| pair).collect(), meter)
}

fn undefined_or<T>(value: &Value, what: &str) -> Res<T> {
    match value {
        Value::Undefined(name) => access::undefined_used(name.as_deref()),
        _ => fail(format!("{what}, not {}", value.type_name())),
    }
}

fn escape(value: Value, _: &Args, meter: &Meter) -> Res<Value> {
    match value {
        Value::Markup(_) => Ok(value),
        _ => {
            let text = text::str(&value, meter)?;
            Ok(Value::Markup(text::escape(&text, meter)?.into()))
        }
    }
}

fn first(value: Value, _: &Args, meter: &Meter) -> Res<Value> {
    let first = match &value {
        Value::Gen(generator) => generator.next(),
        Value::List(seq) | Value::Tuple(seq) => seq.items.first().cloned(),
        _ => value.items(meter)?.into_iter().next(),
    };
    Ok(first.unwrap_or(Value::Undefined(None)))
}

fn last(value: Value, _: &Args, meter: &Meter) -> Res<Value> {
    let last = match &value {
        Value::List(seq) | Value::Tuple(seq) => seq.items.last().cloned(),
        Value::Gen(_) => return fail(format!("'{}' object is not reversible", value.type_name())),
        _ => value.items(meter)?.pop(),
    };
    Ok(last.unwrap_or(Value::Undefined(None)))
}

fn to_float(value: Value, args: &Args, _: &Meter) -> Res<Value> {
    let [default] = args.bind("float", ["default"])?;
    let parsed = match &value {
        Value::Undefined(name) => return access::undefined_used(name.as_deref()),
        _ => value.as_float().or_else(|| value.as_str().and_then(|s| parse_float(s))),
    };
    Ok(parsed.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
}

fn parse_float(s: &str) -> Option<f64> {
    let trimmed = s.trim_matches(is_space).replace('_', "");
    let plain = trimmed.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if plain { trimmed.parse().ok() } else { None }
}

fn to_int(value: Value, args: &Args, _: &Meter) -> Res<Value> {
    let [default, base] = args.bind("int", ["default", "base"])?;
    let base = int_or(base, 10, "int")?;
    let of_float = |f: f64| (f.is_finite() && f.abs() < 1e38).then(|| f.trunc() as i128);
    let parsed = match &value {
        Value::Undefined(name) => return access::undefined_used(name.as_deref()),
        Value::Float(f) if f.is_infinite() => return fail("cannot convert float infinity to integer"),
        Value::Float(f) => of_float(*f),
        _ => match value.as_str() {
            Some(s) => parse_int(s, base).or_else(|| parse_float(s).and_then(of_float)),
            None => value.as_int(),
        },
    };
    Ok(parsed.map_or_else(|| default.unwrap_or(Value::Int(0)), Value::Int))
}

fn parse_int(s: &str, base: i128) -> Option<i128> {
    let s = s.trim_matches(is_space);
    let (negative, digits) = match s.strip_prefix(['-', '+']) {
        Some(digits) => (s.starts_with('-'), digits),
        None => (false, s),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find_map(|(prefix, b)| Some((lower.strip_prefix(prefix)?, b)).filter(|_| base == b || base == 0));
    let (digits, base) = prefixed.unwrap_or((&lower, if base == 0 { 10 } else { base }));
    let tidy = !digits.starts_with(['_', '+', '-']) && !digits.ends_with('_') && !digits.contains("__");
    let radix = u32::try_from(base).ok().filter(|b| (2..=36).contains(b))?;
    let value = i128::from_str_radix(&digits.replace('_', ""), radix).ok().filter(|_| tidy)?;
    Some(if negative { -value } else { value })
}

fn printf(value: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let values = match (args.pos.is_empty(), args.kw.is_empty()) {
        (false, false) => return fail("can't handle positional and keyword arguments at the same time"),
        (_, true) => Value::tuple(args.pos.clone(), meter)?,
        _ => Value::dict(args.kw.iter().map(|(k, v)| (Value::Str(k.clone()), v.clone())), meter)?,
    };
    format::percent(&soft_str(value, meter)?, &values, meter)
}

fn indent(value: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    let Some(text) = value.as_str() else { return undefined_or(&value, "indent wants a string") };
    let width = width.unwrap_or(Value::Int(4));
    let indention = match width.as_str() {
        Some(s) => s.to_string(),
        None => {
            let n = int_or(Some(width), 4, "indent")?.clamp(0, i128::from(u32::MAX)) as usize;
            meter.alloc(n)?;
            " ".repeat(n)
        }
    };
    let with_end = format!("{text}\n");
    let mut out = if flag(&first) { indention.clone() } else { String::new() };
    for (i, line) in methods::lines(&with_end, false).into_iter().enumerate() {
        meter.alloc(indention.len() + line.len() + 1)?;
        if i > 0 {
            out.push('\n');
            out.push_str(if line.is_empty() && !flag(&blank) { "" } else { &indention });
        }
        out.push_str(line);
    }
    Ok(value.like(&out))
}

fn items(value: Value, _: &Args, meter: &Meter) -> Res<Value> {
    let pairs = match &value {
        Value::Undefined(_) => Vec::new(),
        Value::Dict(dict) => Value::View(View::Items, dict.clone()).items(meter)?,
        _ => return fail("Can only get item pairs from a mapping."),
    };
    Value::generator(pairs, meter)
}

fn join(value: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let [separator, attribute] = args.bind("join", ["d", "attribute"])?;
    let separator = separator.map_or(Ok("".into()), |d| text::str(&d, meter))?;
    let path = Path::new(attribute, meter)?;
    let mut out = String::new();
    for (i, item) in value.items(meter)?.into_iter().enumerate() {
        meter.alloc(separator.len())?;
        out.push_str(if i > 0 { &separator } else { "" });
        text::write_str(&mut out, &path.get(item, meter)?, meter)?;
    }
    Ok(Value::Str(out.into()))
}

/// What `attribute="a.b.0"` looks up.
struct Path {
    steps: Vec<Value>,
    default: Option<Value>,
}

impl Path {
    fn new(attribute: Option<Value>, meter: &Meter) -> Res<Self> {
        let mut steps = Vec::new();
        match attribute {
            None | Some(Value::None) => {}
            Some(Value::Int(i)) => steps.push(Value::Int(i)),
            attribute => {
                for part in need_str(attribute, "attribute")?.split('.') {
                    let int = part.parse().ok().filter(|_| part.bytes().all(|b| b.is_ascii_digit()));
                    steps.push(int.map_or_else(|| Value::text(part, meter), |i| Ok(Value::Int(i)))?);
                }
            }
        }
        Ok(Self { steps, default: None })
    }

    fn get(&self, mut value: Value, meter: &Meter) -> Res<Value> {
        for step in &self.steps {
            value = access::item(&value, step, meter)?;
            if let (true, Some(default)) = (value.is_undefined(), &self.default) {
                value = default.clone();
            }
        }
        Ok(value)
    }
}

fn map(value: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let mut out = Vec::new();
    let items = if value.truthy() { value.items(meter)? } else { Vec::new() };
    let by_attribute = args.pos.is_empty() && args.kw.iter().any(|(name, _)| **name == *"attribute");
    if by_attribute {
        let [attribute, default] = args.bind("map", ["attribute", "default"])?;
        let path = Path { default, ..Path::new(attribute, meter)? };
        for item in items {
            out.push(path.get(item, meter)?);
        }
    } else {
        let name = need_str(args.pos.first().cloned(), "map")?;
        let Some(filter) = find(&name) else { return fail(format!("No filter named '{name}'.")) };
        let rest = Args { pos: args.pos.iter().skip(1).cloned().collect(), kw: args.kw.clone() };
        for item in items {
            meter.step(1)?;
            out.push(filter(item, &rest, meter)?);
        }
    }
    Value::generator(out, meter)
}

fn select(value: Value, args: &Args, meter: &Meter, by_attribute: bool, wanted: bool) -> Res<Value> {
    let mut out = Vec::new();
    let mut pos = args.pos.iter().cloned();
    let path = match by_attribute {
        true => Path::new(Some(need(pos.next(), "selectattr")?), meter)?,
        false => Path::new(None, meter)?,
    };
    let test = match pos.next() {
        None => None,
        Some(name) => {
            let name = need_str(Some(name), "select")?;
            match tests::find(&name) {
                Some(test) => Some(test),
                None => return fail(format!("No test named '{name}'.")),
            }
        }
    };
    let rest = Args { pos: pos.collect(), kw: args.kw.clone() };
    let items = if value.truthy() { value.items(meter)? } else { Vec::new() };
    for item in items {
        meter.step(1)?;
        let tested = path.get(item.clone(), meter)?;
        let passes = test.map_or_else(|| Ok(tested.truthy()), |test| test(&tested, &rest, meter))?;
        if passes == wanted {
            out.push(item);
        }
    }
    Value::generator(out, meter)
}

fn extreme(value: Value, args: &Args, meter: &Meter, better: CmpOp) -> Res<Value> {
    let [case, attribute] = args.bind("min or max", ["case_sensitive", "attribute"])?;
    let path = Path::new(attribute, meter)?;
    let mut best: Option<(Value, Value)> = None;
    for item in value.items(meter)? {
        let key = path.get(item.clone(), meter)?;
        let key = if flag(&case) { key } else { ignore_case(key, meter)? };
        let wins = match &best {
            Some((best, _)) => key.compare(better, best, meter)?,
            None => true,
        };
        if wins {
            best = Some((key, item));
        }
    }
    Ok(best.map_or(Value::Undefined(None), |(_, item)| item))
}

fn replace(value: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let [old, new, count] = args.bind("replace", ["old", "new", "count"])?;
    let (old, new) = (text::str(&need(old, "replace")?, meter)?, text::str(&need(new, "replace")?, meter)?);
    let count = int_or(count.filter(|c| !matches!(c, Value::None)), -1, "replace")?;
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    Ok(Value::Str(methods::replace(&text::str(&value, meter)?, &old, &new, most, meter)?.into()))
}

fn reverse(value: Value, _: &Args, meter: &Meter) -> Res<Value> {
    if let Some(s) = value.as_str() {
        meter.alloc(s.len())?;
        return Ok(value.like(&s.chars().rev().collect::<String>()));
    }
    let mut items = value.items(meter)?;
    items.reverse();
    if matches!(value, Value::Gen(_)) { Value::list(items, meter) } else { Value::generator(items, meter) }
}

fn round(value: Value, args: &Args, _: &Meter) -> Res<Value> {
    let [precision, method] = args.bind("round", ["precision", "method"])?;
    let precision = int_or(precision, 0, "round")?.clamp(-300, 300) as i32;
    let Some(f) = value.as_float() else { return undefined_or(&value, "round wants a number") };
    let method = method.map_or(Ok("common".into()), |m| need_str(Some(m), "round"))?;
    let scale = 10f64.powi(precision);
    Ok(match (&*method, &value) {
        ("ceil", _) => Value::Float((f * scale).ceil() / scale),
        ("floor", _) => Value::Float((f * scale).floor() / scale),
        ("common", Value::Float(_)) if precision >= 0 => {
            Value::Float(format!("{f:.*}", precision as usize).parse().unwrap_or(f))
        }
        ("common", Value::Float(_)) => Value::Float((f * scale).round_ties_even() / scale),
        ("common", _) if precision >= 0 => value,
        ("common", _) => Value::Int(((f * scale).round_ties_even() / scale) as i128),
        _ => return fail("method must be common, ceil or floor"),
    })
}

fn sorted(value: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let [reverse, case, attribute] = args.bind("sort", ["reverse", "case_sensitive", "attribute"])?;
    let mut paths = Vec::new();
    match &attribute {
        Some(Value::Str(s) | Value::Markup(s)) => {
            for part in s.split(',') {
                paths.push(Path::new(Some(Value::text(part, meter)?), meter)?);
            }
        }
        _ => paths.push(Path::new(attribute, meter)?),
    }
    let mut keyed = Vec::new();
    for item in value.items(meter)? {
        let mut keys = Vec::new();
        for path in &paths {
            let key = path.get(item.clone(), meter)?;
            keys.push(if flag(&case) { key } else { ignore_case(key, meter)? });
        }
        keyed.push((Value::list(keys, meter)?, item));
    }
    Value::list(sort(keyed, flag(&reverse), meter)?.into_iter().map(|(_, item)| item).collect(), meter)
}

fn sum(value: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let [attribute, start] = args.bind("sum", ["attribute", "start"])?;
    let path = Path::new(attribute, meter)?;
    let mut total = start.unwrap_or(Value::Int(0));
    for item in value.items(meter)? {
        total = ops::binary(BinOp::Add, &total, &path.get(item, meter)?, meter)?;
    }
    Ok(total)
}

/// As transformers defines it: `json.dumps` without the HTML escapes of jinja2's own.
fn tojson(value: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let [ascii, indent, separators, sort_keys] =
        args.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(indent) => Some(match indent.as_str() {
            Some(s) => s.to_string(),
            None => " ".repeat(int_or(Some(indent), 0, "tojson")?.clamp(0, 1000) as usize),
        }),
    };
    let [item_separator, key_separator] = match separators {
        None | Some(Value::None) => [if indent.is_none() { ", " } else { "," }.into(), ": ".into()],
        Some(pair) => match pair.items(meter)?.as_slice() {
            [item, key] => [need_text(item)?, need_text(key)?],
            _ => return fail("separators are two strings"),
        },
    };
    let json = Json { ascii: flag(&ascii), indent, item_separator, key_separator, sort_keys: flag(&sort_keys) };
    let mut out = String::new();
    json.write(&mut out, &value, 0, meter)?;
    Ok(Value::Str(out.into()))
}

fn need_text(value: &Value) -> Res<String> {
    need_str(Some(value.clone()), "separators").map(|s: Arc<str>| s.to_string())
}

fn trim(value: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let [chars] = args.bind("trim", ["chars"])?;
    let text = text::str(&value, meter)?;
    meter.alloc(text.len())?;
    Ok(value.like(methods::strip(&text, "strip", chars)?))
}

fn truncate(value: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let [length, kill, end, leeway] = args.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let Some(text) = value.as_str() else { return undefined_or(&value, "truncate wants a string") };
    let end = end.map_or(Ok("...".into()), |end| need_str(Some(end), "truncate"))?;
    let (length, leeway) = (int_or(length, 255, "truncate")?, int_or(leeway, 5, "truncate")?);
    let keep = length - end.chars().count() as i128;
    if keep < 0 || leeway < 0 {
        return fail("truncate: the length is shorter than the end mark");
    }
    meter.alloc(text.len())?;
    if text.chars().count() as i128 <= length.saturating_add(leeway) {
        return Ok(value);
    }
    let cut: String = text.chars().take(usize::try_from(keep).unwrap_or(usize::MAX)).collect();
    let cut = if flag(&kill) { &cut } else { cut.rsplit_once(' ').map_or(&*cut, |(head, _)| head) };
    Ok(value.like(&format!("{cut}{end}")))
}

fn unique(value: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let [case, attribute] = args.bind("unique", ["case_sensitive", "attribute"])?;
    let path = Path::new(attribute, meter)?;
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    for item in value.items(meter)? {
        let key = path.get(item.clone(), meter)?;
        let key = if flag(&case) { key } else { ignore_case(key, meter)? };
        if seen.insert(key.key(meter)?) {
            out.push(item);
        }
    }
    Value::generator(out, meter)
}

fn wordcount(value: Value, _: &Args, meter: &Meter) -> Res<Value> {
    let text = text::str(&value, meter)?;
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    Ok(Value::Int(text.split(|c| !is_word(c)).filter(|w| !w.is_empty()).count() as i128))
}
