//! `alula show`: what a model is and what it needs.

pub(super) mod header;
mod memory;

use crate::cli::Show;
use crate::{Fail, models};
use alula_device::Memory;
use alula_engine::local::{Package, usual_context};
use alula_graph::Window;
use alula_model::{Experts, Ffn, Head, Latent, Mixer, Spec};
use alula_template::Template;
use alula_tokenizer::Tokenizer;
use header::{Header, human, one_line};
use serde_json::{Map, Value, json};
use std::io::Write;

/// Metadata about the file itself: what it is called here, GGUF's key.
const ABOUT: &[(&str, &str)] = &[
    ("name", "general.name"),
    ("description", "general.description"),
    ("author", "general.author"),
    ("organization", "general.organization"),
    ("licence", "general.license"),
    ("size label", "general.size_label"),
    ("source", "general.source.url"),
    ("url", "general.url"),
];

/// `alula show MODEL`.
pub fn show(a: &Show) -> Result<(), Fail> {
    if a.ctx == Some(0) {
        return Err("--ctx is 0; give the number of tokens that prompt and answer have together".into());
    }
    let place = models::need(&a.model)?;
    let header = Header::open(&place)?;
    let path = if let models::Place::Path(p) = &place { Some(p) } else { None };
    let parameters = header.parameters();
    // A model that cannot run is shown all the same.
    let package = match parameters {
        0 => Err("the file has no weights".into()),
        _ => place.open(),
    };
    let context = |p: &Package| a.ctx.unwrap_or_else(|| usual_context(p.model.spec()));
    let needs = match &package {
        Ok(p) => memory::needs(p, context(p), Some(usize::MAX)).map(|n| (p, context(p), n.memory)),
        Err(e) => Err(e.to_string().into()),
    };
    let plan = match &package {
        Ok(p) if a.plan || a.memory.is_some() => Some(memory::Plan::new(p, context(p), a)?),
        _ => None,
    };
    let report = Report { path, header: &header, parameters, needs: &needs, plan, tokenizer: header.tokenizer() };
    let mut out = std::io::stdout().lock();
    match a.json {
        true => writeln!(out, "{:#}", report.to_json(&a.model))?,
        false => out.write_all(report.to_text(&a.model).as_bytes())?,
    }
    Ok(())
}

/// What is shown.
struct Report<'a> {
    path: Option<&'a std::path::PathBuf>,
    header: &'a Header,
    parameters: u64,
    /// The model, a context length and the memory it takes; or why it cannot run.
    needs: &'a Result<(&'a Package, usize, Memory), Fail>,
    plan: Option<memory::Plan>,
    tokenizer: Option<Result<Tokenizer, Fail>>,
}

