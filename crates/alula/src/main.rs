//! Alula: run language models on small machines.
#![forbid(unsafe_code)]
// Nobody is outside of a binary.
#![allow(unreachable_pub)]

mod cli;
mod cmd;
mod models;
mod open;

use clap::FromArgMatches;
use std::io::Write;
use std::process::ExitCode;

/// What a command failed with; printed as one sentence.
type Fail = Box<dyn std::error::Error + Send + Sync>;

/// One line for the person, on standard error; if nobody can read it, it is lost.
fn say(text: impl std::fmt::Display) {
    _ = writeln!(std::io::stderr(), "{text}");
}

fn main() -> ExitCode {
    let matches = cli::config::matches();
    if let Some(serve) = matches.subcommand_matches("serve").filter(|m| m.get_flag("print_config")) {
        // Who does not read it has asked for nothing.
        _ = std::io::stdout().write_all(cli::config::text(serve).as_bytes());
        return ExitCode::SUCCESS;
    }
    let cli = cli::Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    match cmd::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has gone (`alula … | head`): there is nothing left to do.
        Err(e) if e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(e) => {
            say(format_args!("alula: {e}"));
            ExitCode::FAILURE
        }
    }
}
