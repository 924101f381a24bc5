//! Key-value pairs of a GGUF file, read from the mapped bytes when asked for.

use std::borrow::Cow;
use std::fmt;

use alula_tensor::Storage;

use super::read::Cursor;
use crate::catalog::{find, sorted_by};
use crate::error::{Error, clip};

/// The value types, in the order of their numbers in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Str,
    Array,
    U64,
    I64,
    F64,
}

/// Kind, name, bytes (0 where they vary); the row is the number in the file.
const KINDS: [(Kind, &str, usize); 13] = [
    (Kind::U8, "u8", 1),
    (Kind::I8, "i8", 1),
    (Kind::U16, "u16", 2),
    (Kind::I16, "i16", 2),
    (Kind::U32, "u32", 4),
    (Kind::I32, "i32", 4),
    (Kind::F32, "f32", 4),
    (Kind::Bool, "bool", 1),
    (Kind::Str, "string", 0),
    (Kind::Array, "array", 0),
    (Kind::U64, "u64", 8),
    (Kind::I64, "i64", 8),
    (Kind::F64, "f64", 8),
];

impl Kind {
    pub(super) fn from_id(id: u32) -> Option<Kind> {
        KINDS.get(usize::try_from(id).ok()?).map(|row| row.0)
    }

    pub(super) fn size(self) -> usize {
        KINDS[self as usize].2
    }

    fn name(self) -> &'static str {
        KINDS[self as usize].1
    }
}

/// Where one pair's value lies.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Box<str>,
    pub(super) kind: Kind,
    pub(super) at: usize,
    pub(super) items: Option<Items>,
}

/// Where the items of an array lie: at `at + starts[i]`, or evenly spaced if their size is fixed.
#[derive(Clone, Debug)]
pub(super) struct Items {
    pub(super) kind: Kind,
    pub(super) count: usize,
    pub(super) at: usize,
    pub(super) starts: Box<[u32]>,
}

/// The key-value pairs of a model, in the order of the file.
#[derive(Clone, Debug)]
pub struct Metadata {
    file: String,
    storage: Storage,
    entries: Vec<Entry>,
    sorted: Vec<u32>,
}

/// One value. Integers come widened, whatever their width in the file.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `u8` to `u64`.
    Uint(u64),
    /// `i8` to `i64`.
    Int(i64),
    /// `f32`.
    F32(f32),
    /// `f64`.
    F64(f64),
    /// `bool`; any byte but 0 is true.
    Bool(bool),
    /// A string.
    Str(&'a str),
    /// An array.
    Array(Array<'a>),
}

/// An array of values of one type, left in the mapped file.
#[derive(Clone)]
pub struct Array<'a> {
    /// The whole file.
    bytes: &'a [u8],
    items: Cow<'a, Items>,
}

/// An array of strings that are all UTF-8, left in the mapped file.
#[derive(Clone)]
pub struct Strs<'a>(Array<'a>);

impl Metadata {
    pub(super) fn new(file: &str, storage: Storage, entries: Vec<Entry>) -> Result<Metadata, Error> {
        let sorted = sorted_by(&entries, |e| &e.key).map_err(|twice| {
            let what = format!("metadata key `{}` comes twice", clip(&twice.key));
            Error::malformed(file, &twice.key, what).at(twice.at).fix("convert the model again")
        })?;
        Ok(Metadata { file: file.to_owned(), storage, entries, sorted })
    }

    /// The value of a key, if there is one.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        find(&self.entries, &self.sorted, key, |e| &e.key).and_then(|e| self.value(e))
    }

    /// All pairs, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        self.entries.iter().filter_map(|e| Some((&*e.key, self.value(e)?)))
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The file's name in messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The value of `key` as a `T`; `None` if the key is absent.
    ///
    /// # Errors
    /// If the value is there but is no `T`.
    pub fn find<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        T::from_value(&value).map(Some).map_err(|bad| {
            let what = match bad {
                Some(bad) => format!("metadata key `{}` {bad}", clip(key)),
                None => format!("metadata key `{}` is {value}, not {}", clip(key), T::WHAT),
            };
            Error::wrong_type(&self.file, key, what, "convert the model again with a current converter")
        })
    }

    /// The value of `key` as a `T`.
    ///
    /// # Errors
    /// If the key is absent or the value is no `T`.
    pub fn need<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, Error> {
        self.find(key)?.ok_or_else(|| {
            let what = format!("has no metadata key `{}`", clip(key));
            Error::missing(&self.file, key, what, "convert the model again with a current converter")
        })
    }

    fn value<'a>(&'a self, entry: &'a Entry) -> Option<Value<'a>> {
        match &entry.items {
            Some(items) => Some(Value::Array(Array { bytes: &self.storage, items: Cow::Borrowed(items) })),
            None => scalar(&self.storage, entry.kind, entry.at),
        }
    }
}

