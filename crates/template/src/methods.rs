//! The methods of Python's strings, dicts, lists and tuples.

use crate::args::{Args, flag, int_or, need, need_str};
use crate::format;
use crate::meter::{Meter, Res, fail};
use crate::text::{self, is_space};
use crate::value::{Value, View};
use std::sync::Arc;

/// Calls the method of this name, which `access::attr` has found.
pub(crate) fn call(of: &Value, name: &str, args: &Args, meter: &Meter) -> Res<Value> {
    match of {
        Value::Str(s) | Value::Markup(s) => string(of, s, name, args, meter),
        Value::Dict(dict) => match name {
            "items" | "keys" | "values" => {
                args.bind::<0>(name, [])?;
                let view = match name {
                    "items" => View::Items,
                    "keys" => View::Keys,
                    _ => View::Values,
                };
                Ok(Value::View(view, dict.clone()))
            }
            "get" => {
                let [key, default] = args.bind(name, ["", ""])?;
                Ok(dict.get(&need(key, name)?, meter)?.cloned().or(default).unwrap_or(Value::None))
            }
            "copy" => Ok(of.clone()),
            _ => unsupported(of, name),
        },
        Value::List(seq) | Value::Tuple(seq) => match name {
            "copy" => Ok(of.clone()),
            "count" | "index" => {
                let [wanted, start, stop] = args.bind(name, ["", "", ""])?;
                let wanted = need(wanted, name)?;
                let (start, stop) = (bound(start, 0, seq.items.len())?, bound(stop, i128::MAX, seq.items.len())?);
                let mut count = 0;
                for (i, item) in seq.items.iter().enumerate().take(stop).skip(start) {
                    if item.equals(&wanted, meter)? {
                        if name == "index" {
                            return Ok(Value::Int(i as i128));
                        }
                        count += 1;
                    }
                }
                if name == "index" { fail("the value is not in the list") } else { Ok(Value::Int(count)) }
            }
            _ => unsupported(of, name),
        },
        Value::Float(f) if name == "is_integer" => Ok(Value::Bool(f.fract() == 0.0)),
        _ => unsupported(of, name),
    }
}

fn unsupported<T>(of: &Value, name: &str) -> Res<T> {
    fail(format!("the method {}.{name} is not supported in chat templates", of.type_name()))
}

/// A slice bound of Python's as a place in a sequence.
fn bound(value: Option<Value>, default: i128, len: usize) -> Res<usize> {
    let at = match value {
        Some(Value::None) | None => default,
        value => int_or(value, default, "a bound")?,
    };
    let at = if at < 0 { at.saturating_add(len as i128) } else { at };
    Ok(at.clamp(0, len as i128) as usize)
}

/// The part of `s` between two character positions, and the first position.
fn between(s: &str, start: Option<Value>, stop: Option<Value>) -> Res<Option<(&str, usize)>> {
    if start.is_none() && stop.is_none() {
        return Ok(Some((s, 0)));
    }
    let count = s.chars().count();
    let too_far = start.as_ref().and_then(Value::as_int).is_some_and(|start| start > count as i128);
    let (start, stop) = (bound(start, 0, count)?, bound(stop, i128::MAX, count)?);
    if start > stop || too_far {
        return Ok(None);
    }
    let byte = |chars: usize| s.char_indices().nth(chars).map_or(s.len(), |(i, _)| i);
    Ok(s.get(byte(start)..byte(stop)).map(|part| (part, start)))
}

