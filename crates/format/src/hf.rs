//! Folders as Hugging Face lays them out: configuration, tokenizer files, safetensors.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::Error;
use crate::json;
use crate::safetensors::SafeTensors;

/// Longest chat template that is read; the longest in use has 30 KB.
const MAX_TEMPLATE: u64 = 4 << 20;

/// A model's folder. Small files are read on opening, weights when asked for.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    config: Option<Value>,
    /// `generation_config.json`, if there is one.
    pub generation_config: Option<Value>,
    /// `tokenizer_config.json`, if there is one.
    pub tokenizer_config: Option<Value>,
    /// `special_tokens_map.json`, if there is one.
    pub special_tokens_map: Option<Value>,
    template: Option<String>,
}

/// Parses the bytes of a configuration file: a JSON object of moderate size. Python's bare `Infinity`, `-Infinity` and
/// `NaN` read as `{"__float__": "Infinity"}` and so on, which is how newer writers spell them.
///
/// # Errors
/// If they are anything else; `file` names them in the message.
pub fn parse_config(bytes: &[u8], file: &str) -> Result<Value, Error> {
    json::parse_object(bytes, file)
}

impl Folder {
    /// Reads the small files of a folder. Which of them a model needs is known to those who use it, so none is
    /// required here, but what is there must be valid.
    ///
    /// # Errors
    /// If `path` is no folder, or one of the files cannot be read or is not a JSON object.
    pub fn open(path: impl AsRef<Path>) -> Result<Folder, Error> {
        let path = path.as_ref();
        let name = path.display().to_string();
        if !std::fs::metadata(path).map_err(|e| Error::io(&name, "opened", e))?.is_dir() {
            return Err(Error::unsupported(&name, "", "is not a folder", "give the folder that holds config.json"));
        }
        let object = |file: &str| json::object(&path.join(file));
        let template_path = path.join("chat_template.jinja");
        let template = json::read(&template_path, MAX_TEMPLATE)?.map(String::from_utf8).transpose().map_err(|e| {
            let file = template_path.display().to_string();
            Error::malformed(&file, "", "is not UTF-8").at(e.utf8_error().valid_up_to())
        })?;
        Ok(Folder {
            config: object("config.json")?,
            generation_config: object("generation_config.json")?,
            tokenizer_config: object("tokenizer_config.json")?,
            special_tokens_map: object("special_tokens_map.json")?,
            path: path.to_owned(),
            template,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `config.json`, read as [`parse_config`] says.
    ///
    /// # Errors
    /// If the folder has none.
    pub fn config(&self) -> Result<&Value, Error> {
        self.config.as_ref().ok_or_else(|| self.lacks("config.json", "config.json"))
    }

    /// A JSON file in the folder or in one inside it, `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read or is no JSON, or if `file` leads out of the folder.
    pub fn json(&self, file: &str) -> Result<Option<Value>, Error> {
        if !Path::new(file).components().all(|c| matches!(c, Component::Normal(_))) {
            let what = format!("names the file `{}`", crate::clip_to(file, 96));
            return Err(Error::unsupported(&self.path.display().to_string(), "", what, "name one inside the folder"));
        }
        json::value(&self.path.join(file))
    }

    /// Where `tokenizer.json` is.
    ///
    /// # Errors
    /// If the folder has none.
    pub fn tokenizer(&self) -> Result<PathBuf, Error> {
        let path = self.path.join("tokenizer.json");
        if path.is_file() { Ok(path) } else { Err(self.lacks("tokenizer.json", "tokenizer.json")) }
    }

    /// The chat template: `chat_template.jinja` (newer models), or `chat_template` of the tokenizer's configuration,
    /// where it is a string or a list of named ones of which `default` is taken.
    pub fn chat_template(&self) -> Option<&str> {
        if self.template.is_some() {
            return self.template.as_deref();
        }
        match self.tokenizer_config.as_ref()?.get("chat_template")? {
            Value::String(template) => Some(template),
            Value::Array(named) => named.iter().find(|t| t["name"] == "default")?["template"].as_str(),
            _ => None,
        }
    }

    /// The weights: `model.safetensors`, or the shards of `model.safetensors.index.json`.
    ///
    /// # Errors
    /// If the folder has neither, or they cannot be opened.
    pub fn tensors(&self) -> Result<SafeTensors, Error> {
        let files = ["model.safetensors", "model.safetensors.index.json"].map(|f| self.path.join(f));
        match files.iter().find(|f| f.is_file()) {
            Some(file) => SafeTensors::open(file),
            None => Err(self.lacks("model.safetensors", "model.safetensors and no model.safetensors.index.json")),
        }
    }

    fn lacks(&self, field: &str, what: &str) -> Error {
        let what = format!("has no {what}");
        Error::missing(
            &self.path.display().to_string(),
            field,
            what,
            "download the whole model folder in its safetensors form",
        )
    }
}