/// Shorthands for [`Metadata::need`], with its errors.
impl Metadata {
    /// An unsigned number of at most 32 bits.
    pub fn u32(&self, key: &str) -> Result<u32, Error> {
        self.need(key)
    }

    /// An unsigned number.
    pub fn u64(&self, key: &str) -> Result<u64, Error> {
        self.need(key)
    }

    /// A float.
    pub fn f32(&self, key: &str) -> Result<f32, Error> {
        self.need(key)
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<bool, Error> {
        self.need(key)
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<&str, Error> {
        self.need(key)
    }

    /// An array of strings.
    pub fn strs(&self, key: &str) -> Result<Strs<'_>, Error> {
        self.need(key)
    }

    /// An array of integers.
    pub fn i32s(&self, key: &str) -> Result<Vec<i32>, Error> {
        self.need(key)
    }

    /// An array of floats.
    pub fn f32s(&self, key: &str) -> Result<Vec<f32>, Error> {
        self.need(key)
    }
}

/// The value of a kind at a place that was checked when the file was read.
fn scalar(bytes: &[u8], kind: Kind, at: usize) -> Option<Value<'_>> {
    let rest = bytes.get(at..)?;
    let fixed = rest.get(..kind.size())?.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
    Some(match kind {
        Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => Value::Uint(fixed),
        Kind::I8 => Value::Int(i64::from(fixed as i8)),
        Kind::I16 => Value::Int(i64::from(fixed as i16)),
        Kind::I32 => Value::Int(i64::from(fixed as i32)),
        Kind::I64 => Value::Int(fixed as i64),
        Kind::F32 => Value::F32(f32::from_bits(fixed as u32)),
        Kind::F64 => Value::F64(f64::from_bits(fixed)),
        Kind::Bool => Value::Bool(fixed != 0),
        Kind::Str => Value::Str(std::str::from_utf8(string(rest)?).ok()?),
        Kind::Array => Value::Array(Array { bytes, items: Cow::Owned(Cursor::reread(bytes, at)?) }),
    })
}

/// The string whose length begins `bytes`.
#[inline]
fn string(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.get(..usize::try_from(u64::from_le_bytes(*len)).ok()?)
}

impl<'a> Array<'a> {
    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of the items' type, such as `u32` or `string`.
    pub fn item_type(&self) -> &'static str {
        self.items.kind.name()
    }

    fn at(&self, i: usize) -> Option<usize> {
        if i >= self.items.count {
            return None;
        }
        let offset = match self.items.kind.size() {
            0 => *self.items.starts.get(i)? as usize,
            size => i * size,
        };
        Some(self.items.at + offset)
    }

    /// Item `i`; `None` beyond the end and for strings that are not UTF-8.
    pub fn get(&self, i: usize) -> Option<Value<'a>> {
        scalar(self.bytes, self.items.kind, self.at(i)?)
    }

    /// The bytes of string `i`, whether UTF-8 or not; `None` if the items are no strings.
    #[inline]
    pub fn bytes(&self, i: usize) -> Option<&'a [u8]> {
        if self.items.kind != Kind::Str {
            return None;
        }
        string(self.bytes.get(self.items.at + *self.items.starts.get(i)? as usize..)?)
    }

    /// The strings, all checked to be UTF-8; else the number of the first that is not (0 if they are no strings).
    pub fn strs(&self) -> Result<Strs<'a>, usize> {
        if self.items.kind != Kind::Str && !self.is_empty() {
            return Err(0);
        }
        let bad = (0..self.len()).find(|&i| self.bytes(i).is_none_or(|b| std::str::from_utf8(b).is_err()));
        bad.map_or_else(|| Ok(Strs(self.clone())), Err)
    }

    /// The items as `T`s, up to the first that is none.
    pub fn iter<T: FromValue<'a>>(&self) -> impl Iterator<Item = T> {
        (0..self.len()).map_while(|i| T::from_value(&self.get(i)?).ok())
    }
}

