//! What templates compute with: Python's values, as far as templates meet them.
//!
//! Lists and dicts never change once made (the sandbox that transformers uses refuses to change them), so values share
//! freely and form no circles; namespaces, which do change, are emptied when a rendering ends.

use crate::meter::{MAX_NESTING, Meter, Res, fail};
use crate::ops::CmpOp;
use indexmap::IndexMap;
use std::cmp::Ordering;
use std::sync::atomic::{AtomicUsize, Ordering as Atomic};
use std::sync::{Arc, Mutex};

/// A value; cheap to clone.
#[derive(Clone)]
pub(crate) enum Value {
    /// jinja2's `Undefined`, with the name that was not found.
    Undefined(Option<Arc<str>>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
    /// markupsafe's `Markup`, made by `|safe` and `|escape`: what is added to it gets escaped.
    Markup(Arc<str>),
    List(Arc<Seq>),
    Tuple(Arc<Seq>),
    Dict(Arc<Dict>),
    /// `range(start, stop, step)`, of at most 100,000 numbers.
    Range(Arc<[i128; 3]>),
    /// `dict.keys()` and the like.
    View(View, Arc<Dict>),
    /// A generator, already computed: it can be read once.
    Gen(Arc<Gen>),
    Namespace(Arc<Namespace>),
    /// A method read but not yet called.
    Method(Arc<(Value, Arc<str>)>),
    /// What belongs to the engine: macros, functions and `loop`.
    Foreign(minijinja::Value),
}

/// Items and how deep they nest.
pub(crate) struct Seq {
    pub(crate) items: Vec<Value>,
    nesting: u16,
}

/// Keys and values in the order of insertion.
pub(crate) struct Dict {
    map: IndexMap<Key, (Value, Value)>,
    nesting: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum View {
    Keys,
    Values,
    Items,
}

pub(crate) struct Gen {
    seq: Seq,
    next: AtomicUsize,
}

/// What `{% set ns.name = .. %}` writes to.
#[derive(Default)]
pub(crate) struct Namespace {
    pub(crate) vars: Mutex<Vec<(Arc<str>, Value)>>,
}

/// A value as a key of a dict: numbers that are equal are the same key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Key {
    None,
    Int(i128),
    Float(u64),
    Str(Arc<str>),
    Tuple(Vec<Key>),
    Undefined,
    /// Anything that equals only itself.
    Id(usize),
}

fn nesting_of<'v>(items: impl Iterator<Item = &'v Value>) -> Res<u16> {
    let mut nesting = 1;
    for item in items {
        item.storable()?;
        nesting = nesting.max(item.nesting() + 1);
    }
    if nesting > MAX_NESTING { fail(format!("values nest deeper than {MAX_NESTING}")) } else { Ok(nesting) }
}

impl Namespace {
    pub(crate) fn get(&self, name: &str) -> Option<Value> {
        let vars = self.vars.lock().ok()?;
        vars.iter().find(|(key, _)| **key == *name).map(|(_, value)| value.clone())
    }

    pub(crate) fn set(&self, name: &Arc<str>, value: Value, meter: &Meter) -> Res<()> {
        if name.starts_with('_') {
            return fail(format!("a namespace cannot store '{name}': names must not begin with an underscore"));
        }
        value.storable()?;
        meter.alloc(size_of::<(Arc<str>, Value)>())?;
        let Ok(mut vars) = self.vars.lock() else { return fail("a namespace was left locked") };
        let old = match vars.iter_mut().find(|(key, _)| key == name) {
            Some(slot) => std::mem::replace(&mut slot.1, value),
            None => {
                vars.push((name.clone(), value));
                Value::None
            }
        };
        drop(vars);
        drop(old);
        Ok(())
    }
}

impl Seq {
    pub(crate) fn new(items: Vec<Value>, meter: &Meter) -> Res<Self> {
        meter.alloc(items.len() * size_of::<Value>() + size_of::<Self>())?;
        Ok(Self { nesting: nesting_of(items.iter())?, items })
    }
}

