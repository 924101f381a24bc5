//! Python's operators over values.

use crate::access::{self, undefined_used};
use crate::args::{Args, need, need_str};
use crate::filters::Filter;
use crate::format;
use crate::meter::{Meter, Res, fail};
use crate::text;
use crate::value::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BinOp {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CmpOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

/// The names under which `translate` writes comparisons.
pub(crate) const COMPARISONS: &[(&str, CmpOp)] = &[
    ("_eq", CmpOp::Eq),
    ("_ne", CmpOp::Ne),
    ("_lt", CmpOp::Lt),
    ("_le", CmpOp::Le),
    ("_gt", CmpOp::Gt),
    ("_ge", CmpOp::Ge),
    ("_in", CmpOp::In),
    ("_not_in", CmpOp::NotIn),
];

/// Operators as filters: what `translate` makes of the syntax of expressions.
pub(crate) const OPERATORS: &[(&str, Filter)] = &[
    ("_add", |v, a, m| arithmetic(BinOp::Add, v, a, m)),
    ("_sub", |v, a, m| arithmetic(BinOp::Sub, v, a, m)),
    ("_mul", |v, a, m| arithmetic(BinOp::Mul, v, a, m)),
    ("_div", |v, a, m| arithmetic(BinOp::Div, v, a, m)),
    ("_floordiv", |v, a, m| arithmetic(BinOp::FloorDiv, v, a, m)),
    ("_mod", |v, a, m| arithmetic(BinOp::Mod, v, a, m)),
    ("_pow", |v, a, m| arithmetic(BinOp::Pow, v, a, m)),
    ("_eq", |v, a, m| comparison(CmpOp::Eq, v, a, m)),
    ("_ne", |v, a, m| comparison(CmpOp::Ne, v, a, m)),
    ("_lt", |v, a, m| comparison(CmpOp::Lt, v, a, m)),
    ("_le", |v, a, m| comparison(CmpOp::Le, v, a, m)),
    ("_gt", |v, a, m| comparison(CmpOp::Gt, v, a, m)),
    ("_ge", |v, a, m| comparison(CmpOp::Ge, v, a, m)),
    ("_in", |v, a, m| comparison(CmpOp::In, v, a, m)),
    ("_not_in", |v, a, m| comparison(CmpOp::NotIn, v, a, m)),
    ("_chain", chain),
    ("_neg", |v, _, _| sign(true, &v)),
    ("_pos", |v, _, _| sign(false, &v)),
    ("_cat", concat),
    ("_attr", |v, a, m| access::attr(&v, &need_str(a.pos.first().cloned(), "an attribute")?, m)),
    ("_item", |v, a, m| access::item(&v, &need(a.pos.first().cloned(), "an item")?, m)),
    ("_slice", |v, a, m| match <[Value; 3]>::try_from(a.pos.clone()) {
        Ok(bounds) => access::slice(&v, bounds, m),
        Err(_) => fail("a slice has three bounds"),
    }),
    ("_list", |_, a, m| Value::list(a.pos.clone(), m)),
    ("_tuple", |_, a, m| Value::tuple(a.pos.clone(), m)),
    ("_dict", |_, a, m| {
        let pairs = a.pos.chunks_exact(2).filter_map(|pair| Some((pair.first()?.clone(), pair.get(1)?.clone())));
        Value::dict(pairs, m)
    }),
    ("_iter", |v, _, m| match &v {
        Value::List(seq) | Value::Tuple(seq) => m.step(seq.items.len()).map(|()| v),
        Value::Foreign(_) => Ok(v),
        _ => Value::list(v.items(m)?, m),
    }),
    // What is undefined becomes a value of ours here, so that only what is missing is undefined to the engine.
    ("_arg", |v, _, _| Ok(v)),
    ("_test", |v, a, m| {
        let name = need_str(a.pos.first().cloned(), "a test")?;
        let Some(test) = crate::tests::find(&name) else { return fail(format!("No test named '{name}' found.")) };
        let rest = Args { pos: a.pos.iter().skip(1).cloned().collect(), kw: a.kw.clone() };
        test(&v, &rest, m).map(Value::Bool)
    }),
    ("_missing", |_, a, _| fail(format!("No filter named '{}' found.", need_str(a.pos.first().cloned(), "a filter")?))),
];

fn arithmetic(op: BinOp, left: Value, args: &Args, meter: &Meter) -> Res<Value> {
    binary(op, &left, &need(args.pos.first().cloned(), "an operator")?, meter)
}

fn comparison(op: CmpOp, left: Value, args: &Args, meter: &Meter) -> Res<Value> {
    compare(&left, op, &need(args.pos.first().cloned(), "a comparison")?, meter).map(Value::Bool)
}

/// `a < b <= c`: names of comparisons and what they compare with, alternating.
fn chain(mut left: Value, args: &Args, meter: &Meter) -> Res<Value> {
    for pair in args.pos.chunks_exact(2) {
        let name = need_str(pair.first().cloned(), "a comparison")?;
        let right = need(pair.get(1).cloned(), "a comparison")?;
        let Some((_, op)) = COMPARISONS.iter().find(|(n, _)| *n == &*name) else { return fail("no such comparison") };
        if !compare(&left, *op, &right, meter)? {
            return Ok(Value::Bool(false));
        }
        left = right;
    }
    Ok(Value::Bool(true))
}

fn concat(first: Value, args: &Args, meter: &Meter) -> Res<Value> {
    let mut out = String::new();
    text::write_str(&mut out, &first, meter)?;
    for part in &args.pos {
        text::write_str(&mut out, part, meter)?;
    }
    Value::text(out, meter)
}

/// A comparison; with an undefined side only `==`, `!=` and `in` are allowed.
pub(crate) fn compare(left: &Value, op: CmpOp, right: &Value, meter: &Meter) -> Res<bool> {
    if let (CmpOp::Lt | CmpOp::Le | CmpOp::Gt | CmpOp::Ge, Value::Undefined(name), _)
    | (CmpOp::Lt | CmpOp::Le | CmpOp::Gt | CmpOp::Ge, _, Value::Undefined(name)) = (op, left, right)
    {
        return undefined_used(name.as_deref());
    }
    left.compare(op, right, meter)
}

/// `-x` or `+x`.
pub(crate) fn sign(minus: bool, value: &Value) -> Res<Value> {
    match value {
        Value::Float(f) => Ok(Value::Float(if minus { -f } else { *f })),
        Value::Undefined(name) => undefined_used(name.as_deref()),
        _ => match value.as_int().and_then(|i| if minus { i.checked_neg() } else { Some(i) }) {
            Some(i) => Ok(Value::Int(i)),
            None => fail(format!("bad operand type for a sign: '{}'", value.type_name())),
        },
    }
}

/// A binary operator.
pub(crate) fn binary(op: BinOp, left: &Value, right: &Value, meter: &Meter) -> Res<Value> {
    meter.step(1)?;
    if let (BinOp::Mod, Value::Str(_) | Value::Markup(_)) = (op, left) {
        return format::percent(left, right, meter);
    }
    if let (Value::Undefined(name), _) | (_, Value::Undefined(name)) = (left, right) {
        return undefined_used(name.as_deref());
    }
    match (op, left, right) {
        (BinOp::Add, Value::Str(a), Value::Str(b)) => joined(a, b, meter).map(|s| Value::Str(s.into())),
        (BinOp::Add, Value::Str(_) | Value::Markup(_), Value::Str(_) | Value::Markup(_)) => {
            let (a, b) = (escaped(left, meter)?, escaped(right, meter)?);
            joined(&a, &b, meter).map(|s| Value::Markup(s.into()))
        }
        (BinOp::Add, Value::List(a), Value::List(b)) => Value::list([&a.items[..], &b.items].concat(), meter),
        (BinOp::Add, Value::Tuple(a), Value::Tuple(b)) => Value::tuple([&a.items[..], &b.items].concat(), meter),
        (BinOp::Mul, Value::Str(_) | Value::Markup(_) | Value::List(_) | Value::Tuple(_), count) => {
            repeat(left, count, meter)
        }
        (BinOp::Mul, count, Value::Str(_) | Value::Markup(_) | Value::List(_) | Value::Tuple(_)) => {
            repeat(right, count, meter)
        }
        _ => match (left.as_int(), right.as_int()) {
            (Some(a), Some(b)) => integers(op, a, b),
            _ => match (left.as_float(), right.as_float()) {
                (Some(a), Some(b)) => floats(op, a, b),
                _ => fail(format!(
                    "unsupported operand types for {op:?}: '{}' and '{}'",
                    left.type_name(),
                    right.type_name()
                )),
            },
        },
    }
}

fn joined(a: &str, b: &str, meter: &Meter) -> Res<String> {
    meter.alloc(a.len() + b.len() + 16)?;
    Ok([a, b].concat())
}

/// What is added to markup: text gets escaped.
fn escaped(value: &Value, meter: &Meter) -> Res<String> {
    let text = text::str(value, meter)?;
    if matches!(value, Value::Markup(_)) { Ok(text.to_string()) } else { text::escape(&text, meter) }
}

fn repeat(value: &Value, count: &Value, meter: &Meter) -> Res<Value> {
    let Some(count) = count.as_int() else {
        return fail(format!("can't multiply sequence by non-int of type '{}'", count.type_name()));
    };
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    match value {
        Value::List(seq) | Value::Tuple(seq) => {
            meter.alloc(seq.items.len().saturating_mul(size_of::<Value>()).saturating_mul(count))?;
            let count = if seq.items.is_empty() { 0 } else { count };
            let items: Vec<Value> = std::iter::repeat_n(&seq.items, count).flatten().cloned().collect();
            if matches!(value, Value::List(_)) { Value::list(items, meter) } else { Value::tuple(items, meter) }
        }
        _ => {
            let text = text::str(value, meter)?;
            meter.alloc(text.len().saturating_mul(count))?;
            Ok(value.like(&if text.is_empty() { String::new() } else { text.repeat(count) }))
        }
    }
}

fn integers(op: BinOp, a: i128, b: i128) -> Res<Value> {
    let result = match op {
        BinOp::Add => a.checked_add(b),
        BinOp::Sub => a.checked_sub(b),
        BinOp::Mul => a.checked_mul(b),
        BinOp::Div | BinOp::FloorDiv | BinOp::Mod if b == 0 => return fail("division by zero"),
        BinOp::Div => return Ok(Value::Float(a as f64 / b as f64)),
        BinOp::FloorDiv | BinOp::Mod => {
            // Python rounds towards minus infinity; the remainder has the divisor's sign.
            let rest = a.checked_rem(b).map(|rest| if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest });
            match op {
                BinOp::Mod => rest,
                _ => rest.and_then(|rest| a.checked_sub(rest)?.checked_div(b)),
            }
        }
        BinOp::Pow if b < 0 && a == 0 => return fail("0 cannot be raised to a negative power"),
        BinOp::Pow if b < 0 => return Ok(Value::Float((a as f64).powf(b as f64))),
        BinOp::Pow => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    result.map_or_else(|| fail("an integer has more than 128 bits"), |i| Ok(Value::Int(i)))
}

fn floats(op: BinOp, a: f64, b: f64) -> Res<Value> {
    Ok(Value::Float(match op {
        BinOp::Add => a + b,
        BinOp::Sub => a - b,
        BinOp::Mul => a * b,
        BinOp::Div | BinOp::FloorDiv | BinOp::Mod if b == 0.0 => return fail("division by zero"),
        BinOp::Div => a / b,
        BinOp::FloorDiv => (a / b).floor(),
        BinOp::Mod => {
            let rest = a % b;
            if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
        }
        BinOp::Pow => a.powf(b),
    }))
}