impl<'a> Strs<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// String `i`.
    #[inline]
    pub fn get(&self, i: usize) -> Option<&'a str> {
        std::str::from_utf8(self.0.bytes(i)?).ok()
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> {
        (0..self.len()).filter_map(|i| self.get(i))
    }
}

impl fmt::Display for Value<'_> {
    /// Short enough for a message: long strings are cut, arrays say their type and length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Uint(v) => v.fmt(f),
            Value::Int(v) => v.fmt(f),
            Value::F32(v) => v.fmt(f),
            Value::F64(v) => v.fmt(f),
            Value::Bool(v) => v.fmt(f),
            Value::Str(v) => write!(f, "\"{}\"", clip(v)),
            Value::Array(v) => v.fmt(f),
        }
    }
}

impl fmt::Display for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}; {}]", self.item_type(), self.len())
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Strs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What a metadata value can be read as.
pub trait FromValue<'a>: Sized {
    /// The type in words, for messages.
    const WHAT: &'static str;
    /// Reads the value; `Err(Some(_))` says more than "is not [`WHAT`](Self::WHAT)".
    fn from_value(value: &Value<'a>) -> Result<Self, Option<String>>;
}

macro_rules! from_value {
    ($($t:ty, $what:literal, $value:ident => $read:expr;)*) => {$(
        impl<'a> FromValue<'a> for $t {
            const WHAT: &'static str = $what;
            fn from_value($value: &Value<'a>) -> Result<Self, Option<String>> {
                $read.ok_or(None)
            }
        }
    )*};
}

/// Any integer that fits.
fn int<T: TryFrom<u64> + TryFrom<i64>>(value: &Value<'_>) -> Option<T> {
    match *value {
        Value::Uint(v) => T::try_from(v).ok(),
        Value::Int(v) => T::try_from(v).ok(),
        _ => None,
    }
}

fn float(value: &Value<'_>) -> Option<f64> {
    match *value {
        Value::F32(v) => Some(f64::from(v)),
        Value::F64(v) => Some(v),
        Value::Uint(v) => Some(v as f64),
        Value::Int(v) => Some(v as f64),
        _ => None,
    }
}

/// More items than any list that is asked for whole; the longest are per token.
const MAX_ITEMS: usize = 1 << 22;

fn list<'a, T: FromValue<'a>>(value: &Value<'a>) -> Option<Vec<T>> {
    let Value::Array(array) = value else { return None };
    if array.len() > MAX_ITEMS {
        return None;
    }
    let mut out = Vec::with_capacity(array.len());
    out.extend(array.iter::<T>());
    (out.len() == array.len()).then_some(out)
}

from_value! {
    u16, "a number from 0 to 65535", v => int(v);
    u32, "a number from 0 to 4294967295", v => int(v);
    u64, "a number of 0 or more", v => int(v);
    usize, "a number of 0 or more", v => int(v);
    i32, "a 32-bit number", v => int(v);
    i64, "a 64-bit number", v => int(v);
    f32, "a number", v => if let Value::F32(v) = v { Some(*v) } else { float(v).map(|v| v as f32) };
    f64, "a number", v => float(v);
    bool, "true or false", v => if let Value::Bool(v) = v { Some(*v) } else { None };
    &'a str, "a string", v => if let Value::Str(v) = v { Some(*v) } else { None };
    Array<'a>, "an array", v => if let Value::Array(v) = v { Some(v.clone()) } else { None };
    Vec<u32>, "an array of numbers of 0 or more", v => list(v);
    Vec<i32>, "an array of 32-bit numbers", v => list(v);
    Vec<f32>, "an array of numbers", v => list(v);
    Vec<bool>, "an array of truth values", v => list(v);
}

impl<'a> FromValue<'a> for Strs<'a> {
    const WHAT: &'static str = "an array of strings";
    fn from_value(value: &Value<'a>) -> Result<Self, Option<String>> {
        let Value::Array(array) = value else { return Err(None) };
        let not_utf8 = |i| (array.items.kind == Kind::Str).then(|| format!("is not UTF-8 in item {i}"));
        array.strs().map_err(not_utf8)
    }
}