impl Dict {
    pub(crate) fn new(pairs: impl IntoIterator<Item = (Value, Value)>, meter: &Meter) -> Res<Self> {
        let mut map: IndexMap<Key, (Value, Value)> = IndexMap::new();
        for (key, value) in pairs {
            meter.alloc(size_of::<(Key, (Value, Value), u64)>())?;
            let hashed = key.key(meter)?;
            match map.get_mut(&hashed) {
                Some(slot) => slot.1 = value,
                None => drop(map.insert(hashed, (key, value))),
            }
        }
        let nesting = nesting_of(map.values().flat_map(|(k, v)| [k, v]))?;
        Ok(Self { map, nesting })
    }

    pub(crate) fn get(&self, key: &Value, meter: &Meter) -> Res<Option<&Value>> {
        Ok(self.map.get(&key.key(meter)?).map(|(_, v)| v))
    }

    pub(crate) fn get_str(&self, key: &Arc<str>) -> Option<&Value> {
        self.map.get(&Key::Str(key.clone())).map(|(_, v)| v)
    }

    pub(crate) fn pairs(&self) -> impl DoubleEndedIterator<Item = &(Value, Value)> + ExactSizeIterator {
        self.map.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }
}

impl Gen {
    pub(crate) fn new(seq: Seq) -> Self {
        Self { seq, next: AtomicUsize::new(0) }
    }

    /// The next item.
    pub(crate) fn next(&self) -> Option<Value> {
        self.seq.items.get(self.next.fetch_add(1, Atomic::Relaxed)).cloned()
    }
}

impl Value {
    pub(crate) fn text(text: impl AsRef<str>, meter: &Meter) -> Res<Self> {
        meter.alloc(text.as_ref().len() + 16)?;
        Ok(Value::Str(text.as_ref().into()))
    }

    pub(crate) fn list(items: Vec<Value>, meter: &Meter) -> Res<Self> {
        Ok(Value::List(Arc::new(Seq::new(items, meter)?)))
    }

    pub(crate) fn tuple(items: Vec<Value>, meter: &Meter) -> Res<Self> {
        Ok(Value::Tuple(Arc::new(Seq::new(items, meter)?)))
    }

    pub(crate) fn generator(items: Vec<Value>, meter: &Meter) -> Res<Self> {
        Ok(Value::Gen(Arc::new(Gen::new(Seq::new(items, meter)?))))
    }

    pub(crate) fn dict(pairs: impl IntoIterator<Item = (Value, Value)>, meter: &Meter) -> Res<Self> {
        Ok(Value::Dict(Arc::new(Dict::new(pairs, meter)?)))
    }

    /// What Python's `json.loads` makes of the same text.
    pub(crate) fn from_json(json: &serde_json::Value, meter: &Meter, depth: u16) -> Res<Self> {
        if depth > MAX_NESTING {
            return fail(format!("the input nests deeper than {MAX_NESTING}"));
        }
        Ok(match json {
            serde_json::Value::Null => Value::None,
            serde_json::Value::Bool(b) => Value::Bool(*b),
            serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Value::Int(i.into()),
                (_, Some(u)) => Value::Int(u.into()),
                _ => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(s) => {
                meter.grant(s.len());
                Value::text(s, meter)?
            }
            serde_json::Value::Array(items) => {
                let items = items.iter().map(|v| Value::from_json(v, meter, depth + 1));
                Value::list(items.collect::<Res<_>>()?, meter)?
            }
            serde_json::Value::Object(pairs) => {
                let pair = |(k, v): (&String, _)| Ok((Value::text(k, meter)?, Value::from_json(v, meter, depth + 1)?));
                Value::dict(pairs.iter().map(pair).collect::<Res<Vec<_>>>()?, meter)?
            }
        })
    }

    /// A `loop` refers to its items, so storing loops in items could nest them without end.
    pub(crate) fn storable(&self) -> Res<()> {
        match self {
            Value::Foreign(v) if v.get_attr("index0").is_ok_and(|i| !i.is_undefined()) => {
                fail("`loop` cannot be stored")
            }
            _ => Ok(()),
        }
    }

