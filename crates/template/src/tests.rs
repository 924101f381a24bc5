//! jinja2's tests: what may follow `is`.

use crate::args::{Args, need};
use crate::filters;
use crate::meter::{Meter, Res, fail};
use crate::ops::{self, BinOp, CmpOp};
use crate::text;
use crate::value::Value;
use std::sync::Arc;

/// A test: what is tested, and the arguments.
pub(crate) type Test = fn(&Value, &Args, &Meter) -> Res<bool>;

const TESTS: &[(&str, Test)] = &[
    ("!=", |v, a, m| compare(v, CmpOp::Ne, a, m)),
    ("<", |v, a, m| compare(v, CmpOp::Lt, a, m)),
    ("<=", |v, a, m| compare(v, CmpOp::Le, a, m)),
    ("==", |v, a, m| compare(v, CmpOp::Eq, a, m)),
    (">", |v, a, m| compare(v, CmpOp::Gt, a, m)),
    (">=", |v, a, m| compare(v, CmpOp::Ge, a, m)),
    ("boolean", |v, _, _| Ok(matches!(v, Value::Bool(_)))),
    ("callable", |v, _, _| Ok(is_callable(v))),
    ("defined", |v, _, _| Ok(!v.is_undefined())),
    ("divisibleby", |v, a, m| remainder(v, need(a.pos.first().cloned(), "divisibleby")?, 0, m)),
    ("eq", |v, a, m| compare(v, CmpOp::Eq, a, m)),
    ("equalto", |v, a, m| compare(v, CmpOp::Eq, a, m)),
    ("escaped", |v, _, _| Ok(matches!(v, Value::Markup(_)))),
    ("even", |v, _, m| remainder(v, Value::Int(2), 0, m)),
    ("false", |v, _, _| Ok(matches!(v, Value::Bool(false)))),
    ("filter", |v, _, _| Ok(v.as_str().is_some_and(|name| filters::find(name).is_some()))),
    ("float", |v, _, _| Ok(matches!(v, Value::Float(_)))),
    ("ge", |v, a, m| compare(v, CmpOp::Ge, a, m)),
    ("greaterthan", |v, a, m| compare(v, CmpOp::Gt, a, m)),
    ("gt", |v, a, m| compare(v, CmpOp::Gt, a, m)),
    ("in", |v, a, m| compare(v, CmpOp::In, a, m)),
    ("integer", |v, _, _| Ok(matches!(v, Value::Int(_)))),
    ("iterable", |v, _, _| Ok(is_iterable(v))),
    ("le", |v, a, m| compare(v, CmpOp::Le, a, m)),
    ("lessthan", |v, a, m| compare(v, CmpOp::Lt, a, m)),
    ("lower", |v, _, m| Ok(is_case(&text::str(v, m)?, char::is_lowercase, char::is_uppercase))),
    ("lt", |v, a, m| compare(v, CmpOp::Lt, a, m)),
    ("mapping", |v, _, _| Ok(matches!(v, Value::Dict(_)))),
    ("ne", |v, a, m| compare(v, CmpOp::Ne, a, m)),
    ("none", |v, _, _| Ok(matches!(v, Value::None))),
    ("number", |v, _, _| Ok(v.as_float().is_some())),
    ("odd", |v, _, m| remainder(v, Value::Int(2), 1, m)),
    ("sameas", |v, a, _| Ok(same(v, &need(a.pos.first().cloned(), "sameas")?))),
    ("sequence", |v, _, _| Ok(is_sequence(v))),
    ("string", |v, _, _| Ok(v.as_str().is_some())),
    ("test", |v, _, _| Ok(v.as_str().is_some_and(|name| find(name).is_some()))),
    ("true", |v, _, _| Ok(matches!(v, Value::Bool(true)))),
    ("undefined", |v, _, _| Ok(v.is_undefined())),
    ("upper", |v, _, m| Ok(is_case(&text::str(v, m)?, char::is_uppercase, char::is_lowercase))),
];

/// The test of this name.
pub(crate) fn find(name: &str) -> Option<Test> {
    TESTS.iter().find(|(n, _)| *n == name).map(|(_, t)| *t)
}

fn compare(value: &Value, op: CmpOp, args: &Args, meter: &Meter) -> Res<bool> {
    let [other] = args.bind("the test", [""])?;
    ops::compare(value, op, &need(other, "the test")?, meter)
}

fn remainder(value: &Value, by: Value, wanted: i128, meter: &Meter) -> Res<bool> {
    if value.as_float().is_none() {
        return fail(format!("the test wants a number, not {}", value.type_name()));
    }
    ops::binary(BinOp::Mod, value, &by, meter)?.equals(&Value::Int(wanted), meter)
}

fn is_case(text: &str, this: fn(char) -> bool, other: fn(char) -> bool) -> bool {
    text.chars().any(this) && !text.chars().any(other)
}

fn is_callable(value: &Value) -> bool {
    matches!(value, Value::Foreign(_) | Value::Method(_) | Value::Undefined(_))
}

fn is_iterable(value: &Value) -> bool {
    value.len().is_some() || matches!(value, Value::Gen(_))
}

/// What has a length and items: also strings, dicts and undefined values.
fn is_sequence(value: &Value) -> bool {
    value.len().is_some() && !matches!(value, Value::View(..))
}

/// Python's `is`, as far as values here have an identity.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::None, Value::None) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Str(a), Value::Str(b)) => Arc::ptr_eq(a, b) || a == b,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => Arc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Arc::ptr_eq(a, b),
        (Value::Namespace(a), Value::Namespace(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}
