//! The step loop: requests in, tokens out.
//!
//! [`Engine::step`] asks the scheduler who computes what, gathers that into one batch, runs it, draws the next token of
//! each sequence that has been computed to its end, and reports. What a request gets depends on itself alone.

use crate::request::{Event, Request, RequestError, StepError, Usage};
use crate::runner::Runner;
use crate::sample::{Sampler, Sampling};
use crate::scheduler::{self, Id, Scheduler, Share};
use crate::stop::{self, Reason, StopError, StopText};
use crate::text::{Stream, Text};
use alula_device::{Adapter, Batch, PAGE, Seq};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How much an engine does at once.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Tokens in one step; never more than the runner takes.
    pub step_tokens: usize,
    /// Requests that run at the same time; never more than the rows of logits that the runner gives in a step, nor than
    /// the slots that it has.
    pub running: usize,
}

impl Default for Options {
    /// As many tokens as the runner takes; 64 requests.
    fn default() -> Self {
        Self { step_tokens: usize::MAX, running: 64 }
    }
}

/// A request under way.
struct Active {
    id: Id,
    /// Prompt and generated tokens.
    sequence: Vec<u32>,
    /// The token that is expected next.
    guess: Option<u32>,
    prompt: usize,
    sampling: Sampling,
    seed: u64,
    limits: stop::Limits,
    ignore_end: bool,
    stop: StopText,
    stream: Option<Box<dyn Stream>>,
    adapters: Vec<Adapter>,
    submitted: Instant,
    /// Begin of the first step with a share, end of the one with the first token, end of the one with the last.
    times: [Option<Instant>; 3],
}

/// A request's part of the step under way.
struct Part {
    id: Id,
    /// Its first row, which is of position `start`.
    row: usize,
    start: usize,
    /// Rows of known tokens, and of guesses that proved right.
    len: usize,
    /// Whether the last known token is among them.
    ends: bool,
    /// The token of the row after them.
    guess: Option<u32>,
    /// Whether its next token changes its regime.
    turns: bool,
}

/// Many requests, one model.
pub struct Engine<R> {
    runner: R,
    /// Whether tokens are guessed.
    guesses: bool,
    text: Option<Arc<dyn Text>>,
    context: usize,
    scheduler: Scheduler,
    /// In order of id.
    active: Vec<Active>,
    sampler: Sampler,
    /// Events that came about outside a step.
    ready: Vec<Event>,
    /// The batch under way, kept for its memory.
    tokens: Vec<u32>,
    positions: Vec<u32>,
    outputs: Vec<u32>,
    /// Its requests in order.
    parts: Vec<Part>,
    rows: Vec<u32>,
    /// Guesses that were computed, and those that were right.
    guessed: (u64, u64),
    /// Text of one token, kept for its memory.
    piece: String,
}

impl<R: Runner> Engine<R> {
    /// An engine without requests. Without `text` it works on ids alone: events have no text, and nothing is an end token.
    pub fn new(runner: R, text: Option<Arc<dyn Text>>, options: Options) -> Self {
        // A guess has a row of logits too.
        let guesses = runner.guesses() && runner.max_outputs() > 1;
        let limits = scheduler::Limits {
            tokens: options.step_tokens.min(runner.max_tokens()),
            running: options.running.min(runner.slots()).min(runner.max_outputs() / (1 + usize::from(guesses))),
            pages: runner.pages(),
        };
        let scheduler = Scheduler::new(limits);
        Self {
            context: runner.context().min(scheduler.pages().total().saturating_mul(PAGE)),
            runner,
            guesses,
            text,
            scheduler,
            active: Vec::new(),
            sampler: Sampler::default(),
            ready: Vec::new(),
            tokens: Vec::new(),
            positions: Vec::new(),
            outputs: Vec::new(),
            parts: Vec::new(),
            rows: Vec::new(),
            guessed: (0, 0),
            piece: String::new(),
        }
    }

    /// Length of the longest sequence, prompt and answer together: what the model and the cache allow.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The model.
    pub fn runner(&self) -> &R {
        &self.runner
    }

    /// Who runs, who waits, how many pages are free.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Guesses that were computed so far, and how many of them were right.
    pub fn guessed(&self) -> (u64, u64) {
        self.guessed
    }

    /// Whether there is nothing to do: every request has ended and every event been handed out.
    pub fn is_idle(&self) -> bool {
        self.active.is_empty() && self.ready.is_empty()
    }