    fn nesting(&self) -> u16 {
        match self {
            Value::List(seq) | Value::Tuple(seq) => seq.nesting,
            Value::Dict(dict) | Value::View(_, dict) => dict.nesting,
            Value::Gen(generator) => generator.seq.nesting,
            Value::Method(method) => method.0.nesting() + 1,
            _ => 0,
        }
    }

    /// The text of a string.
    pub(crate) fn as_str(&self) -> Option<&Arc<str>> {
        match self {
            Value::Str(s) | Value::Markup(s) => Some(s),
            _ => None,
        }
    }

    pub(crate) fn as_int(&self) -> Option<i128> {
        match self {
            Value::Int(i) => Some(*i),
            Value::Bool(b) => Some((*b).into()),
            _ => None,
        }
    }

    pub(crate) fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(f) => Some(*f),
            _ => self.as_int().map(|i| i as f64),
        }
    }

    pub(crate) fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    /// Python's name for the type.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::Markup(_) => "Markup",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::Range(_) => "range",
            Value::View(View::Keys, _) => "dict_keys",
            Value::View(View::Values, _) => "dict_values",
            Value::View(View::Items, _) => "dict_items",
            Value::Gen(_) => "generator",
            Value::Namespace(_) => "Namespace",
            Value::Foreign(_) => "function",
            Value::Method(_) => "builtin_function_or_method",
        }
    }

    pub(crate) fn truthy(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(i) => *i != 0,
            Value::Float(f) => *f != 0.0,
            Value::Foreign(v) => v.is_true(),
            _ => self.len().is_none_or(|n| n > 0),
        }
    }

    /// Python's `len`; None where it is an error. Strings count characters.
    pub(crate) fn len(&self) -> Option<usize> {
        Some(match self {
            Value::Undefined(_) => 0,
            Value::Str(s) | Value::Markup(s) => s.chars().count(),
            Value::List(seq) | Value::Tuple(seq) => seq.items.len(),
            Value::Dict(dict) | Value::View(_, dict) => dict.len(),
            Value::Range(range) => range_len(range),
            _ => return None,
        })
    }

    /// All items, as iterating over the value gives them. A generator is used up.
    pub(crate) fn items(&self, meter: &Meter) -> Res<Vec<Value>> {
        let count = self.len().unwrap_or(0);
        meter.alloc(count * size_of::<Value>())?;
        Ok(match self {
            Value::Undefined(_) => Vec::new(),
            Value::Str(s) | Value::Markup(s) => {
                meter.alloc(count * 16)?;
                let item = |c: char| self.like(c.encode_utf8(&mut [0; 4]));
                s.chars().map(item).collect()
            }
            Value::List(seq) | Value::Tuple(seq) => seq.items.clone(),
            Value::Dict(dict) | Value::View(View::Keys, dict) => dict.pairs().map(|(k, _)| k.clone()).collect(),
            Value::View(View::Values, dict) => dict.pairs().map(|(_, v)| v.clone()).collect(),
            Value::View(View::Items, dict) => {
                let pair = |(k, v): &(Value, Value)| Value::tuple(vec![k.clone(), v.clone()], meter);
                dict.pairs().map(pair).collect::<Res<_>>()?
            }
            Value::Range(range) => (0..count).map(|i| Value::Int(range[0] + range[2] * i as i128)).collect(),
            Value::Gen(generator) => {
                meter.alloc(generator.seq.items.len() * size_of::<Value>())?;
                std::iter::from_fn(|| generator.next()).collect()
            }
            _ => return fail(format!("'{}' object is not iterable", self.type_name())),
        })
    }

    /// A string of the same kind: text stays text, markup stays markup.
    pub(crate) fn like(&self, text: &str) -> Value {
        match self {
            Value::Markup(_) => Value::Markup(text.into()),
            _ => Value::Str(text.into()),
        }
    }

    /// The value as a dict's key; lists and dicts cannot be.
    pub(crate) fn key(&self, meter: &Meter) -> Res<Key> {
        Ok(match self {
            Value::Undefined(_) => Key::Undefined,
            Value::None => Key::None,
            Value::Bool(b) => Key::Int((*b).into()),
            Value::Int(i) => Key::Int(*i),
            Value::Float(f) if f.fract() == 0.0 && f.abs() < 1e38 => Key::Int(*f as i128),
            Value::Float(f) => Key::Float(f.to_bits()),
            Value::Str(s) | Value::Markup(s) => {
                meter.scan(s.len())?;
                Key::Str(s.clone())
            }
            Value::Tuple(seq) => {
                meter.alloc(seq.items.len() * size_of::<Key>())?;
                Key::Tuple(seq.items.iter().map(|v| v.key(meter)).collect::<Res<_>>()?)
            }
            Value::List(_) | Value::Dict(_) | Value::View(..) | Value::Foreign(_) => {
                return fail(format!("unhashable type: '{}'", self.type_name()));
            }
            _ => self.identity().unwrap_or(Key::Undefined),
        })
    }

    /// Python's `==`.
    pub(crate) fn equals(&self, other: &Value, meter: &Meter) -> Res<bool> {
        meter.step(1)?;
        Ok(match (self, other) {
            (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
            (Value::Str(a) | Value::Markup(a), Value::Str(b) | Value::Markup(b)) => {
                meter.scan(a.len().min(b.len()))?;
                a == b
            }
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                if Arc::ptr_eq(a, b) {
                    return Ok(true);
                }
                a.items.len() == b.items.len() && first_difference(&a.items, &b.items, meter)?.is_none()
            }
            (Value::Dict(a), Value::Dict(b)) => {
                if a.len() != b.len() || Arc::ptr_eq(a, b) {
                    return Ok(a.len() == b.len());
                }
                for (key, (_, value)) in &a.map {
                    match b.map.get(key) {
                        Some((_, other)) if value.equals(other, meter)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Value::Range(a), Value::Range(b)) => {
                let len = range_len(a);
                len == range_len(b) && (len == 0 || (a[0] == b[0] && (len == 1 || a[2] == b[2])))
            }
            (Value::View(v, a), Value::View(w, b)) => v == w && Arc::ptr_eq(a, b),
            _ => match numbers(self, other) {
                Some(order) => order == Some(Ordering::Equal),
                None => match (self.identity(), other.identity()) {
                    (Some(a), Some(b)) => a == b,
                    _ => false,
                },
            },
        })
    }

    /// The key of a value that is equal only to itself.
    fn identity(&self) -> Option<Key> {
        Some(match self {
            Value::Range(r) => Key::Id(Arc::as_ptr(r) as usize),
            Value::Gen(r) => Key::Id(Arc::as_ptr(r) as usize),
            Value::Namespace(r) => Key::Id(Arc::as_ptr(r) as usize),
            Value::Method(r) => Key::Id(Arc::as_ptr(r) as usize),
            _ => return None,
        })
    }

    /// How two values order; None if not at all (a NaN).
    pub(crate) fn order(&self, other: &Value, meter: &Meter) -> Res<Option<Ordering>> {
        meter.step(1)?;
        match (self, other) {
            (Value::Str(a) | Value::Markup(a), Value::Str(b) | Value::Markup(b)) => {
                meter.scan(a.len().min(b.len()))?;
                Ok(Some(a.cmp(b)))
            }
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                match first_difference(&a.items, &b.items, meter)? {
                    Some((a, b)) => a.order(b, meter),
                    None => Ok(Some(a.items.len().cmp(&b.items.len()))),
                }
            }
            _ => numbers(self, other)
                .map_or_else(|| fail(format!("'{}' and '{}' have no order", self.type_name(), other.type_name())), Ok),
        }
    }

    /// Python's `in`: is `self` inside of `container`?
    pub(crate) fn within(&self, container: &Value, meter: &Meter) -> Res<bool> {
        Ok(match container {
            Value::Str(whole) | Value::Markup(whole) => match self.as_str() {
                Some(part) => {
                    meter.scan(whole.len())?;
                    whole.contains(&**part)
                }
                None => {
                    return fail(format!("'in <string>' requires string as left operand, not {}", self.type_name()));
                }
            },
            Value::Dict(dict) | Value::View(View::Keys, dict) => dict.get(self, meter)?.is_some(),
            Value::List(seq) | Value::Tuple(seq) => {
                for item in &seq.items {
                    if item.equals(self, meter)? {
                        return Ok(true);
                    }
                }
                false
            }
            Value::Gen(generator) => {
                while let Some(item) = generator.next() {
                    if item.equals(self, meter)? {
                        return Ok(true);
                    }
                }
                false
            }
            Value::Undefined(_) | Value::View(..) | Value::Range(_) => {
                for item in container.items(meter)? {
                    if item.equals(self, meter)? {
                        return Ok(true);
                    }
                }
                false
            }
            _ => return fail(format!("argument of type '{}' is not iterable", container.type_name())),
        })
    }

    /// A comparison operator.
    pub(crate) fn compare(&self, op: CmpOp, other: &Value, meter: &Meter) -> Res<bool> {
        let ordered = |test: fn(Ordering) -> bool| -> Res<bool> { Ok(self.order(other, meter)?.is_some_and(test)) };
        match op {
            CmpOp::Eq => self.equals(other, meter),
            CmpOp::Ne => self.equals(other, meter).map(|equal| !equal),
            CmpOp::Lt => ordered(Ordering::is_lt),
            CmpOp::Le => ordered(Ordering::is_le),
            CmpOp::Gt => ordered(Ordering::is_gt),
            CmpOp::Ge => ordered(Ordering::is_ge),
            CmpOp::In => self.within(other, meter),
            CmpOp::NotIn => self.within(other, meter).map(|within| !within),
        }
    }
}

