//! What `$ref` means: JSON pointers, anchors and identifiers inside the document.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;

use crate::Error;

/// A schema and where it is.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    pub(super) value: &'a Value,
    pub(super) path: String,
}

/// A schema that something refers to; it is called by its index.
pub(super) struct Target<'a> {
    pub(super) index: usize,
    pub(super) place: Place<'a>,
}

pub(super) struct Refs<'a> {
    root: &'a Value,
    /// Resources and anchors by their whole identifier: `http://x/y`, `http://x/y#anchor`.
    named: HashMap<String, Place<'a>>,
    /// Paths of resources that have an identifier of their own, with it.
    bases: Vec<(String, String)>,
    indices: HashMap<String, usize>,
    queue: VecDeque<Target<'a>>,
}

/// Words whose values hold data and no schemas.
const DATA: [&str; 5] = ["enum", "const", "default", "examples", "example"];

impl<'a> Refs<'a> {
    pub(super) fn new(root: &'a Value, depth: usize) -> Result<Self, Error> {
        let mut refs = Refs {
            root,
            named: HashMap::new(),
            bases: vec![("#".into(), String::new())],
            indices: HashMap::new(),
            queue: VecDeque::new(),
        };
        refs.collect(root, "#", "", 2 * depth)?;
        // The deepest resource that holds a place is its base.
        refs.bases.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Ok(refs)
    }

    /// Finds identifiers and anchors.
    fn collect(&mut self, value: &'a Value, path: &str, base: &str, depth: usize) -> Result<(), Error> {
        if depth == 0 {
            return Err(Error::TooComplex(format!("{path}: the schema is nested too deep")));
        }
        let mut base = base.to_string();
        match value {
            Value::Object(map) => {
                let text = |word: &str| map.get(word).and_then(Value::as_str);
                if let Some(id) = text("$id").or_else(|| text("id").filter(|id| id.contains([':', '#', '/', '.']))) {
                    let place = || Place { value, path: path.into() };
                    match id.strip_prefix('#') {
                        Some("") => {}
                        Some(anchor) => drop(self.named.insert(format!("{base}#{anchor}"), place())),
                        None => {
                            base = join(&base, id.trim_end_matches('#'));
                            self.bases.retain(|(known, _)| known != path);
                            self.bases.push((path.into(), base.clone()));
                            self.named.insert(base.clone(), place());
                        }
                    }
                }
                for word in ["$anchor", "$dynamicAnchor"] {
                    if let Some(anchor) = text(word) {
                        self.named.insert(format!("{base}#{anchor}"), Place { value, path: path.into() });
                    }
                }
                for (name, value) in map.iter().filter(|(name, _)| !DATA.contains(&name.as_str())) {
                    self.collect(value, &format!("{path}/{}", crate::error::escape(name)), &base, depth - 1)?;
                }
            }
            Value::Array(list) => {
                for (i, value) in list.iter().enumerate() {
                    self.collect(value, &format!("{path}/{i}"), &base, depth - 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The schema at a path of the document, the whole document if there is none.
    pub(super) fn place(&self, path: &str) -> Place<'a> {
        let found = path.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
        match found {
            Some(value) => Place { value, path: path.into() },
            None => Place { value: self.root, path: "#".into() },
        }
    }

    /// The index of what a reference that stands at a path means.
    pub(super) fn resolve(&mut self, reference: &str, from: &str) -> Result<usize, Error> {
        let place = self.find(reference, from).ok_or_else(|| {
            let what = format!("{reference:?} is nowhere in this schema; put what it refers to under `$defs`");
            Error::schema(from, "$ref", what)
        })?;
        let next = self.indices.len();
        let index = *self.indices.entry(place.path.clone()).or_insert(next);
        if index == next {
            self.queue.push_back(Target { index, place });
        }
        Ok(index)
    }

    fn find(&self, reference: &str, from: &str) -> Option<Place<'a>> {
        let inside = |path: &str| from == path || from.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        let (home, base) = self.bases.iter().find(|(path, _)| inside(path))?;
        let (uri, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let fragment = percent(fragment);
        let whole = if uri.is_empty() { base.clone() } else { join(base, uri) };
        let resource = match whole == *base {
            true => self.place(home),
            false => self.named.get(&whole)?.clone(),
        };
        if fragment.is_empty() {
            return Some(resource);
        }
        if fragment.starts_with('/') {
            let value = resource.value.pointer(&fragment)?;
            return Some(Place { value, path: format!("{}{fragment}", resource.path) });
        }
        self.named.get(&format!("{whole}#{fragment}")).cloned()
    }

    /// The next schema that was referred to and not yet taken.
    pub(super) fn next(&mut self) -> Option<Target<'a>> {
        self.queue.pop_front()
    }
}

/// A reference relative to a base: whole if it has a scheme, else in the place of the base's last step.
fn join(base: &str, reference: &str) -> String {
    let scheme = reference.split(['/', '?', '#']).next().is_some_and(|start| start.contains(':'));
    if scheme || base.is_empty() {
        return reference.into();
    }
    let authority = base.find("://").map_or(0, |at| at + 3);
    let host = base[authority..].find('/').map_or(base.len(), |at| authority + at);
    if reference.starts_with('/') {
        return format!("{}{reference}", &base[..host]);
    }
    let mut folder = base.rfind('/').filter(|&at| at >= host).map_or("", |at| &base[..at + 1]).to_string();
    let mut rest = reference;
    loop {
        if let Some(after) = rest.strip_prefix("./") {
            rest = after;
        } else if let Some(after) = rest.strip_prefix("../") {
            rest = after;
            let up = folder.trim_end_matches('/').rfind('/').filter(|&at| at >= host);
            folder.truncate(up.map_or(folder.len(), |at| at + 1));
        } else {
            return format!("{folder}{rest}");
        }
    }
}

/// Percent-decodes; what is no UTF-8 then stays as it was.
fn percent(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |b: u8| (b as char).to_digit(16);
        match (first, tail) {
            (b'%', [a, b, after @ ..]) if hex(*a).is_some() && hex(*b).is_some() => {
                bytes.push((hex(*a).unwrap_or(0) * 16 + hex(*b).unwrap_or(0)) as u8);
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_joined() {
        // RFC 3986, 5.4.
        for (base, reference, whole) in [
            ("http://a/b/c/d;p?q", "g", "http://a/b/c/g"),
            ("http://a/b/c/d;p?q", "./g", "http://a/b/c/g"),
            ("http://a/b/c/d;p?q", "/g", "http://a/g"),
            ("http://a/b/c/d;p?q", "../g", "http://a/b/g"),
            ("http://a/b/c/d;p?q", "../../g", "http://a/g"),
            ("http://a/b/c/d;p?q", "g:h", "g:h"),
            ("", "a.json", "a.json"),
        ] {
            assert_eq!(join(base, reference), whole, "{reference} in {base}");
        }
        assert_eq!(percent("/a%25b~1%22"), "/a%b~1\"");
    }
}
