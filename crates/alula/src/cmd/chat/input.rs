//! What the person says: lines, blocks in `"""`, lines that go on after a backslash, commands.

use crate::{Fail, say};
use rustyline::config::Config;
use rustyline::error::ReadlineError;
use rustyline::{ColorMode, DefaultEditor};
use std::io::{BufRead, Read};
use std::path::PathBuf;

/// Longest message, in bytes.
const LONGEST: u64 = 64 << 20;
/// Lines that the history keeps.
const HISTORY: usize = 1000;
/// Begins and ends a message of several lines.
const FENCE: &str = "\"\"\"";

/// One thing said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// To the model.
    Message(String),
    /// To Alula: `/name argument`.
    Command(String, String),
    /// Nothing more.
    End,
}

/// Where it comes from.
pub(super) enum Reader {
    /// A person at a terminal.
    Terminal { editor: Box<DefaultEditor>, history: Option<PathBuf>, colour: bool },
    /// A pipe, a file, or a terminal whose output goes elsewhere.
    Plain { line: u64 },
}

/// Lines as they come: `Stop` abandons what was begun.
enum Line {
    Text(String),
    Stop,
    End,
}

impl Reader {
    /// A reader of standard input.
    pub(super) fn new(terminal: bool) -> Result<Reader, Fail> {
        if !terminal {
            return Ok(Reader::Plain { line: 0 });
        }
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let colour = !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        let config = Config::builder()
            .max_history_size(HISTORY)?
            .color_mode(if colour { ColorMode::Enabled } else { ColorMode::Disabled })
            .build();
        let mut editor = Box::new(DefaultEditor::with_config(config)?);
        let history = history();
        if let Some(file) = &history {
            // There is none yet, or it cannot be read: the conversation works without.
            _ = editor.load_history(file);
        }
        Ok(Reader::Terminal { editor, history, colour })
    }

    /// The next thing said; empty lines are nothing.
    ///
    /// # Errors
    /// Standard input cannot be read or is not UTF-8.
    pub(super) fn next(&mut self) -> Result<Input, Fail> {
        loop {
            let mut raw = match self.line(">>> ")? {
                Line::Text(text) if text.trim().is_empty() => continue,
                Line::Text(text) => text,
                Line::Stop => {
                    say("Ctrl-D or /exit leaves");
                    continue;
                }
                Line::End => return Ok(Input::End),
            };
            let said = loop {
                match parse(&raw) {
                    Parsed::Whole(said) => break Some(said),
                    Parsed::More => match self.line("... ")? {
                        Line::Text(text) => raw = format!("{raw}\n{text}"),
                        Line::Stop => break None,
                        Line::End if self.is_plain() => break Some(unfinished(&raw)),
                        Line::End => break None,
                    },
                }
                if raw.len() as u64 > LONGEST {
                    return Err(too_long());
                }
            };
            self.remember(&raw);
            match said {
                Some(Input::Message(text)) if text.trim().is_empty() => {}
                Some(said) => return Ok(said),
                None => {}
            }
        }
    }

    fn is_plain(&self) -> bool {
        matches!(self, Reader::Plain { .. })
    }

    fn line(&mut self, prompt: &str) -> Result<Line, Fail> {
        match self {
            Reader::Terminal { editor, colour, .. } => {
                let styled = if *colour { format!("\x1b[1;32m{prompt}\x1b[0m") } else { prompt.to_owned() };
                match editor.readline(&(prompt, styled)) {
                    Ok(text) => Ok(Line::Text(text)),
                    Err(ReadlineError::Interrupted) => Ok(Line::Stop),
                    Err(ReadlineError::Eof) => Ok(Line::End),
                    Err(e) => Err(format!("the keyboard cannot be read: {e}").into()),
                }
            }
            Reader::Plain { line } => {
                *line += 1;
                let mut bytes = Vec::new();
                let mut input = std::io::stdin().lock().take(LONGEST);
                input.read_until(b'\n', &mut bytes).map_err(|e| format!("standard input: {e}"))?;
                if bytes.is_empty() {
                    return Ok(Line::End);
                }
                if bytes.len() as u64 == LONGEST {
                    return Err(too_long());
                }
                while bytes.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
                    bytes.pop();
                }
                match String::from_utf8(bytes) {
                    Ok(text) => Ok(Line::Text(text)),
                    Err(e) => {
                        let at = e.utf8_error().valid_up_to();
                        let what = format!("standard input, line {line}: not UTF-8 at byte {at}; convert it to UTF-8");
                        Err(what.into())
                    }
                }
            }
        }
    }

    /// Puts what was typed into the history; a full disk or the like costs only that.
    fn remember(&mut self, raw: &str) {
        let Reader::Terminal { editor, history: Some(file), .. } = self else { return };
        if editor.add_history_entry(raw).is_ok_and(|added| added) {
            _ = file.parent().map(std::fs::create_dir_all);
            _ = editor.append_history(file);
        }
    }
}

