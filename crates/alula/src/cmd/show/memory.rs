//! What a model needs when it runs, worked out without loading it, and how fast that could be here.

use super::header::human;
use crate::cli::Show;
use crate::{Fail, open};
use alula_device::{Cpu, CpuDevice, Device, Memory, Needs};
use alula_engine::local::{LoadOptions, Package};
use serde_json::{Value, json};

/// What it needs at a context length, with a half-precision cache, in so much memory; without, in what the machine has.
///
/// # Errors
/// A tensor's type is not one that Alula computes with, or so much memory is not enough.
pub(super) fn needs(package: &Package, context: usize, within: Option<usize>) -> Result<Needs, Fail> {
    let device = CpuDevice::new(Cpu::from_env()?, alula_device::threads());
    let device = if let Some(bytes) = within { device.within(bytes) } else { device };
    let limits = LoadOptions::default().limits(context);
    Ok(device.needs(package.model.graph(), package.model.weights(), limits)?)
}

/// What would be where, and what this machine makes of it.
pub(super) struct Plan {
    needs: Needs,
    /// Bytes of memory, and whether they were asked for.
    within: (usize, bool),
    /// Bytes per second.
    memory: f64,
    disk: Option<f64>,
}

impl Plan {
    /// Measures memory and disk.
    ///
    /// # Errors
    /// As [`needs`].
    pub(super) fn new(package: &Package, context: usize, a: &Show) -> Result<Plan, Fail> {
        let asked = a.memory.map(open::rest);
        let have = || alula_device::available().map_or(usize::MAX, |n| n / 10 * 9);
        let needs = needs(package, context, asked)?;
        let within = (asked.unwrap_or_else(have), asked.is_some());
        let device = CpuDevice::new(Cpu::from_env()?, alula_device::threads());
        let memory = device.ceilings().read.map_or(f64::INFINITY, |r| r.all);
        let disk = open::disk(package);
        Ok(Plan { needs, within, memory, disk })
    }

    /// Bytes that a token reads from the disk, if every expert is as likely as any other.
    fn read(&self) -> f64 {
        let Needs { memory: m, token_fetched, .. } = self.needs;
        if m.fetched == 0 { 0.0 } else { token_fetched as f64 * (1.0 - m.room as f64 / m.fetched as f64).max(0.0) }
    }

    /// Tokens per second of one stream at most; `None` where nothing could be read.
    fn speed(&self) -> Option<f64> {
        let (read, token) = (self.read(), self.needs.token as f64);
        let disk = if read > 0.0 { read / self.disk? } else { 0.0 };
        // At best the disk is read while is computed.
        Some(1.0 / disk.max(token / self.memory))
    }

    pub(super) fn to_json(&self) -> Value {
        let Needs { memory: m, token, token_fetched } = self.needs;
        json!({
            "within": self.within.0,
            "always_in_memory": Memory { room: 0, ..m }.total(),
            "fetched": m.fetched,
            "fetched_in_memory": m.room,
            "token_weights": token,
            "token_fetched": token_fetched,
            "token_read": self.read(),
            "memory_bytes_per_second": self.memory,
            "disk_bytes_per_second": self.disk,
            "tokens_per_second": self.speed(),
        })
    }

    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let Needs { memory: m, token, token_fetched } = self.needs;
        let size = |bytes: usize| human(bytes as u64, "B");
        let (bytes, asked) = self.within;
        let source = if asked { "--memory, less what the program takes" } else { "what this machine has to give" };
        let mut lines = vec![("plan", format!("for {} of memory: {source}", size(bytes)))];
        let always = Memory { room: 0, ..m }.total();
        let more = if m.fetched == 0 && always > bytes { ", which is more than that" } else { "" };
        let always = size(always);
        if m.fetched == 0 {
            lines.push(("  in memory", format!("all of it, {always}{more}")));
            lines.push(("  a token", format!("reads {} of weights", size(token))));
        } else {
            lines.push(("  always", format!("{always}: {} of weights, cache, work", size(m.weights))));
            let (fetched, room) = (size(m.fetched), size(m.room));
            lines
                .push(("  fetched", format!("{fetched} when they are needed; {room} of them are in memory at a time")));
            let (read, of) = (size(self.read() as usize), size(token_fetched));
            let text = format!(
                "reads {} of weights; {of} are of those that are fetched, {read} come from the disk",
                size(token)
            );
            lines.push(("  a token", text));
            lines.push(("", "if all experts are equally likely; those that are hot stay".to_owned()));
        }
        let disk = self.disk.map(|d| format!(", disk {}/s", size(d as usize))).unwrap_or_default();
        lines.push(("  measured", format!("memory {}/s{disk}", size(self.memory as usize))));
        match self.speed() {
            Some(speed) => lines.push(("  at most", format!("{speed:.1} tokens/s, one stream"))),
            None => lines.push(("  at most", "not known: the disk's speed could not be measured".to_owned())),
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{models::Place, open};

    fn check(place: &Place, context: usize) {
        let package = place.open().unwrap();
        let context = context.min(package.model.spec().context);
        let said = needs(&package, context, Some(usize::MAX)).unwrap();
        let options = LoadOptions { context: Some(context), ..LoadOptions::default() };
        let is = open::load(&package, crate::cli::Compute::default(), options).unwrap().memory();
        assert_eq!(said.memory, is, "{place:?}");
        assert!(said.token > 0 && said.token <= is.weights && said.token_fetched == 0, "{place:?}");
    }

    /// What is said about a model is what it takes when it is loaded: the built-in one, and one of every kind there is.
    #[test]
    fn as_the_device_says() {
        check(&Place::Builtin, 300);
        check(&Place::Builtin, 1);
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity");
        for model in std::fs::read_dir(folder).unwrap().map(|m| m.unwrap().path()) {
            let (folder, gguf) = (model.join("config.json").exists(), model.join("model.gguf"));
            if folder {
                check(&Place::Path(model), 77);
            }
            if gguf.exists() {
                check(&Place::Path(gguf), 77);
            }
        }
    }
}
