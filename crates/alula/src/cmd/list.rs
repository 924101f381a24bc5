//! `alula list`: the models at hand.

use super::show::header::{Header, human, one_line};
use crate::Fail;
use crate::cli::List;
use crate::models::{self, BUILTIN, Place};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;

/// A model, or what is wrong with it.
struct Row {
    name: String,
    path: Option<PathBuf>,
    bytes: u64,
    header: Result<Header, Fail>,
}

impl Row {
    fn new(name: String, place: Place, bytes: u64) -> Row {
        let header = Header::open(&place);
        let path = if let Place::Path(p) = place { Some(p) } else { None };
        Row { name, path, bytes, header }
    }

    /// The type of most elements; architecture; parameters.
    fn facts(h: &Header) -> (String, String, u64) {
        let kind = h.types().first().map_or_else(|| "vocabulary".to_owned(), |t| t.name.clone());
        (kind, h.architecture().unwrap_or("?").to_owned(), h.parameters())
    }

    fn to_json(&self) -> Value {
        let mut row = json!({"name": self.name, "path": self.path, "bytes": self.bytes});
        match &self.header {
            Ok(h) => {
                let (kind, arch, parameters) = Row::facts(h);
                (row["type"], row["architecture"], row["parameters"]) = (kind.into(), arch.into(), parameters.into());
                (row["format"], row["supported"]) = (h.format().into(), (h.known() && parameters > 0).into());
            }
            Err(e) => row["error"] = e.to_string().into(),
        }
        row
    }

    /// Name, size, type, parameters, architecture.
    fn to_text(&self) -> [String; 5] {
        let (name, size) = (one_line(&self.name, 48), human(self.bytes, "B"));
        match &self.header {
            Ok(h) => {
                let (kind, arch, parameters) = Row::facts(h);
                let known = if h.known() || parameters == 0 { "" } else { " (cannot run)" };
                [name, size, kind, human(parameters, ""), format!("{}{known}", one_line(&arch, 24))]
            }
            Err(e) => {
                // The file's name stands before it already.
                let text = e.to_string();
                let path = self.path.as_ref().map(|p| format!("{}: ", p.display())).unwrap_or_default();
                let what = one_line(text.strip_prefix(&path).unwrap_or(&text), 60);
                [name, size, "broken".into(), String::new(), what]
            }
        }
    }
}

/// `alula list`.
pub fn list(a: &List) -> Result<(), Fail> {
    let builtin = Place::Builtin.bytes().map_or(0, |b| b.len() as u64);
    let mut rows = vec![Row::new(BUILTIN.to_owned(), Place::Builtin, builtin)];
    rows.extend(models::entries().into_iter().map(|e| Row::new(e.name, Place::Path(e.path), e.bytes)));
    let (directory, mut out) = (models::directory(), std::io::stdout().lock());
    if a.json {
        let models: Vec<Value> = rows.iter().map(Row::to_json).collect();
        writeln!(out, "{}", json!({"models": models, "directory": directory}))?;
        return Ok(());
    }
    let head = ["NAME", "SIZE", "TYPE", "PARAMS", "ARCH"].map(str::to_owned);
    let lines: Vec<[String; 5]> = std::iter::once(head).chain(rows.iter().map(Row::to_text)).collect();
    let width = |i: usize| lines.iter().filter_map(|l| Some(l.get(i)?.chars().count())).max().unwrap_or(0);
    let [name, size, kind, parameters] = [width(0), width(1), width(2), width(3)];
    for [a, b, c, d, e] in &lines {
        writeln!(out, "{a:name$}  {b:>size$}  {c:kind$}  {d:>parameters$}  {e}")?;
    }
    if let Some(directory) = directory {
        let there = if directory.is_dir() { "" } else { " (not there yet)" };
        writeln!(out, "\nmodels directory: {}{there}", directory.display())?;
    }
    Ok(())
}
