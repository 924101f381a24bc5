//! Flags of `alula cache`.

use super::List;
use clap::{Args, Subcommand};

/// `alula cache`.
#[derive(Subcommand, Debug)]
pub enum CacheFiles {
    /// List them
    List(List),
    /// Remove some of them, or all
    Rm(CacheRm),
}

/// `alula cache rm`.
#[derive(Args, Debug)]
pub struct CacheRm {
    /// Name or model, as `alula cache list` shows it
    #[arg(required_unless_present = "all")]
    pub name: Option<String>,
    /// Remove all of them, and what interrupted runs left
    #[arg(long, env = "ALULA_ALL", conflicts_with = "name")]
    pub all: bool,
}
