//! `alula cache`: packed weights that are kept.

use super::show::header::{human, one_line};
use crate::cli::{CacheFiles, CacheRm, List};
use crate::{Fail, models};
use alula_device::kept::{self, Kept};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// `alula cache list` and `alula cache rm`.
pub fn cache(a: &CacheFiles) -> Result<(), Fail> {
    match a {
        CacheFiles::List(a) => list(a),
        CacheFiles::Rm(a) => rm(a),
    }
}

/// The folder and what is in it.
fn files() -> Result<(PathBuf, Vec<Kept>), Fail> {
    let folder = models::packed().ok_or("there is no home directory; set ALULA_MODELS to the models directory")?;
    let files = kept::list(&folder).map_err(|e| failed(&folder, &e))?;
    Ok((folder, files))
}

fn failed(path: &Path, e: &std::io::Error) -> Fail {
    format!("{}: {e}; check who owns it", path.display()).into()
}

/// How long ago, in the largest unit that fits.
fn ago(time: SystemTime) -> String {
    let seconds = time.elapsed().unwrap_or(Duration::ZERO).as_secs();
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute")];
    match units.into_iter().find(|(unit, _)| seconds >= *unit) {
        Some((unit, name)) if seconds / unit == 1 => format!("1 {name} ago"),
        Some((unit, name)) => format!("{} {name}s ago", seconds / unit),
        None => "just now".to_owned(),
    }
}

fn list(a: &List) -> Result<(), Fail> {
    let (folder, files) = files()?;
    let (bytes, mut out) = (files.iter().map(|k| k.bytes).sum::<u64>(), std::io::stdout().lock());
    if a.json {
        let row = |k: &Kept| {
            let used = k.used.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
            json!({"name": k.name, "source": k.source, "file": k.file, "bytes": k.bytes, "last_use": used})
        };
        let rows: Vec<Value> = files.iter().map(row).collect();
        writeln!(out, "{}", json!({"files": rows, "bytes": bytes, "directory": folder}))?;
        return Ok(());
    }
    let head = ["NAME", "SIZE", "LAST USE", "MODEL"].map(str::to_owned);
    let row = |k: &Kept| {
        let source = k.source.as_deref().map_or("(broken)".to_owned(), |s| one_line(s, 200));
        [one_line(&k.name, 64), human(k.bytes, "B"), ago(k.used), source]
    };
    let lines: Vec<[String; 4]> = std::iter::once(head).chain(files.iter().map(row)).collect();
    let width = |i: usize| lines.iter().filter_map(|l| Some(l.get(i)?.chars().count())).max().unwrap_or(0);
    let [name, size, used] = [width(0), width(1), width(2)];
    for [a, b, c, d] in &lines {
        writeln!(out, "{a:name$}  {b:>size$}  {c:used$}  {d}")?;
    }
    writeln!(out, "\n{} in {}", human(bytes, "B"), folder.display())?;
    Ok(())
}

fn rm(a: &CacheRm) -> Result<(), Fail> {
    let (folder, mut files) = files()?;
    if !a.all {
        let name = a.name.as_deref().ok_or("say which, or --all")?;
        let path = Path::new(name).canonicalize().ok().map(|p| p.display().to_string());
        files.retain(|k| k.name == name || k.source.as_deref() == Some(name) || path.is_some() && k.source == path);
        if files.is_empty() {
            return Err(format!("`{name}` has no packed weights; `alula cache list` shows what has").into());
        }
    } else {
        kept::sweep(&folder).map_err(|e| failed(&folder, &e))?;
    }
    let mut out = std::io::stdout().lock();
    for k in &files {
        match std::fs::remove_file(&k.file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(&k.file, &e)),
            _ => {} // or another process was faster
        }
        writeln!(out, "{}  {}", one_line(&k.name, 64), human(k.bytes, "B"))?;
    }
    Ok(())
}
