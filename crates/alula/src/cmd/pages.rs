//! Shell completions and man pages, made from the flags.

use crate::Fail;
use crate::cli::{Completions, Man, command};
use std::io::Write;

/// `alula completions SHELL`.
pub fn completions(a: &Completions) -> Result<(), Fail> {
    let mut out = Vec::new();
    clap_complete::generate(a.shell, &mut command(), "alula", &mut out);
    std::io::stdout().write_all(&out)?;
    Ok(())
}

/// `alula man FOLDER`.
pub fn man(a: &Man) -> Result<(), Fail> {
    std::fs::create_dir_all(&a.folder).map_err(|e| format!("{}: {e}", a.folder.display()))?;
    clap_mangen::generate_to(command(), &a.folder).map_err(|e| format!("{}: {e}", a.folder.display()))?;
    Ok(())
}