impl Report<'_> {
    /// Metadata about the file, as far as it is there.
    fn about(&self, metadata: &Map<String, Value>) -> Vec<(&'static str, String)> {
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let found = ABOUT.iter().filter_map(|(what, key)| Some((*what, text(metadata.get(*key)?))));
        found.filter(|(_, text)| !text.is_empty()).collect()
    }

    fn to_json(&self, name: &str) -> Value {
        let (metadata, (bytes, files)) = (self.header.metadata(), self.header.size());
        let about: Map<String, Value> =
            self.about(&metadata).into_iter().map(|(k, v)| (k.replace(' ', "_"), v.into())).collect();
        let types = self.header.types();
        let types: Vec<Value> = types
            .iter()
            .map(|t| json!({"type": t.name, "tensors": t.tensors, "elements": t.elements, "bytes": t.bytes}))
            .collect();
        let needs = self.needs.as_ref();
        json!({
            "model": name,
            "path": self.path,
            "format": self.header.format(),
            "bytes": bytes,
            "files": files,
            "architecture": self.header.architecture(),
            "runs": needs.is_ok(),
            "why_not": needs.err().map(|e| e.to_string()),
            "about": about,
            "parameters": self.parameters,
            "shape": needs.ok().map(|(p, ..)| Value::Object(shape(p.model.spec()))),
            "tensor_types": types,
            "tokenizer": self.tokenizer.as_ref().map(|t| match t {
                Ok(t) => tokenizer_json(t),
                Err(e) => json!({"error": e.to_string()}),
            }),
            "chat_template": self.header.template(),
            "memory": needs.ok().map(|(_, context, m)| json!({
                "context": context,
                "cache_type": "f16",
                "weights": m.weights,
                "cache": m.cache,
                "work": m.work,
                "total": m.total(),
            })),
            "plan": self.plan.as_ref().map(memory::Plan::to_json),
            "metadata": metadata,
        })
    }

    fn to_text(&self, name: &str) -> String {
        let mut out = String::new();
        let mut line = |what: &str, text: String| out.push_str(&format!("{what:14}{text}\n"));
        let (metadata, (bytes, files)) = (self.header.metadata(), self.header.size());
        line("model", one_line(name, 200));
        let parts = if files > 1 { format!(" in {files} files") } else { String::new() };
        line("file", format!("{}, {}{parts}", self.header.format(), human(bytes, "B")));
        for (what, text) in self.about(&metadata) {
            line(what, one_line(&text, 200));
        }
        line("architecture", one_line(self.header.architecture().unwrap_or("not named"), 60));
        if self.parameters > 0 {
            line("parameters", format!("{} ({})", human(self.parameters, ""), self.parameters));
        }
        match self.needs {
            Ok((p, ..)) => {
                for (what, value) in shape(p.model.spec()) {
                    line(&what.replace('_', " "), plain(&value));
                }
            }
            Err(e) => {
                line("runs", format!("no: {e}"));
                let prefix = self.header.architecture().unwrap_or_default();
                let own = |key: &str| key.strip_prefix(prefix).and_then(|k| k.strip_prefix('.')).map(str::to_owned);
                for (key, value) in metadata.iter().filter(|(_, v)| !v.is_object()) {
                    let shown = match self.header {
                        Header::Gguf(_) => own(key),
                        Header::Folder(..) => Some(key.clone()),
                    };
                    if let Some(key) = shown {
                        line("", one_line(&format!("{key} = {}", plain(value)), 100));
                    }
                }
            }
        }
        for (i, t) in self.header.types().iter().enumerate() {
            let tensors = if t.tensors == 1 { "tensor" } else { "tensors" };
            let (elements, bytes) = (human(t.elements, ""), human(t.bytes, "B"));
            let text = format!("{:8}{:>5} {tensors:7}{elements:>8} values {bytes:>9}", t.name, t.tensors);
            line(if i == 0 { "tensors" } else { "" }, text);
        }
        match &self.tokenizer {
            None => line("tokenizer", "none".to_owned()),
            Some(Err(e)) => line("tokenizer", format!("broken: {e}")),
            Some(Ok(t)) => {
                let bos = if t.adds_bos() { ", BOS is added" } else { "" };
                line("tokenizer", format!("{}, {} tokens{bos}", t.kind(), t.vocab_size()));
                for (what, id) in specials(t) {
                    line("", format!("{what:6} {id} {}", one_line(t.token(id).unwrap_or("?"), 40)));
                }
            }
        }
        match self.header.template() {
            None => line("chat template", "none; ChatML is used".to_owned()),
            Some(text) => {
                let n = text.chars().count();
                let broken = Template::new(text).err().map(|e| format!("; broken: {e}")).unwrap_or_default();
                line("chat template", format!("{n} characters{broken}"));
                for l in text.lines().filter(|l| !l.trim().is_empty()).take(3) {
                    line("", one_line(l, 64));
                }
            }
        }
        if let Ok((p, context, m)) = self.needs {
            let (longest, mb) = (p.model.spec().context, |bytes: usize| human(bytes as u64, "B"));
            line("memory", format!("at a context of {context} tokens"));
            line("  weights", mb(m.weights));
            let type_matters = if p.model.spec().grows() { " (F16; twice that with --cache-type f32)" } else { "" };
            line("  cache", format!("{}{type_matters}", mb(m.cache)));
            line("  work", mb(m.work));
            line("  together", mb(m.total()));
            if *context > longest && !p.model.spec().endless() {
                line("", format!("but the model was made for {longest} tokens and refuses more"));
            }
        }
        for (what, text) in self.plan.iter().flat_map(memory::Plan::lines) {
            line(what, text);
        }
        out
    }
}

