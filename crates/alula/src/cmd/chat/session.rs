//! A conversation with a loaded model.

use super::Interrupt;
use super::settings::Settings;
use crate::cli::Compute;
use crate::open::Adapters;
use crate::{Fail, open, say};
use alula_device::Memory;
use alula_engine::local::{LoadOptions, Local, Package};
use alula_engine::speech::Speech;
use alula_engine::{Adapter, Engine, Event, Id, Options, Reason, Request, Runner, Usage};
use serde_json::json;
use std::io::{IsTerminal, Write};

/// A message and its answer; there is none if it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) message: String,
    pub(super) answer: Option<String>,
}

/// A conversation.
pub(super) struct Session {
    pub(super) name: String,
    pub(super) system: Option<String>,
    pub(super) turns: Vec<Turn>,
    pub(super) settings: Settings,
    pub(super) adapters: Adapters,
    /// Those that answer.
    pub(super) chosen: Vec<Adapter>,
    engine: Engine<Local>,
    speech: Speech,
    /// Oldest turns that the model no longer sees.
    left_out: usize,
    /// How often the last message was answered anew.
    again: u64,
    last: Option<Usage>,
    interrupt: Interrupt,
}

impl Session {
    /// Loads the model.
    pub(super) fn open(
        package: &Package,
        compute: Compute,
        options: LoadOptions,
        settings: Settings,
        interrupt: Interrupt,
    ) -> Result<Session, Fail> {
        let (tokenizer, words) = open::words(package)?;
        let speech = Speech::new(package, tokenizer)?;
        if speech.borrowed() {
            say(format_args!("{} has no chat template; messages are written as ChatML", package.name));
        }
        settings.sampling.check(package.model.spec().vocab)?;
        let local = open::load(package, compute, options)?;
        Ok(Session {
            name: package.name.clone(),
            system: None,
            turns: Vec::new(),
            settings,
            adapters: Adapters::default(),
            chosen: Vec::new(),
            engine: Engine::new(local, Some(words), Options::default()),
            speech,
            left_out: 0,
            again: 0,
            last: None,
            interrupt,
        })
    }

    /// Tokens that prompt and answer may have together.
    pub(super) fn context(&self) -> usize {
        self.engine.context()
    }

    /// Tokens in the vocabulary.
    pub(super) fn vocab(&self) -> usize {
        self.engine.runner().vocab()
    }

    /// Oldest turns that the model no longer sees.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    /// What the last answer took.
    pub(super) fn last(&self) -> Option<Usage> {
        self.last
    }

    /// What the model holds.
    pub(super) fn memory(&self) -> Memory {
        self.engine.runner().memory()
    }

    /// Replaces the conversation.
    pub(super) fn restart(&mut self, turns: Vec<Turn>) {
        (self.turns, self.left_out, self.again, self.last) = (turns, 0, 0, None);
    }

    /// Says something to the model and prints its answer. What fails is not kept.
    pub(super) fn send(&mut self, message: String) -> Result<(), Fail> {
        // One that was never answered gives way.
        self.turns.pop_if(|t| t.answer.is_none());
        self.turns.push(Turn { message, answer: None });
        self.again = 0;
        let result = self.answer();
        self.turns.pop_if(|t| t.answer.is_none());
        result
    }

    /// Answers the last message anew.
    pub(super) fn regenerate(&mut self) -> Result<(), Fail> {
        let Some(turn) = self.turns.last_mut() else { return Err("there is no answer to make anew".into()) };
        let before = turn.answer.take();
        if before.is_some() {
            self.again += 1;
        }
        let result = self.answer();
        if let Some(turn) = self.turns.last_mut().filter(|t| t.answer.is_none()) {
            turn.answer = before;
        }
        result
    }

    /// The prompt for the turns from `first` on.
    fn prompt(&self, first: usize) -> Result<Vec<u32>, Fail> {
        let mut messages = Vec::new();
        messages.extend(self.system.as_ref().map(|s| json!({"role": "system", "content": s})));
        for turn in self.turns.iter().skip(first) {
            messages.push(json!({"role": "user", "content": turn.message}));
            messages.extend(turn.answer.as_ref().map(|a| json!({"role": "assistant", "content": a})));
        }
        Ok(self.speech.prompt(messages)?.1)
    }

    /// The prompt, without the oldest turns if they no longer fit.
    fn fit(&mut self) -> Result<Vec<u32>, Fail> {
        let context = self.context();
        let most = self.settings.max_tokens.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        let room = most.clamp(1, (context / 4).max(1));
        let mut ids = self.prompt(self.left_out)?;
        let (tokens, mut first) = (ids.len(), self.left_out);
        while ids.len().saturating_add(room) > context && first + 1 < self.turns.len() {
            first += 1;
            ids = self.prompt(first)?;
        }
        if ids.len() >= context {
            let what = format!("the message makes {} tokens of prompt, but the context holds {context}", ids.len());
            return Err(format!("{what}; shorten it, or begin again with a larger --ctx if the model allows it").into());
        }
        if first > self.left_out {
            say(format_args!(
                "alula: the conversation has {tokens} tokens and {room} are for the answer, but the context holds \
                 {context}; the model no longer sees the oldest {first} of {} turns (/save still has them)",
                self.turns.len()
            ));
            self.left_out = first;
        }
        Ok(ids)
    }

    /// Answers the last turn.
    fn answer(&mut self) -> Result<(), Fail> {
        let prompt = self.fit()?;
        let mut sampling = self.settings.sampling.clone();
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(self.again));
        let max_tokens = self.settings.max_tokens.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let (stop, adapters) = (self.speech.stop(), self.chosen.clone());
        let request = Request { prompt, max_tokens, sampling, stop, adapters, ..Request::default() };
        let id = self.engine.submit(request)?;
        self.interrupt.busy(true);
        let result = self.stream(id);
        self.interrupt.busy(false);
        self.engine.cancel(id);
        let (text, reason, usage) = result?;
        self.last = Some(usage);
        if let Some(turn) = self.turns.last_mut() {
            turn.answer = Some(text);
        }
        let (most, context) = (usage.generated, self.context());
        match reason {
            Reason::Stop | Reason::StopString(_) => {}
            Reason::Length => say(format_args!("alula: the answer was cut at {most} tokens (/set max-tokens)")),
            Reason::Context => {
                say(format_args!("alula: the answer ends here because the context of {context} tokens is full"))
            }
            Reason::Cancelled => say("alula: stopped"),
            Reason::Failed(e) => return Err(e.into()),
            Reason::Constraint(why) => return Err(why.into()),
        }
        Ok(())
    }

    /// Prints the answer as it comes.
    fn stream(&mut self, id: Id) -> Result<(String, Reason, Usage), Fail> {
        let mut out = std::io::stdout().lock();
        let terminal = out.is_terminal();
        let mut answer = String::new();
        loop {
            let events = match self.interrupt.asked() {
                true => self.engine.cancel(id).into_iter().collect(),
                false => self.engine.step()?,
            };
            for event in events {
                match event {
                    Event::Token { text, .. } => {
                        // What a model writes must not steer the terminal.
                        let hidden = |c: char| terminal && c.is_control() && !matches!(c, '\n' | '\t');
                        out.write_all(text.replace(hidden, "\u{fffd}").as_bytes())?;
                        out.flush()?;
                        answer.push_str(&text);
                    }
                    Event::Prompt { .. } | Event::Hidden { .. } => {}
                    Event::Finished { reason, usage, .. } => {
                        if !answer.ends_with('\n') {
                            writeln!(out)?;
                        }
                        return Ok((answer, reason, usage));
                    }
                }
            }
        }
    }
}