fn too_long() -> Fail {
    format!("standard input: a message is over {} MB; send less at once", LONGEST >> 20).into()
}

/// `alula/history` in the XDG state directory.
fn history() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state = var("XDG_STATE_HOME").or_else(|| Some(var("HOME")?.join(".local/state")));
    Some(state?.join("alula/history"))
}

/// What the lines so far are.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Whole(Input),
    More,
}

/// `/name` and the rest, if it is a command.
fn head(raw: &str) -> (Option<&str>, &str) {
    let text = raw.trim_start();
    match text.strip_prefix('/') {
        Some(rest) => {
            let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            (Some(name), rest.trim_start_matches([' ', '\t']))
        }
        None => (None, raw),
    }
}

fn said(name: Option<&str>, text: String) -> Input {
    match name {
        Some(name) => Input::Command(name.to_owned(), text),
        None => Input::Message(text),
    }
}

fn parse(raw: &str) -> Parsed {
    let (name, body) = head(raw);
    if let Some(open) = body.trim_start().strip_prefix(FENCE) {
        return match open.trim_end().strip_suffix(FENCE) {
            Some(text) => Parsed::Whole(said(name, block(text))),
            None => Parsed::More,
        };
    }
    if raw.ends_with('\\') {
        return Parsed::More;
    }
    Parsed::Whole(said(name, body.replace("\\\n", "\n")))
}

/// A message whose end never came.
fn unfinished(raw: &str) -> Input {
    let (name, body) = head(raw);
    match body.trim_start().strip_prefix(FENCE) {
        Some(text) => said(name, block(text)),
        None => said(name, body.strip_suffix('\\').unwrap_or(body).replace("\\\n", "\n")),
    }
}

/// The text of a block: the line ends next to its fences are not part of it.
fn block(text: &str) -> String {
    let text = text.strip_prefix('\n').unwrap_or(text);
    text.strip_suffix('\n').unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Parsed {
        Parsed::Whole(Input::Message(text.into()))
    }

    fn command(name: &str, text: &str) -> Parsed {
        Parsed::Whole(Input::Command(name.into(), text.into()))
    }

    #[test]
    fn lines_blocks_and_commands() {
        let q = FENCE;
        for (raw, want) in [
            ("hello", message("hello")),
            ("a\\", Parsed::More),
            ("a\\\nb", message("a\nb")),
            ("a\nb", message("a\nb")), // pasted
            (&format!("{q}one line{q}"), message("one line")),
            (q, Parsed::More),
            (&format!("{q}\na\n\nb"), Parsed::More),
            (&format!("{q}\na\n\nb\n{q}"), message("a\n\nb")),
            (&format!("{q}a\n/exit{q}  "), message("a\n/exit")),
            ("say \"\"\" to me", message("say \"\"\" to me")),
            ("/exit", command("exit", "")),
            ("  /set  temp 0", command("set", "temp 0")),
            ("/system a\\\nb", command("system", "a\nb")),
            (&format!("/system {q}\nx"), Parsed::More),
            (&format!("/system {q}\nx\ny\n{q}"), command("system", "x\ny")),
            ("/", command("", "")),
        ] {
            assert_eq!(parse(raw), want, "{raw:?}");
        }
    }

    #[test]
    fn a_block_without_end_is_what_came() {
        assert_eq!(unfinished("\"\"\"\na\nb"), Input::Message("a\nb".into()));
        assert_eq!(unfinished("a\\"), Input::Message("a".into()));
        assert_eq!(unfinished("/system \"\"\"x"), Input::Command("system".into(), "x".into()));
    }
}