    /// Checks a request and puts it in line. Its events come from the following steps.
    pub fn submit(&mut self, request: Request) -> Result<Id, RequestError> {
        let Request { prompt, max_tokens, sampling, stop, stop_tokens, ignore_end, adapters } = request;
        let vocab = self.runner.vocab();
        let unknown = |id: u32| id as usize >= vocab;
        if prompt.is_empty() {
            return Err(RequestError::EmptyPrompt);
        }
        let too_long = RequestError::PromptTooLong { prompt: prompt.len(), context: self.context };
        if prompt.len() >= self.context {
            return Err(too_long);
        }
        if let Some(at) = prompt.iter().position(|&id| unknown(id)) {
            return Err(RequestError::PromptToken { at, token: prompt[at], vocab });
        }
        sampling.check(vocab)?;
        if let Some(&id) = stop_tokens.iter().find(|&&id| unknown(id)) {
            return Err(StopError::Token { id, vocab }.into());
        }
        let stop = StopText::new(&stop)?;
        if self.text.is_none() && !stop.is_empty() {
            return Err(RequestError::StopWithoutText);
        }
        let known = self.runner.adapters();
        for (i, &Adapter { index, scale }) in adapters.iter().enumerate() {
            let why = match index as usize {
                n if n >= known => format!("the model has {known}"),
                _ if !scale.is_finite() => "give a number".to_owned(),
                _ if adapters[..i].iter().any(|a| a.index == index) => "name it once".to_owned(),
                _ => continue,
            };
            return Err(RequestError::Adapter { index, scale, why });
        }
        let id = self.scheduler.admit(prompt.len(), self.context).map_err(|_| too_long)?;
        let max_tokens = max_tokens.unwrap_or(usize::MAX);
        let active = Active {
            id,
            prompt: prompt.len(),
            seed: sampling.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish()),
            sampling,
            limits: stop::Limits { max_tokens, context: self.context, stop_tokens },
            ignore_end,
            stop,
            stream: self.text.clone().map(|text| text.stream(&prompt)),
            sequence: prompt,
            adapters,
            guess: None,
            submitted: Instant::now(),
            times: [None; 3],
        };
        self.active.push(active);
        if max_tokens == 0 {
            let finished = end(&mut self.active, &mut self.scheduler, id, Reason::Length);
            self.ready.extend(finished);
        }
        Ok(id)
    }

    /// Ends a request before its time, at any moment; its pages are free at once. `None` if it has ended already.
    /// Text that was held back is dropped.
    pub fn cancel(&mut self, id: Id) -> Option<Event> {
        end(&mut self.active, &mut self.scheduler, id, Reason::Cancelled)
    }

    /// Computes one step, and reports the tokens and ends that it brought, in order of request. Empty when there is nothing to do.
    pub fn step(&mut self) -> Result<Vec<Event>, StepError> {
        let Self { runner, scheduler, active, sampler, tokens, positions, outputs, parts, .. } = self;
        for ids in [&mut *tokens, positions, outputs] {
            ids.clear();
        }
        parts.clear();
        let began = Instant::now();
        let shares: Vec<Share<'_>> = scheduler.step().shares().collect();
        for share in &shares {
            let at = find(active, share.id).expect("the scheduler's line and the active requests are the same");
            let (row, all) = (tokens.len(), share.len + share.tried);
            let Active { sequence, guess, times, .. } = &mut active[at];
            let guess = guess.filter(|_| share.tried > 0);
            let length = sequence.len();
            tokens.extend_from_slice(&sequence[share.start..share.start + share.len]);
            tokens.extend(guess);
            positions.extend((share.start..share.start + all).map(|p| p as u32));
            if share.ends {
                outputs.extend((row + share.len..=row + all).map(|r| r as u32 - 1));
            }
            let turns = runner.regime(length) != runner.regime(length + 1);
            let Share { id, start, len, ends, .. } = *share;
            parts.push(Part { id, row, start, len, ends, guess, turns });
            times[0].get_or_insert(began);
        }
        if shares.is_empty() {
            return Ok(std::mem::take(&mut self.ready));
        }
        let seqs = shares.iter().zip(&*parts).map(|(share, part)| {
            let Active { sequence, adapters, .. } = &active[find(active, share.id).expect("as above")];
            let (len, length) = (share.len + share.tried, sequence.len() + share.tried);
            Seq { start: part.row, len, length, pages: share.pages, slot: share.slot, adapters }
        });
        let seqs: Vec<Seq<'_>> = seqs.collect();
        let (rows, vocab) = (outputs.len(), runner.vocab());
        let batch = Batch { tokens, positions, seqs: &seqs, outputs, ..Batch::default() };
        let logits = runner.run(&batch).map_err(StepError::Run)?;
        if logits.len() != rows * vocab {
            return Err(StepError::Logits { rows, vocab, got: logits.len() });
        }
        let now = Instant::now();
        let mut rest = logits;
        let mut events = std::mem::take(&mut self.ready);
        for part in parts.iter_mut() {
            let rows = if part.ends { 1 + usize::from(part.guess.is_some()) } else { 0 };
            let (own, others) = rest.split_at(rows * vocab);
            rest = others;
            let (mut appended, mut reason) = (0, None);
            if let Some(at) = find(active, part.id) {
                active[at].guess = None;
                self.guessed.0 += part.guess.map_or(0, |_| 1);
                for row in own.chunks_exact(vocab) {
                    let (event, end) = active[at].advance(row, sampler, self.text.as_deref(), &mut self.piece, now);
                    appended += usize::from(event.is_some());
                    events.extend(event);
                    reason = end;
                    // A guess that is right is computed.
                    let right = active[at].sequence.last().copied() == part.guess;
                    if reason.is_some() || !right {
                        break;
                    }
                    (part.len, part.guess) = (part.len + 1, None);
                    self.guessed.1 += 1;
                }
            }
            scheduler.commit(part.id, appended);
            if part.turns && appended > 0 {
                scheduler.restart(part.id); // it is longer, and all of it computes differently now
            }
            events.extend(reason.and_then(|reason| end(active, scheduler, part.id, reason)));
        }
        if self.guesses
            && let Err(e) = self.guess()
        {
            self.ready = events; // they are true, and not lost
            return Err(e);
        }
        Ok(events)
    }

    /// Guesses the token after the next one of each sequence that the step computed to its end.
    fn guess(&mut self) -> Result<(), StepError> {
        let Self { runner, scheduler, active, tokens, positions, outputs, parts, rows, .. } = self;
        for ids in [&mut *tokens, positions, outputs, rows] {
            ids.clear();
        }
        let (mut seqs, mut asked) = (Vec::new(), Vec::new());
        for part in parts.iter().filter(|part| !part.turns) {
            let Some(at) = find(active, part.id) else { continue };
            let (sequence, start) = (&active[at].sequence, tokens.len());
            let pages = scheduler.table(part.id);
            seqs.push(Seq { start, len: part.len, length: sequence.len(), pages, slot: 0, adapters: &[] });
            tokens.extend_from_slice(&sequence[part.start + 1..=part.start + part.len]);
            positions.extend((part.start..part.start + part.len).map(|p| p as u32));
            rows.extend((part.row..part.row + part.len).map(|r| r as u32));
            let regime = |more: usize| runner.regime(sequence.len() + more);
            if part.ends && regime(0) == regime(2) {
                outputs.push(tokens.len() as u32 - 1);
                asked.push(at);
            }
        }
        if seqs.is_empty() {
            return Ok(());
        }
        let vocab = runner.vocab();
        let batch = Batch { tokens, positions, seqs: &seqs, outputs, ..Batch::default() };
        let logits = runner.guess(&batch, rows).map_err(StepError::Run)?;
        if logits.len() != asked.len() * vocab {
            return Err(StepError::Logits { rows: asked.len(), vocab, got: logits.len() });
        }
        drop(seqs);
        for (at, row) in asked.into_iter().zip(logits.chunks_exact(vocab)) {
            let best = row.iter().enumerate().fold(0, |best, (i, v)| if *v > row[best] { i } else { best });
            active[at].guess = Some(best as u32);
            scheduler.expect(active[at].id, 1);
        }
        Ok(())
    }
}

