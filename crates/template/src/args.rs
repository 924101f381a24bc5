//! Arguments of a call, matched with parameter names.

use crate::meter::{Res, fail};
use crate::value::Value;
use std::sync::Arc;

/// Positional and keyword arguments.
#[derive(Default)]
pub(crate) struct Args {
    pub(crate) pos: Vec<Value>,
    pub(crate) kw: Vec<(Arc<str>, Value)>,
}

impl Args {
    /// One value or none for each parameter. A parameter named `""` takes no keyword.
    pub(crate) fn bind<const N: usize>(&self, what: &str, params: [&str; N]) -> Res<[Option<Value>; N]> {
        if self.pos.len() > N {
            return fail(format!("{what} takes at most {N} arguments, got {}", self.pos.len()));
        }
        let mut bound: [Option<Value>; N] = std::array::from_fn(|i| self.pos.get(i).cloned());
        for (name, value) in &self.kw {
            let place = params.iter().position(|p| **p == **name).and_then(|i| bound.get_mut(i));
            match place {
                Some(slot @ None) => *slot = Some(value.clone()),
                Some(_) => return fail(format!("{what} got two values for '{name}'")),
                None => return fail(format!("{what} takes no keyword '{name}'")),
            }
        }
        Ok(bound)
    }
}

/// A required argument.
pub(crate) fn need(value: Option<Value>, what: &str) -> Res<Value> {
    value.map_or_else(|| fail(format!("{what} lacks an argument")), Ok)
}

/// A required argument that is a string.
pub(crate) fn need_str(value: Option<Value>, what: &str) -> Res<Arc<str>> {
    let value = need(value, what)?;
    let text = value.as_str().cloned();
    text.map_or_else(|| fail(format!("{what} wants a string, not {}", value.type_name())), Ok)
}

/// An optional integer.
pub(crate) fn int_or(value: Option<Value>, default: i128, what: &str) -> Res<i128> {
    match value {
        None => Ok(default),
        Some(value) => {
            value.as_int().map_or_else(|| fail(format!("{what} wants an integer, not {}", value.type_name())), Ok)
        }
    }
}

/// An optional flag, by its truth.
pub(crate) fn flag(value: &Option<Value>) -> bool {
    value.as_ref().is_some_and(Value::truthy)
}
