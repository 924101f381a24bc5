//! Opening a model: which dialect, which architecture.

use crate::lora::{self, Adapter, Host};
use crate::weights::{Name, Store, Weights};
use crate::zoo::{Arch, ZOO, known};
use crate::{Config, Dialect, Ffn, Head, ModelError, Spec, build, written};
use alula_format::clip_to;
use alula_format::gguf::Gguf;
use alula_format::hf::Folder;
use alula_format::safetensors::SafeTensors;
use alula_graph::{Graph, WeightSource};
use serde_json::Value;
use std::path::Path;

/// The largest models have some 25,000.
const MOST_PARTS: usize = 1 << 18;

/// The files of a model.
#[derive(Clone, Copy)]
pub enum Files<'a> {
    /// A GGUF file, or its parts.
    Gguf(&'a Gguf),
    /// A Hugging Face folder and its tensors.
    Folder(&'a Folder, &'a SafeTensors),
}

/// A model, opened and checked: its spec, its graph, and where its weights are.
pub struct Model {
    arch: &'static str,
    spec: Spec,
    graph: Graph,
    draft: Option<Graph>,
    weights: Weights,
    /// What its tensors are called in a Hugging Face folder.
    names: &'static [&'static [Name]],
    adapters: Vec<Adapter>,
    folder: Option<Folder>,
}

impl Model {
    /// Opens a GGUF file (the first part of a split one), a Hugging Face folder, or a folder with a `spec.toml`.
    ///
    /// # Errors
    /// It cannot be read, is of an unknown architecture, or is not complete.
    pub fn open(path: &Path) -> Result<Model, ModelError> {
        let name = path.display().to_string();
        match std::fs::metadata(path) {
            Ok(m) if m.is_dir() => Model::from_folder(Folder::open(path)?),
            Ok(_) if path.extension().is_some_and(|e| e == "safetensors") => {
                let why = "is only the weights; give the folder that also holds config.json".into();
                Err(ModelError::Path { path: name, why })
            }
            Ok(_) => Model::from_gguf(Gguf::open(path)?, &name),
            Err(e) => Err(ModelError::Path { path: name, why: format!("{e}; give a GGUF file or a model folder") }),
        }
    }