fn string(of: &Value, s: &Arc<str>, name: &str, args: &Args, meter: &Meter) -> Res<Value> {
    meter.scan(s.len())?;
    let like = |text: &str| -> Res<Value> {
        meter.alloc(text.len() + 16)?;
        Ok(of.like(text))
    };
    let likes =
        |parts: Vec<&str>| -> Res<Value> { Value::list(parts.into_iter().map(like).collect::<Res<_>>()?, meter) };
    let none = || args.bind::<0>(name, []);
    // Every character passes, and there is one.
    let all = |test: fn(char) -> bool| -> Res<Value> {
        none()?;
        Ok(Value::Bool(!s.is_empty() && s.chars().all(test)))
    };
    match name {
        "upper" => none().and_then(|_| like(&s.to_uppercase())),
        "lower" => none().and_then(|_| like(&s.to_lowercase())),
        "casefold" => none().and_then(|_| like(&s.to_lowercase().replace('ß', "ss"))),
        "capitalize" => none().and_then(|_| like(&capitalize(s))),
        "title" => none().and_then(|_| like(&title(s))),
        "swapcase" => {
            let swap =
                |c: char| if c.is_uppercase() { c.to_lowercase().to_string() } else { c.to_uppercase().to_string() };
            none().and_then(|_| like(&s.chars().map(swap).collect::<String>()))
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.bind(name, [""])?;
            strip(s, name, chars).and_then(like)
        }
        "startswith" | "endswith" => {
            let [affix, start, stop] = args.bind(name, ["", "", ""])?;
            let affix = need(affix, name)?;
            let affixes = match &affix {
                Value::Tuple(seq) => seq.items.clone(),
                _ => vec![affix],
            };
            let part = between(s, start, stop)?;
            for affix in affixes {
                let affix = need_str(Some(affix), name)?;
                let has = |(part, _): (&str, _)| {
                    if name == "startswith" { part.starts_with(&*affix) } else { part.ends_with(&*affix) }
                };
                if part.is_some_and(has) {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        "find" | "index" | "rfind" | "rindex" => {
            let [wanted, start, stop] = args.bind(name, ["", "", ""])?;
            let wanted = need_str(wanted, name)?;
            let found = between(s, start, stop)?.and_then(|(part, start)| {
                let at = if name.starts_with('r') { part.rfind(&*wanted) } else { part.find(&*wanted) };
                at.map(|at| start + part[..at].chars().count())
            });
            match found {
                Some(at) => Ok(Value::Int(at as i128)),
                None if name.ends_with("find") => Ok(Value::Int(-1)),
                None => fail("substring not found"),
            }
        }
        "count" => {
            let [wanted, start, stop] = args.bind(name, ["", "", ""])?;
            let wanted = need_str(wanted, name)?;
            let count = between(s, start, stop)?.map_or(0, |(part, _)| part.matches(&*wanted).count());
            Ok(Value::Int(count as i128))
        }
        "replace" => {
            let [old, new, count] = args.bind(name, ["", "", "count"])?;
            let (old, mut new) = (need_str(old, name)?, need(new, name)?);
            if let (Value::Markup(_), Value::Str(text)) = (of, &new) {
                new = Value::Str(text::escape(text, meter)?.into());
            }
            let new = need_str(Some(new), name)?;
            let count = int_or(count, -1, name)?;
            let most = usize::try_from(count).unwrap_or(usize::MAX);
            like(&replace(s, &old, &new, most, meter)?)
        }
        "split" | "rsplit" => {
            let [sep, most] = args.bind(name, ["sep", "maxsplit"])?;
            let most = usize::try_from(int_or(most, -1, name)?).unwrap_or(usize::MAX).saturating_add(1);
            match sep {
                None | Some(Value::None) => likes(split_space(s, most, name == "rsplit")),
                sep => {
                    let sep = need_str(sep, name)?;
                    if sep.is_empty() {
                        return fail("empty separator");
                    }
                    if name == "split" {
                        return likes(s.splitn(most, &*sep).collect());
                    }
                    let mut parts: Vec<&str> = s.rsplitn(most, &*sep).collect();
                    parts.reverse();
                    likes(parts)
                }
            }
        }
        "splitlines" => {
            let [keep] = args.bind(name, ["keepends"])?;
            likes(lines(s, flag(&keep)))
        }
        "partition" | "rpartition" => {
            let [sep] = args.bind(name, [""])?;
            let sep = need_str(sep, name)?;
            let parts = if name == "partition" { s.split_once(&*sep) } else { s.rsplit_once(&*sep) };
            let parts = match parts {
                _ if sep.is_empty() => return fail("empty separator"),
                Some((left, right)) => [left, &*sep, right],
                None if name == "partition" => [s, "", ""],
                None => ["", "", s],
            };
            Value::tuple(parts.into_iter().map(like).collect::<Res<_>>()?, meter)
        }
        "join" => {
            let [items] = args.bind(name, [""])?;
            let mut out = String::new();
            for (i, item) in need(items, name)?.items(meter)?.iter().enumerate() {
                let Some(part) = item.as_str() else {
                    return fail(format!("sequence item {i}: expected str instance, {} found", item.type_name()));
                };
                meter.alloc(s.len() + part.len())?;
                out.push_str(if i > 0 { s } else { "" });
                match (of, item) {
                    (Value::Markup(_), Value::Str(part)) => out.push_str(&text::escape(part, meter)?),
                    _ => out.push_str(part),
                }
            }
            like(&out)
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = args.bind(name, [""])?;
            let affix = need_str(affix, name)?;
            let cut = if name == "removeprefix" { s.strip_prefix(&*affix) } else { s.strip_suffix(&*affix) };
            like(cut.unwrap_or(s))
        }
        "center" | "ljust" | "rjust" | "zfill" => {
            let [width, fill] = args.bind(name, ["", ""])?;
            let width = int_or(Some(need(width, name)?), 0, name)?;
            let fill = fill.map_or(Ok(" ".into()), |fill| need_str(Some(fill), name))?;
            if fill.chars().count() != 1 {
                return fail("the fill character must be exactly one character long");
            }
            like(&justify(s, name, width, &fill, meter)?)
        }
        "expandtabs" => {
            let [size] = args.bind(name, ["tabsize"])?;
            let size = usize::try_from(int_or(size, 8, name)?).unwrap_or(0).min(1000);
            let mut out = String::new();
            let mut column = 0;
            for c in s.chars() {
                meter.alloc(if c == '\t' { size } else { 0 })?;
                let wide = match c {
                    '\t' if size == 0 => continue,
                    '\t' => size - column % size,
                    _ => 1,
                };
                out.extend(std::iter::repeat_n(if c == '\t' { ' ' } else { c }, wide));
                column = if matches!(c, '\n' | '\r') { 0 } else { column + wide };
            }
            like(&out)
        }
        "format" => format::braces(of, &args.pos, &args.kw, meter),
        "format_map" => {
            let [map] = args.bind(name, [""])?;
            let Value::Dict(dict) = need(map, name)? else { return fail("format_map wants a dict") };
            let named: Vec<_> = dict.pairs().filter_map(|(k, v)| Some((k.as_str()?.clone(), v.clone()))).collect();
            format::braces(of, &[], &named, meter)
        }
        "isspace" => all(is_space),
        "isdigit" | "isdecimal" | "isnumeric" => all(char::is_numeric),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isascii" => Ok(Value::Bool(s.is_ascii())),
        "islower" => Ok(Value::Bool(s.chars().any(char::is_lowercase) && !s.chars().any(char::is_uppercase))),
        "isupper" => Ok(Value::Bool(s.chars().any(char::is_uppercase) && !s.chars().any(char::is_lowercase))),
        "istitle" => Ok(Value::Bool(s.chars().any(is_cased) && title(s) == **s)),
        "isidentifier" => {
            let starts = s.starts_with(|c: char| c.is_alphabetic() || c == '_');
            Ok(Value::Bool(starts && s.chars().all(|c| c.is_alphanumeric() || c == '_')))
        }
        "isprintable" => {
            Ok(Value::Bool(!text::repr(&Value::Str(s.replace(['\'', '"', '\\'], "").into()), meter)?.contains('\\')))
        }
        _ => unsupported(of, name),
    }
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

/// `str.replace` with at most so many replacements, paid for before it is made.
pub(crate) fn replace(s: &str, old: &str, new: &str, most: usize, meter: &Meter) -> Res<String> {
    let count = s.matches(old).count().min(most);
    meter.alloc(s.len() + count.saturating_mul(new.len()))?;
    Ok(s.replacen(old, new, most))
}

/// `strip`, `lstrip` or `rstrip`, of white space or the given characters.
pub(crate) fn strip<'s>(s: &'s str, name: &str, chars: Option<Value>) -> Res<&'s str> {
    let set = match chars {
        None | Some(Value::None) => None,
        chars => Some(need_str(chars, name)?),
    };
    let drop = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(c));
    Ok(match name {
        "lstrip" => s.trim_start_matches(drop),
        "rstrip" => s.trim_end_matches(drop),
        _ => s.trim_matches(drop),
    })
}

pub(crate) fn capitalize(s: &str) -> String {
    let mut chars = s.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    // Behind a character, so that a final sigma is seen as one.
    let lower = s.to_lowercase();
    let skipped = s.chars().next().map_or(0, |c| c.to_lowercase().map(char::len_utf8).sum());
    first + lower.get(skipped..).unwrap_or("")
}

fn title(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    let mut in_word = false;
    for c in s.chars() {
        if in_word {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        in_word = is_cased(c);
    }
    out
}

/// Python's `str.splitlines`.
pub(crate) fn lines(s: &str, keep_ends: bool) -> Vec<&str> {
    let is_end =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut out = Vec::new();
    let mut rest = s;
    while let Some(at) = rest.find(is_end) {
        let width =
            if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        out.push(&rest[..if keep_ends { at + width } else { at }]);
        rest = &rest[at + width..];
    }
    if !rest.is_empty() {
        out.push(rest);
    }
    out
}

/// `split()` or `rsplit()` at white space, into at most so many parts.
fn split_space(s: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = if from_right { s.trim_end_matches(is_space) } else { s.trim_start_matches(is_space) };
    while !rest.is_empty() {
        let end = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(end) = end.filter(|_| parts.len() + 1 < most) else {
            parts.push(rest);
            break;
        };
        let width = rest[end..].chars().next().map_or(1, char::len_utf8);
        if from_right {
            parts.push(&rest[end + width..]);
            rest = rest[..end].trim_end_matches(is_space);
        } else {
            parts.push(&rest[..end]);
            rest = rest[end..].trim_start_matches(is_space);
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

fn justify(s: &str, name: &str, width: i128, fill: &str, meter: &Meter) -> Res<String> {
    let missing = usize::try_from(width - s.chars().count() as i128).unwrap_or(0);
    meter.alloc(s.len().saturating_add(missing.saturating_mul(fill.len())))?;
    let fill = |n: usize| fill.repeat(n);
    Ok(match name {
        "ljust" => format!("{s}{}", fill(missing)),
        "rjust" => format!("{}{s}", fill(missing)),
        "zfill" => {
            let (sign, digits) = s.split_at(usize::from(s.starts_with(['+', '-'])));
            format!("{sign}{}{digits}", "0".repeat(missing))
        }
        _ => {
            // Python puts the odd one left if the width is odd, else right.
            let left = missing / 2 + (missing & 1 & usize::from(width % 2 != 0));
            format!("{}{s}{}", fill(left), fill(missing - left))
        }
    })
}