/// A value for people; of a list, what is in it and how often.
fn plain(value: &Value) -> String {
    match value {
        Value::Array(all) => {
            let mut counts: Vec<(&Value, usize)> = Vec::new();
            for v in all {
                match counts.iter_mut().find(|(seen, _)| *seen == v) {
                    Some((_, n)) => *n += 1,
                    None => counts.push((v, 1)),
                }
            }
            counts.into_iter().map(|(v, n)| format!("{} ({n}x)", plain(v))).collect::<Vec<_>>().join(", ")
        }
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The sizes of a model; what differs between layers is a list.
fn shape(spec: &Spec) -> Map<String, Value> {
    let mut out = Map::new();
    let layers = || spec.layers.iter().map(|l| (&l.mixer, &l.ffn));
    let mut each = |what: &str, of: &dyn Fn(&Mixer, &Ffn) -> Option<usize>| {
        let all: Vec<Option<usize>> = layers().map(|(m, f)| of(m, f)).collect();
        match all.first().copied().flatten() {
            Some(n) if all.iter().all(|&x| x == Some(n)) => _ = out.insert(what.to_owned(), n.into()),
            _ if all.iter().any(Option::is_some) => _ = out.insert(what.to_owned(), json!(all)),
            _ => {}
        }
    };
    let latent = |m: &Mixer, f: &dyn Fn(&Latent) -> usize| match m {
        Mixer::Latent(a) => Some(f(a)),
        _ => None,
    };
    let experts = |f: &Ffn, of: &dyn Fn(&Experts) -> Option<usize>| match f {
        Ffn::Experts(e) => of(e),
        _ => None,
    };
    each("heads", &|m, _| m.attention().map(|a| a.heads).or(latent(m, &|a| a.heads)));
    each("kv_heads", &|m, _| Some(m.attention()?.kv_heads));
    each("head_size", &|m, _| m.attention().map(|a| a.key_dim).or(latent(m, &|a| a.plain_dim + a.rope_dim)));
    each("latent", &|m, _| latent(m, &|a| a.rank));
    each("state_space", &|m, _| Some(m.ssm()?.inner));
    each("state_size", &|m, _| Some(m.ssm()?.state));
    each("feed_forward", &|_, f| match f {
        Ffn::Plain { width, .. } | Ffn::Gated { width, .. } => Some(*width),
        Ffn::Experts(_) | Ffn::None => None,
    });
    each("experts", &|_, f| experts(f, &|e| Some(e.count)));
    each("experts_used", &|_, f| experts(f, &|e| Some(e.route.used)));
    each("expert_width", &|_, f| experts(f, &|e| Some(e.width)));
    each("shared_width", &|_, f| experts(f, &|e| e.shared));
    let window = |m: &Mixer, f: &dyn Fn(Window) -> Option<usize>| f(m.attention()?.window?);
    each("window", &|m, _| window(m, &|w| if let Window::Sliding(n) = w { Some(n) } else { None }));
    each("chunk", &|m, _| window(m, &|w| if let Window::Chunked { chunk } = w { Some(chunk) } else { None }));
    let sizes = [("layers", spec.layers.len()), ("width", spec.width)];
    let mut all: Map<String, Value> = sizes.into_iter().map(|(k, n)| (k.to_owned(), n.into())).collect();
    all.append(&mut out);
    all.insert("context".to_owned(), spec.context.into());
    all.insert("vocabulary".to_owned(), spec.vocab.into());
    match spec.head {
        Head::Vocabulary => _ = all.insert("tied".to_owned(), spec.tied.into()),
        Head::Hidden(_) => _ = all.insert("makes".to_owned(), "vectors of texts".into()),
        Head::Classes(c) => _ = all.insert("makes".to_owned(), format!("scores of texts ({})", c.count).into()),
    }
    all
}

/// The tokens that begin and end texts.
fn specials(t: &Tokenizer) -> Vec<(&'static str, u32)> {
    let named = [("begin", t.bos()), ("end", t.eos())].into_iter().filter_map(|(what, id)| Some((what, id?)));
    let others = t.end_ids().iter().filter(|id| Some(**id) != t.eos()).map(|id| ("end", *id));
    named.chain(others).collect()
}

fn tokenizer_json(t: &Tokenizer) -> Value {
    let token = |id: u32| json!({"id": id, "token": t.token(id)});
    json!({
        "kind": t.kind(),
        "vocabulary": t.vocab_size(),
        "adds_bos": t.adds_bos(),
        "bos": t.bos().map(token),
        "eos": t.eos().map(token),
        "ends": t.end_ids().iter().map(|id| token(*id)).collect::<Vec<_>>(),
    })
}