    /// A model from an open GGUF file; `name` stands for it in messages.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_gguf(gguf: Gguf, name: &str) -> Result<Model, ModelError> {
        let arch = gguf.metadata.str("general.architecture")?.to_owned();
        let row = find(name, &arch, |a| a.gguf == arch)?;
        // Names are GGUF's own.
        let weights = Weights::new(name.to_owned(), Store::Gguf(gguf), &[]);
        let spec = match &weights.store {
            Store::Gguf(g) => spec(row, Dialect::Gguf(&g.metadata, &arch), &weights)?,
            Store::Safe(_) => unreachable!("made two lines above"),
        };
        Model::new(row.gguf, spec, weights, row.names, None)
    }

    /// A model from an open folder.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_folder(folder: Folder) -> Result<Model, ModelError> {
        let name = folder.path().display().to_string();
        let path = folder.path().join(written::FILE);
        if path.is_file() {
            let weights = Weights::new(path.display().to_string(), Store::Safe(folder.tensors()?), &[]);
            return Model::new(written::FILE, written::read(&path)?, weights, &[], Some(folder));
        }
        let config = folder.config()?;
        let file = format!("{name}/config.json");
        let missing =
            || ModelError::Config { file: file.clone(), field: "model_type".into(), why: "is missing".into() };
        let kind = config.get("model_type").and_then(Value::as_str).ok_or_else(missing)?;
        let row = find(&file, kind, |a| a.hf.contains(&kind))?;
        let mut weights = Weights::new(file, Store::Safe(folder.tensors()?), row.names);
        let blocks =
            config.get("quantization_config").and_then(|q| q.get("weight_block_size")).and_then(Value::as_array);
        if let Some([Some(rows), Some(cols)]) =
            blocks.map(|b| b.iter().map(Value::as_u64).collect::<Vec<_>>()).as_deref()
        {
            weights.block = (*rows as usize, *cols as usize);
        }
        // Multimodal models keep the decoder's configuration inside.
        let config = config.get("text_config").unwrap_or(config);
        let spec = spec(row, Dialect::Hf(config), &weights)?;
        Model::new(row.gguf, spec, weights, row.names, Some(folder))
    }

    fn new(
        arch: &'static str,
        spec: Spec,
        mut weights: Weights,
        names: &'static [&'static [Name]],
        folder: Option<Folder>,
    ) -> Result<Model, ModelError> {
        let parts = spec.parts();
        if parts > MOST_PARTS {
            let why = format!("has {parts} experts and heads with matrices of their own; expected up to {MOST_PARTS}");
            return Err(ModelError::Path { path: weights.file, why });
        }
        let graph = build::build(&spec, &mut weights)?;
        let draft = build::draft(&spec, &mut weights)?;
        Ok(Model { arch, spec, graph, draft, weights, names, adapters: Vec::new(), folder })
    }

    /// The same model with another head, which its file must have.
    ///
    /// # Errors
    /// The file lacks a tensor, or an adapter is not for this head.
    pub fn with_head(mut self, head: Head) -> Result<Model, ModelError> {
        self.spec.head = head;
        let adapters = std::mem::take(&mut self.adapters);
        self.graph = build::build(&self.spec, &mut self.weights)?;
        self.with_adapters(adapters)
    }

    /// The same model with adapters, of which each sequence may have some: their numbers are those of [`alula_graph::Low`].
    /// What guesses tokens has none.
    ///
    /// # Errors
    /// An adapter is not for this model, or for a matrix that cannot have one while the model runs.
    pub fn with_adapters(mut self, adapters: Vec<Adapter>) -> Result<Model, ModelError> {
        if !adapters.is_empty() {
            let host = Host { arch: self.arch, spec: &self.spec, names: self.names };
            self.graph = lora::apply(host, &self.graph, &mut self.weights, &adapters)?;
            self.adapters.extend(adapters);
        }
        Ok(self)
    }

    /// The same model with adapters' products, each with a factor, added to its weights. Those are then of the same types as
    /// before.
    ///
    /// # Errors
    /// An adapter is not for this model, or for a matrix that is quantised or stands for two.
    pub fn merged(mut self, adapters: &[(Adapter, f32)]) -> Result<Model, ModelError> {
        let host = Host { arch: self.arch, spec: &self.spec, names: self.names };
        lora::merge(host, &self.graph, &mut self.weights, adapters)?;
        Ok(self)
    }

    /// The architecture's GGUF name, or `spec.toml`.
    pub fn arch(&self) -> &'static str {
        self.arch
    }

    /// The model as data.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The model as a computation.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// What guesses the token after the next one, if it has a layer for it. Its input is what the graph keeps.
    pub fn draft(&self) -> Option<&Graph> {
        self.draft.as_ref()
    }

    /// Its weights, by the names that the graphs use.
    pub fn weights(&self) -> &dyn WeightSource {
        &self.weights
    }

    /// Its files.
    pub fn files(&self) -> Files<'_> {
        match (&self.weights.store, &self.folder) {
            (Store::Gguf(g), _) => Files::Gguf(g),
            (Store::Safe(s), Some(f)) => Files::Folder(f, s),
            (Store::Safe(_), None) => unreachable!("safetensors come with their folder"),
        }
    }
}

fn find(file: &str, arch: &str, is: impl Fn(&Arch) -> bool) -> Result<&'static Arch, ModelError> {
    let unknown = || ModelError::Architecture { file: file.into(), arch: clip_to(arch, 96), known: known() };
    ZOO.iter().find(|a| is(a)).copied().ok_or_else(unknown)
}

fn spec(row: &Arch, dialect: Dialect<'_>, weights: &Weights) -> Result<Spec, ModelError> {
    let config = Config { dialect, file: &weights.file, weights };
    let spec = (row.spec)(&config)?;
    // Mixtral's files say `llama`; where the zoo knows routers, no layer need have one.
    let sparse = row.names.iter().copied().flatten().any(|n| n.0.ends_with("ffn_gate_inp"))
        || spec.layers.iter().any(|l| matches!(l.ffn, Ffn::Experts(_)));
    match config.size("expert_count")? {
        Some(n) if n > 1 && config.is_gguf() && !sparse => {
            Err(config.error("expert_count", format!("is {n}, but models of this architecture have no experts")))
        }
        _ => Ok(spec),
    }
}
