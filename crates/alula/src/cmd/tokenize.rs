//! `alula tokenize` and `alula detokenize`.

use crate::cli::{Detokenize, Tokenize};
use crate::{Fail, models, open};
use alula_engine::local::folder_tokenizer;
use alula_format::gguf::Gguf;
use alula_format::hf::Folder;
use alula_tokenizer::Tokenizer;
use std::io::{IsTerminal, Write};

/// A model's tokenizer, without looking at its weights.
fn tokenizer(name: &str) -> Result<Tokenizer, Fail> {
    let place = models::need(name)?;
    let gguf = match (&place, place.bytes()) {
        (models::Place::Path(p), _) if p.is_dir() => return Ok(folder_tokenizer(&Folder::open(p)?)?),
        (models::Place::Path(p), _) => Gguf::open(p)?,
        (models::Place::Builtin, bytes) => Gguf::from_bytes(bytes.unwrap_or_default(), name)?,
    };
    Ok(Tokenizer::from_gguf(&gguf.metadata, name)?)
}

/// `alula tokenize MODEL TEXT`.
pub fn tokenize(a: &Tokenize) -> Result<(), Fail> {
    let tokenizer = tokenizer(&a.model)?;
    let text = match &a.file {
        // A file is taken whole, also a line end at its end.
        Some(f) => {
            open::utf8(std::fs::read(f).map_err(|e| format!("{}: {e}", f.display()))?, &f.display().to_string())?
        }
        None => open::text(a.text.as_deref())?,
    };
    let ids = tokenizer.encode(&text, !a.no_special, !a.no_special)?;
    let mut out = std::io::stdout().lock();
    if a.ids {
        writeln!(out, "{}", join(&ids))?;
    } else {
        for id in ids {
            writeln!(out, "{id:>7}  {:?}", String::from_utf8_lossy(&tokenizer.token_bytes(id)))?;
        }
    }
    Ok(())
}

/// Ids on one line.
pub fn join(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// `alula detokenize MODEL IDS`.
pub fn detokenize(a: &Detokenize) -> Result<(), Fail> {
    let tokenizer = tokenizer(&a.model)?;
    let text = open::text(a.ids.as_deref())?;
    let size = tokenizer.vocab_size();
    let id = |t: &str| match t.parse::<u32>() {
        Ok(id) if (id as usize) < size => Ok(id),
        Ok(id) => Err(format!("id {id} is not in the vocabulary of {size} tokens")),
        Err(_) => Err(format!("`{t}` is not a token id; give numbers separated by commas")),
    };
    let parts = text.split([',', ' ', '\n']).map(str::trim).filter(|t| !t.is_empty());
    let ids = parts.map(id).collect::<Result<Vec<_>, _>>()?;
    let mut out = std::io::stdout().lock();
    out.write_all(tokenizer.decode(&ids, a.no_special).as_bytes())?;
    if out.is_terminal() {
        writeln!(out)?;
    }
    Ok(())
}