fn first_difference<'v>(a: &'v [Value], b: &'v [Value], meter: &Meter) -> Res<Option<(&'v Value, &'v Value)>> {
    for (a, b) in a.iter().zip(b) {
        if !a.equals(b, meter)? {
            return Ok(Some((a, b)));
        }
    }
    Ok(None)
}

/// How two numbers order; the outer None if one of them is no number.
fn numbers(a: &Value, b: &Value) -> Option<Option<Ordering>> {
    if let (Some(a), Some(b)) = (a.as_int(), b.as_int()) {
        return Some(Some(a.cmp(&b)));
    }
    let (x, y) = (a.as_float()?, b.as_float()?);
    // A float with no fraction is compared exactly, as Python does.
    let exact = |f: f64| (f.fract() == 0.0 && f.abs() < 1e38).then_some(f as i128);
    Some(match (a.as_int().or(exact(x)), b.as_int().or(exact(y))) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => x.partial_cmp(&y),
    })
}

/// How many numbers a range holds.
pub(crate) fn range_len(range: &[i128; 3]) -> usize {
    let [start, stop, step] = *range;
    let (span, step) =
        if step > 0 { (stop.saturating_sub(start), step) } else { (start.saturating_sub(stop), step.saturating_neg()) };
    if span <= 0 || step <= 0 { 0 } else { ((span - 1) / step + 1).try_into().unwrap_or(usize::MAX) }
}

/// Sorts as Python's `sorted` does: stable, each item (the second) by its key (the first); `reverse` keeps equal items in
/// their order. A merge sort of our own, because orders come from the template and need not be total.
pub(crate) fn sort(mut items: Vec<(Value, Value)>, reverse: bool, meter: &Meter) -> Res<Vec<(Value, Value)>> {
    if items.len() < 2 {
        return Ok(items);
    }
    let right = items.split_off(items.len() / 2);
    let mut left = sort(items, reverse, meter)?.into_iter().peekable();
    let mut right = sort(right, reverse, meter)?.into_iter().peekable();
    let mut merged = Vec::with_capacity(left.len() + right.len());
    while let (Some((a, _)), Some((b, _))) = (left.peek(), right.peek()) {
        let (low, high) = if reverse { (a, b) } else { (b, a) };
        let right_first = low.order(high, meter)?.is_some_and(Ordering::is_lt);
        merged.extend(if right_first { right.next() } else { left.next() });
    }
    merged.extend(left.chain(right));
    Ok(merged)
}