impl Active {
    /// Draws the next token from `logits`, `[vocab]`, and says whether it is the last.
    fn advance(
        &mut self,
        logits: &[f32],
        sampler: &mut Sampler,
        text: Option<&dyn Text>,
        piece: &mut String,
        now: Instant,
    ) -> (Option<Event>, Option<Reason>) {
        let token = match sampler.draw(&self.sampling, self.seed, &self.sequence, logits) {
            Ok(token) => token,
            Err(error) => return (None, Some(Reason::Failed(error))),
        };
        let logprobs = self.sampling.logprobs.map(|top| sampler.logprobs(logits, token, top));
        self.sequence.push(token);
        self.times[1].get_or_insert(now);
        self.times[2] = Some(now);
        let ends = !self.ignore_end && text.is_some_and(|text| text.is_end(token));
        let mut reason = self.limits.reached(token, ends, self.prompt, self.sequence.len() - self.prompt);
        let mut text = String::new();
        if let Some(stream) = &mut self.stream {
            piece.clear();
            if reason != Some(Reason::Stop) {
                stream.push(token, piece);
            }
            if reason.is_some() {
                stream.finish(piece);
            }
            if self.stop.push(piece, &mut text) {
                reason = Some(Reason::StopString);
            } else if reason.is_some() {
                self.stop.finish(&mut text);
            }
        }
        (Some(Event::Token { id: self.id, token, text, logprobs }), reason)
    }

    fn usage(&self) -> Usage {
        let now = Instant::now();
        let [began, first, last] = self.times;
        let began = began.unwrap_or(now);
        let between = |from: Option<Instant>, to: Option<Instant>| Some(to?.saturating_duration_since(from?));
        Usage {
            prompt: self.prompt,
            generated: self.sequence.len() - self.prompt,
            seed: self.seed,
            waited: began.saturating_duration_since(self.submitted),
            prompt_time: first.unwrap_or(now).saturating_duration_since(began),
            generate_time: between(first, last).unwrap_or(Duration::ZERO),
        }
    }
}

fn find(active: &[Active], id: Id) -> Option<usize> {
    active.binary_search_by_key(&id, |a| a.id).ok()
}

/// Takes a request out of everything that knows it.
fn end(active: &mut Vec<Active>, scheduler: &mut Scheduler, id: Id, reason: Reason) -> Option<Event> {
    let ended = active.remove(find(active, id)?);
    scheduler.cancel(id);
    Some(Event::Finished { id, reason, usage: ended.usage() })
}
