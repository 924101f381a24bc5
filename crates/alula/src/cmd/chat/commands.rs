//! The commands of a conversation, one row each.

use super::saved::{self, Saved};
use super::session::Session;
use crate::{Fail, say};
use std::path::PathBuf;

/// Does a command with its argument.
type Run = fn(&mut Session, &str) -> Result<(), Fail>;

/// Names, first the one that is shown; argument; what it does; how. Those without a way leave.
static COMMANDS: &[(&[&str], &str, &str, Option<Run>)] = &[
    (&["help", "?"], "", "this list", Some(help)),
    (&["system"], "TEXT", "the system message", Some(system)),
    (&["set"], "NAME VALUE", "change a setting", Some(set)),
    (&["lora"], "NAME …", "choose adapters", Some(lora)),
    (&["regen"], "", "answer anew", Some(|s, _| s.regenerate())),
    (&["save"], "FILE", "write the talk as JSON", Some(save)),
    (&["load"], "FILE", "read it again", Some(load)),
    (&["clear"], "", "forget the talk", Some(clear)),
    (&["stats"], "", "speeds, context use", Some(stats)),
    (&["exit", "quit", "bye"], "", "leave (or Ctrl-D)", None),
];

/// Does a command; true if it leaves.
///
/// # Errors
/// There is no such command, or it failed.
pub(super) fn run(session: &mut Session, name: &str, argument: &str) -> Result<bool, Fail> {
    match COMMANDS.iter().find(|c| c.0.contains(&name)) {
        Some((_, _, _, Some(run))) => run(session, argument).map(|()| false),
        Some((_, _, _, None)) => Ok(true),
        None => Err(format!("there is no command /{name}; /help lists them").into()),
    }
}

/// As narrow as the list above it: 40 columns.
const HINTS: &str = "\
/set alone lists the settings, /lora the
adapters; /lora none chooses none.
/system none removes the message.
A line that ends in \\ goes on; several
lines go between \"\"\" and \"\"\".
Ctrl-C stops an answer.";

fn help(_: &mut Session, _: &str) -> Result<(), Fail> {
    for (names, argument, what, _) in COMMANDS {
        let usage = format!("/{} {argument}", names.first().unwrap_or(&""));
        say(format_args!("{:17}{what}", usage));
    }
    say(HINTS);
    Ok(())
}

fn system(session: &mut Session, text: &str) -> Result<(), Fail> {
    match text {
        "" => say(session.system.as_deref().unwrap_or("There is no system message.")),
        "none" => session.system = None,
        text => session.system = Some(text.to_owned()),
    }
    Ok(())
}

fn set(session: &mut Session, argument: &str) -> Result<(), Fail> {
    let vocab = session.vocab();
    match argument.split_once(char::is_whitespace).map(|(name, value)| (name, value.trim())) {
        Some((name, value)) if !value.is_empty() => session.settings.set(name, value, vocab)?,
        _ if argument.is_empty() => {
            session.settings.list().for_each(|(name, value)| say(format_args!("{name:18}{value}")))
        }
        _ => say(session.settings.get(argument.trim())?),
    }
    Ok(())
}

fn lora(session: &mut Session, argument: &str) -> Result<(), Fail> {
    match argument.trim() {
        "" => {
            for (i, (name, factor)) in session.adapters.names().enumerate() {
                match session.chosen.iter().find(|c| c.index as usize == i) {
                    Some(chosen) => say(format_args!("{name:18}{}", chosen.scale)),
                    None => say(format_args!("{name:18}off ({factor})")),
                }
            }
        }
        "none" => session.chosen.clear(),
        names => session.chosen = session.adapters.choose(names.split_whitespace())?,
    }
    Ok(())
}

/// A file's name as it was typed: `~/` is the home directory.
fn path(argument: &str) -> Result<PathBuf, Fail> {
    match (argument.trim(), std::env::var_os("HOME")) {
        ("", _) => Err("give a file name, for example /save talk.json".into()),
        (text, Some(home)) if text.starts_with("~/") => Ok(PathBuf::from(home).join(&text[2..])),
        (text, _) => Ok(text.into()),
    }
}

fn save(session: &mut Session, argument: &str) -> Result<(), Fail> {
    let file = path(argument)?;
    let (system, turns) = (session.system.clone(), session.turns.clone());
    let n = turns.len();
    saved::save(&file, &session.name, &Saved { system, turns, sampling: session.settings.to_json() })?;
    say(format_args!("{n} turns written to {}", file.display()));
    Ok(())
}

fn load(session: &mut Session, argument: &str) -> Result<(), Fail> {
    let file = path(argument)?;
    let saved = saved::load(&file)?;
    let vocab = session.vocab();
    let named = |e: Fail| format!("{}: `sampling`: {e}", file.display());
    session.settings.read_json(&saved.sampling, vocab).map_err(named)?;
    say(format_args!("{} turns read from {}", saved.turns.len(), file.display()));
    if saved.turns.last().is_some_and(|t| t.answer.is_none()) {
        say("its last message has no answer yet; /regen answers it");
    }
    session.system = saved.system;
    session.restart(saved.turns);
    Ok(())
}

fn clear(session: &mut Session, _: &str) -> Result<(), Fail> {
    session.restart(Vec::new());
    Ok(())
}

fn stats(session: &mut Session, _: &str) -> Result<(), Fail> {
    let context = session.context();
    if let Some(u) = session.last() {
        let used = u.prompt + u.generated;
        say(format_args!("answer   {} tokens, {:.1} tokens/s", u.generated, u.generate_speed()));
        say(format_args!("prompt   {} tokens, {:.1} tokens/s", u.prompt, u.prompt_speed()));
        say(format_args!("first    after {:.1} ms", u.first_token().as_secs_f64() * 1e3));
        say(format_args!("seed     {}", u.seed));
        say(format_args!("context  {used} of {context} tokens, {:.0} %", used as f64 / context as f64 * 100.0));
    } else {
        say(format_args!("context  0 of {context} tokens; no answer yet"));
    }
    let unseen = match session.left_out() {
        0 => String::new(),
        n => format!(", the oldest {n} no longer seen"),
    };
    say(format_args!("turns    {}{unseen}", session.turns.len()));
    let (memory, mb) = (session.memory(), |bytes: usize| bytes as f64 / 1e6);
    let fetched = match memory.fetched {
        0 => String::new(),
        n => format!(", {:.1} MB for {:.1} MB of weights that are fetched", mb(memory.room), mb(n)),
    };
    say(format_args!("memory   {:.1} MB weights, {:.1} MB cache{fetched}", mb(memory.weights), mb(memory.cache)));
    Ok(())
}
