//! What stands behind a dot or in brackets: attributes, items and slices, as jinja2's sandbox finds them.

use crate::meter::{Meter, Res, fail};
use crate::value::{Value, range_len};
use std::cmp::Ordering;
use std::sync::Arc;

/// The methods of strings. An attribute of this name is the method, whatever else the value holds.
const STR: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const DICT: &[&str] = &["copy", "fromkeys", "get", "items", "keys", "values"];
const LIST: &[&str] = &["copy", "count", "index"];
const INT: &[&str] = &["as_integer_ratio", "bit_count", "bit_length", "conjugate", "from_bytes", "to_bytes"];
const FLOAT: &[&str] = &["as_integer_ratio", "conjugate", "fromhex", "hex", "is_integer"];
/// Methods that the sandbox does not let templates use: they would change the value.
const UNSAFE_DICT: &[&str] = &["clear", "pop", "popitem", "setdefault", "update"];
const UNSAFE_LIST: &[&str] = &["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];

/// What `getattr` would find, if anything: a method, or a property.
fn own_attr(value: &Value, name: &Arc<str>) -> Option<Value> {
    let (safe, refused): (&[&str], &[&str]) = match value {
        Value::Str(_) | Value::Markup(_) => (STR, &[]),
        Value::Dict(_) => (DICT, UNSAFE_DICT),
        Value::List(_) => (LIST, UNSAFE_LIST),
        Value::Tuple(_) | Value::Range(_) => (&LIST[1..], &[]),
        Value::Int(_) | Value::Bool(_) => (INT, &[]),
        Value::Float(_) => (FLOAT, &[]),
        Value::Namespace(namespace) => {
            return namespace.get(name);
        }
        Value::Foreign(of) => {
            return of
                .get_attr(name)
                .ok()
                .filter(|found| !found.is_undefined())
                .map(|found| Value::from_engine(&found));
        }
        _ => return None,
    };
    if safe.contains(&&**name) {
        return Some(Value::Method(Arc::new((value.clone(), name.clone()))));
    }
    match (&**name, value) {
        _ if refused.contains(&&**name) => Some(Value::Undefined(Some(name.clone()))),
        ("real" | "numerator", Value::Int(_) | Value::Bool(_)) => value.as_int().map(Value::Int),
        ("denominator", Value::Int(_) | Value::Bool(_)) => Some(Value::Int(1)),
        ("imag", Value::Int(_) | Value::Bool(_)) => Some(Value::Int(0)),
        ("real", Value::Float(_)) => Some(value.clone()),
        ("imag", Value::Float(_)) => Some(Value::Float(0.0)),
        _ => None,
    }
}

/// `value.name`: the attribute, else the item of this name, else undefined.
pub(crate) fn attr(value: &Value, name: &Arc<str>, meter: &Meter) -> Res<Value> {
    meter.step(1)?;
    if let Value::Undefined(what) = value {
        return undefined_used(what.as_deref());
    }
    if name.starts_with("__") {
        // Every object has some of these, and the sandbox hands out none.
        return Ok(Value::Undefined(Some(name.clone())));
    }
    let found = own_attr(value, name).or_else(|| match value {
        Value::Dict(dict) => dict.get_str(name).cloned(),
        _ => None,
    });
    Ok(found.unwrap_or_else(|| Value::Undefined(Some(name.clone()))))
}

/// `value[key]`: the item, else the attribute of this name, else undefined.
pub(crate) fn item(value: &Value, key: &Value, meter: &Meter) -> Res<Value> {
    meter.step(1)?;
    let found = match value {
        Value::Undefined(what) => return undefined_used(what.as_deref()),
        Value::Dict(dict) => match key {
            Value::List(_) | Value::Dict(_) => None,
            _ => dict.get(key, meter)?.cloned(),
        },
        Value::List(seq) | Value::Tuple(seq) => index(key, seq.items.len()).and_then(|i| seq.items.get(i).cloned()),
        Value::Str(s) | Value::Markup(s) => {
            meter.scan(s.len())?;
            let at = index(key, s.chars().count()).and_then(|i| s.chars().nth(i));
            at.map(|c| value.like(c.encode_utf8(&mut [0; 4])))
        }
        Value::Range(range) => index(key, range_len(range)).map(|i| Value::Int(range[0] + range[2] * i as i128)),
        _ => None,
    };
    if let Some(found) = found {
        return Ok(found);
    }
    let name = key.as_str().cloned();
    let attr = name.as_ref().filter(|n| !n.starts_with("__")).and_then(|n| own_attr(value, n));
    Ok(attr.unwrap_or(Value::Undefined(name)))
}

/// What an attribute, item or call of something undefined comes to.
pub(crate) fn undefined_used<T>(name: Option<&str>) -> Res<T> {
    match name {
        Some(name) => fail(format!("'{name}' is undefined")),
        None => fail("a value is undefined"),
    }
}

/// A Python index as a place in a sequence of `len` items.
fn index(key: &Value, len: usize) -> Option<usize> {
    let at = key.as_int()?;
    let at = if at < 0 { at + len as i128 } else { at };
    usize::try_from(at).ok().filter(|at| *at < len)
}

/// `value[start:stop:step]`; bounds that are missing are `None`.
pub(crate) fn slice(value: &Value, bounds: [Value; 3], meter: &Meter) -> Res<Value> {
    let mut ints = [None; 3];
    for (int, bound) in ints.iter_mut().zip(&bounds) {
        *int = match bound {
            Value::None => None,
            _ => match bound.as_int() {
                Some(i) => Some(i),
                None => return fail("slice indices must be integers or None"),
            },
        };
    }
    let step = ints[2].unwrap_or(1);
    let places = |len: usize| -> Res<Vec<usize>> {
        let len = len as i128;
        let place = |bound: i128| if bound < 0 { bound.saturating_add(len) } else { bound };
        let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
        let start = ints[0].map_or(if step > 0 { low } else { high }, |b| place(b).clamp(low, high));
        let stop = ints[1].map_or(if step > 0 { high } else { low }, |b| place(b).clamp(low, high));
        let count = match step.cmp(&0) {
            Ordering::Equal => return fail("slice step cannot be zero"),
            _ => range_len(&[start, stop, step]),
        };
        meter.alloc(count * size_of::<usize>())?;
        let at = |i: usize| usize::try_from(start + step.saturating_mul(i as i128)).unwrap_or(usize::MAX);
        Ok((0..count).map(at).collect())
    };
    match value {
        Value::Str(s) | Value::Markup(s) => {
            meter.alloc(s.len() * 4)?;
            let chars: Vec<char> = s.chars().collect();
            let part: String = places(chars.len())?.into_iter().filter_map(|i| chars.get(i)).collect();
            Ok(value.like(&part))
        }
        Value::List(seq) => Value::list(pick(&seq.items, places(seq.items.len())?), meter),
        Value::Tuple(seq) => Value::tuple(pick(&seq.items, places(seq.items.len())?), meter),
        Value::Range(range) => {
            let items = value.items(meter)?;
            Value::list(pick(&items, places(range_len(range))?), meter)
        }
        Value::Undefined(name) => undefined_used(name.as_deref()),
        _ => fail(format!("'{}' object is not subscriptable", value.type_name())),
    }
}

fn pick(items: &[Value], places: Vec<usize>) -> Vec<Value> {
    places.into_iter().filter_map(|i| items.get(i).cloned()).collect()
}
