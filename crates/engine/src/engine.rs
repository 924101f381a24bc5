//! The step loop: requests in, tokens out.
//!
//! [`Engine::step`] asks the scheduler who computes what, gathers that into one batch, runs it, draws the next token of
//! each sequence that has been computed to its end, and reports. What a request gets depends on itself alone.

mod guess;

use crate::constraint::Constraint;
use crate::load::{Counters, Load, PageLoad, StepLoad};
use crate::request::{Event, Request, RequestError, StepError, Usage};
use crate::runner::Runner;
use crate::sample::{Logprobs, Sampler, Sampling};
use crate::scheduler::{self, Ask, Id, Refused, Scheduler, Share};
use crate::speculate::{self, DraftError, Lookup, Pace, Speculation};
use crate::stop::{self, Reason, StopError, StopText};
use crate::text::{Stream, Text};
use alula_device::{Adapter, Batch, PAGE, Seq, emptied};
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
    /// Requests that may wait, beside those that can run at once.
    pub waiting: usize,
    /// Prompt tokens of those who wait; one alone may have more.
    pub waiting_tokens: usize,
    /// Whether a request finds what others have computed, where it begins as they do.
    pub prefix_cache: bool,
    /// How many tokens are guessed.
    pub speculation: Speculation,
}

impl Default for Options {
    /// As many tokens as the runner takes; 64 requests run and any number waits; what was computed is found.
    fn default() -> Self {
        let most = usize::MAX;
        let (prefix_cache, speculation) = (true, Speculation::default());
        Self { step_tokens: most, running: 64, waiting: most, waiting_tokens: most, prefix_cache, speculation }
    }
}

/// A request under way.
struct Active {
    id: Id,
    /// Tokens that are expected next.
    guesses: Vec<u32>,
    /// Tokens that a model is to guess.
    wanted: usize,
    pace: Pace,
    repeats: Lookup,
    /// Tokens in the prompt, and tokens generated.
    lengths: [usize; 2],
    sampling: Sampling,
    seed: u64,
    limits: stop::Limits,
    /// How many of the likeliest tokens are told at each of the prompt's.
    prompt_logprobs: Option<usize>,
    /// The state of its last token is still to be told.
    hidden: bool,
    ignore_end: bool,
    stop: StopText,
    stream: Option<Box<dyn Stream>>,
    constraint: Option<Box<dyn Constraint>>,
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
    /// Tokens of the prompt that are told, first and end.
    told: (usize, usize),
    /// Rows of guesses.
    tried: usize,
    /// What its cache depends on after its next token, if that changes.
    turns: Option<Vec<u32>>,
}

/// Many requests, one model.
pub struct Engine<R> {
    runner: R,
    /// Whether it guesses tokens.
    guesses: bool,
    /// A model that guesses for it.
    draft: Option<Box<dyn Runner + Send>>,
    speculation: Speculation,
    text: Option<Arc<dyn Text>>,
    context: usize,
    scheduler: Scheduler,
    /// In order of id.
    active: Vec<Active>,
    sampler: Sampler,
    /// Events that nobody has yet.
    ready: Vec<Event>,
    /// The batch under way, kept for its memory.
    seqs: Vec<Seq<'static>>,
    tokens: Vec<u32>,
    positions: Vec<u32>,
    outputs: Vec<u32>,
    /// Its requests in order.
    parts: Vec<Part>,
    rows: Vec<u32>,
    window: Vec<u32>,
    /// Who wants a guess.
    asked: Vec<usize>,
    counters: Counters,
    last: StepLoad,
    /// Text of one token, kept for its memory.
    piece: String,
    /// Tokens that may come next, kept for its memory.
    mask: Vec<u32>,
}

impl<R: Runner> Engine<R> {
    /// An engine without requests. Without `text` it works on ids alone: events have no text, and nothing is an end token.
    pub fn new(runner: R, text: Option<Arc<dyn Text>>, options: Options) -> Self {
        Self::build(runner, None, text, options)
    }

    /// The same with a smaller model that guesses tokens, with [`Speculation::draft`]. It has as many tokens, pages and
    /// positions, and reads along: its steps should hold as many tokens and [`Options::running`] more.
    pub fn with_draft(
        runner: R,
        draft: Box<dyn Runner + Send>,
        text: Option<Arc<dyn Text>>,
        options: Options,
    ) -> Result<Self, DraftError> {
        speculate::check(&runner, &draft, context(&runner))?;
        Ok(Self::build(runner, Some(draft), text, options))
    }

    fn build(runner: R, draft: Option<Box<dyn Runner + Send>>, text: Option<Arc<dyn Text>>, options: Options) -> Self {
        // A guess has a row of logits too.
        let guesses = runner.guesses() && runner.max_outputs() > 1;
        let running = options.running.min(runner.slots()).min(runner.max_outputs());
        let tokens = options.step_tokens.min(runner.max_tokens());
        let (running, tokens) = match &draft {
            // It computes the step's tokens, and the next one of each.
            Some(draft) => {
                let running = running.min(draft.max_outputs()).min(draft.max_tokens() / 2).max(1);
                (running, tokens.min(draft.max_tokens() - running))
            }
            None => (running, tokens),
        };
        let limits = scheduler::Limits {
            tokens,
            running,
            outputs: runner.max_outputs(),
            guesses: options.speculation.rows,
            pages: runner.pages(),
            waiting: options.waiting,
            waiting_tokens: options.waiting_tokens,
            // What guesses keeps the next token beside each position.
            share: (options.prefix_cache && runner.checkpoints() != Some(0)).then_some(usize::from(guesses)),
            window: runner.window().filter(|_| draft.is_none()),
            checkpoints: runner.checkpoints(),
        };
        let scheduler = Scheduler::new(limits);
        let (context, drafted) = (context(&runner), draft.is_some());
        Self {
            context,
            runner,
            guesses,
            draft,
            speculation: options.speculation,
            text,
            scheduler,
            active: Vec::new(),
            sampler: Sampler::default(),
            ready: Vec::new(),
            seqs: Vec::new(),
            tokens: Vec::new(),
            positions: Vec::new(),
            outputs: Vec::new(),
            parts: Vec::new(),
            rows: Vec::new(),
            // A whole sequence and its guesses.
            window: Vec::with_capacity(if guesses || drafted { context + PAGE } else { 0 }),
            asked: Vec::new(),
            counters: Counters::default(),
            last: StepLoad::default(),
            piece: String::new(),
            mask: Vec::new(),
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

    /// What it does and has done.
    pub fn load(&self) -> Load {
        let pages = self.scheduler.pages();
        let (total, unused, cached) = (pages.total(), pages.free(), pages.cached());
        Load {
            running: self.scheduler.running(),
            waiting: self.scheduler.waiting(),
            waiting_tokens: self.scheduler.waiting_tokens(),
            pages: PageLoad { total, used: total - unused, cached, free: unused - cached },
            step: self.last,
            counters: Counters { scheduler: self.scheduler.counters(), ..self.counters },
        }
    }

    /// Whether there is nothing to do: every request has ended and every event been handed out.
    pub fn is_idle(&self) -> bool {
        self.active.is_empty() && self.ready.is_empty()
    }

    /// Checks a request and puts it in line. Its events come from the following steps. Nothing has changed if it is refused.
    pub fn submit(&mut self, request: Request) -> Result<Id, RequestError> {
        self.admit(request, None)
    }

    /// The same with a constraint on its output.
    pub fn submit_constrained(
        &mut self,
        request: Request,
        constraint: Box<dyn Constraint>,
    ) -> Result<Id, RequestError> {
        self.admit(request, Some(constraint))
    }

    fn admit(&mut self, request: Request, constraint: Option<Box<dyn Constraint>>) -> Result<Id, RequestError> {
        let Request { prompt, max_tokens, sampling, prompt_logprobs, stop, stop_tokens, ignore_end, adapters, .. } =
            request;
        let vocab = self.runner.vocab();
        let unknown = |id: u32| id as usize >= vocab;
        if prompt.is_empty() {
            return Err(RequestError::EmptyPrompt);
        }
        let too_long = RequestError::PromptTooLong { prompt: prompt.len(), context: self.context };
        // The answer's first token has a place of its own.
        if prompt.len() + usize::from(max_tokens != Some(0)) > self.context {
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
        let lengths = [prompt.len(), 0];
        let kind = kind(&self.runner, prompt.len(), &adapters);
        let (group, priority) = (request.group, request.priority);
        let all = prompt_logprobs.is_some();
        let ask = Ask { tokens: prompt, longest: self.context, group, priority, kind, all };
        let id = self.scheduler.admit(ask).map_err(|refused| match refused {
            Refused::TooLong { .. } => too_long,
            Refused::Full { waiting, tokens, most, most_tokens } => {
                RequestError::Full { waiting, tokens, most, most_tokens }
            }
            Refused::Share { waiting, tokens } => RequestError::Share { waiting, tokens },
        })?;
        let max_tokens = max_tokens.unwrap_or(usize::MAX);
        let active = Active {
            id,
            lengths,
            seed: sampling.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish()),
            sampling,
            limits: stop::Limits { max_tokens, context: self.context, stop_tokens },
            prompt_logprobs,
            hidden: request.hidden,
            ignore_end,
            stop,
            stream: self.text.clone().map(|text| text.stream(self.scheduler.tokens(id))),
            constraint,
            adapters,
            guesses: Vec::new(),
            wanted: 0,
            pace: Pace::new(),
            repeats: Lookup::default(),
            submitted: Instant::now(),
            times: [None; 3],
        };
        self.active.push(active);
        if max_tokens == 0 && !all && !request.hidden {
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

    /// Computes one step, and reports the tokens and ends that it brought. Empty when there is nothing to do.
    pub fn step(&mut self) -> Result<Vec<Event>, StepError> {
        let mut events = Vec::new();
        self.step_into(&mut events)?;
        Ok(events)
    }

    /// The same at the end of a list that the caller keeps. Where no request comes or goes and none fills a page or takes one, nothing
    /// is allocated but what an event owns: text and log-probabilities.
    pub fn step_into(&mut self, events: &mut Vec<Event>) -> Result<(), StepError> {
        self.compute()?;
        events.append(&mut self.ready);
        Ok(())
    }

    /// Computes one step. What it brings is ready, also before an error.
    fn compute(&mut self) -> Result<(), StepError> {
        let Self { runner, scheduler, active, sampler, tokens, positions, outputs, parts, mask, ready, .. } = self;
        for ids in [&mut *tokens, positions, outputs] {
            ids.clear();
        }
        parts.clear();
        let began = Instant::now();
        let step = scheduler.step();
        for share in step.shares() {
            let at = find(active, share.id).expect("the scheduler's line and the active requests are the same");
            let (row, all) = (tokens.len(), share.len + share.tried);
            let Active { guesses, times, adapters, .. } = &mut active[at];
            let length = share.tokens.len();
            tokens.extend_from_slice(&share.tokens[share.start..share.start + share.len]);
            tokens.extend_from_slice(&guesses[..share.tried]);
            positions.extend((share.start..share.start + all).map(|p| p as u32));
            let (first, end) = share.asked;
            outputs.extend((first..end).map(|p| (row + p - share.start) as u32));
            if share.ends {
                outputs.extend((row + share.len..=row + all).map(|r| r as u32 - 1));
            }
            let turns = runner.regime(length) != runner.regime(length + 1);
            let turns = (turns && share.ends).then(|| kind(runner, length + 1, adapters));
            let Share { id, start, len, ends, tried, .. } = share;
            let told = (first + 1, end + 1); // logits are of the token behind them
            parts.push(Part { id, row, start, len, ends, told, tried, turns });
            times[0].get_or_insert(began);
        }
        if parts.is_empty() {
            return Ok(());
        }
        let mut seqs: Vec<Seq<'_>> = std::mem::take(&mut self.seqs);
        seqs.extend(step.shares().zip(&*parts).map(|(share, part)| {
            let Active { adapters, .. } = &active[find(active, share.id).expect("as above")];
            let (len, length) = (share.len + share.tried, share.tokens.len() + share.tried);
            Seq { start: part.row, len, length, pages: share.pages, slot: share.slot, adapters }
        }));
        for share in step.shares() {
            if let Some(checkpoint) = share.resume {
                runner.restore(checkpoint, share.slot).map_err(StepError::Run)?;
            }
        }
        let (rows, vocab) = (outputs.len(), runner.vocab());
        let batch = Batch { tokens, positions, seqs: &seqs, outputs, ..Batch::default() };
        let logits = runner.run(&batch).map_err(StepError::Run)?;
        self.seqs = emptied(seqs);
        if logits.len() != rows * vocab {
            return Err(StepError::Logits { rows, vocab, got: logits.len() });
        }
        self.last = StepLoad { rows: tokens.len(), requests: parts.len() };
        self.counters.steps += 1;
        let now = Instant::now();
        let (mut rest, mut row, mut hidden) = (logits, 0, Vec::new());
        for part in parts.iter_mut() {
            let (told, others) = rest.split_at((part.told.1 - part.told.0) * vocab);
            let rows = if part.ends { 1 + part.tried } else { 0 };
            let (own, others) = others.split_at(rows * vocab);
            rest = others;
            row += part.told.1 - part.told.0 + rows;
            let mut reason = None;
            if let Some(at) = find(active, part.id) {
                if let Some(top) = active[at].prompt_logprobs.filter(|_| !told.is_empty()) {
                    let tokens = &scheduler.tokens(part.id)[part.told.0..part.told.1];
                    let each = told.chunks_exact(vocab).zip(tokens);
                    let logprobs = each.map(|(row, token)| sampler.logprobs(row, *token, top)).collect();
                    ready.push(Event::Prompt { id: part.id, logprobs });
                }
                if part.ends && std::mem::take(&mut active[at].hidden) {
                    hidden.push((ready.len(), row - rows));
                    ready.push(Event::Hidden { id: part.id, values: Vec::new() });
                }
                // It asked for the prompt alone.
                let own = if active[at].limits.max_tokens == 0 { &[] } else { own };
                reason = (part.ends && own.is_empty()).then_some(Reason::Length);
                let mut guesses = std::mem::take(&mut active[at].guesses);
                let known = part.len;
                for (i, row) in own.chunks_exact(vocab).enumerate() {
                    let active = &mut active[at];
                    let token = match active.draw(row, sampler, mask, scheduler.tokens(part.id)) {
                        Ok((token, logprobs, complete)) => {
                            scheduler.append(part.id, token);
                            self.counters.generated += 1;
                            let text = self.text.as_deref();
                            let (text, end) = active.report(token, complete, text, &mut self.piece, now);
                            ready.push(Event::Token { id: part.id, token, text, logprobs });
                            reason = end;
                            token
                        }
                        Err(end) => {
                            reason = Some(end);
                            break;
                        }
                    };
                    // A guess that is right is computed.
                    if reason.is_some() || i == part.tried || guesses[i] != token {
                        break;
                    }
                    part.len += 1;
                }
                let right = part.len - known;
                guesses.clear();
                active[at].guesses = guesses;
                active[at].pace.learn(part.tried, right);
                self.counters.drafts += u64::from(part.tried > 0);
                self.counters.guessed += part.tried as u64;
                self.counters.right += right as u64;
            }
            scheduler.commit(part.id);
            if !self.guesses && self.draft.is_none() {
                scheduler.share(part.id);
            }
            if let Some(kind) = &part.turns {
                scheduler.restart(part.id, kind.clone()); // it is longer, and all of it computes differently now
            }
            ready.extend(reason.and_then(|reason| end(active, scheduler, part.id, reason)));
        }
        let (states, most) = (runner.hidden(), outputs.len().max(1));
        for (at, row) in hidden {
            if let Event::Hidden { values, .. } = &mut ready[at] {
                values.extend(states.chunks_exact((states.len() / most).max(1)).nth(row).into_iter().flatten());
            }
        }
        let save = |part: &Part| {
            let Some((slot, position, checkpoint)) = scheduler.checkpoint(part.id) else { return Ok(()) };
            runner.save(slot, position, checkpoint).map_err(|e| {
                scheduler.lose(checkpoint);
                StepError::Run(e)
            })
        };
        let saved = parts.iter().try_for_each(save);
        if let Err(e) = saved.and_then(|()| self.speculate()) {
            // What is kept for guesses has a gap, so everything is computed again.
            for part in &self.parts {
                if let Some(at) = find(&self.active, part.id) {
                    let length = self.scheduler.tokens(part.id).len();
                    self.scheduler.restart(part.id, kind(&self.runner, length, &self.active[at].adapters));
                }
            }
            return Err(e);
        }
        Ok(())
    }
}

impl Active {
    /// Draws the token after `sequence` from `logits`, `[vocab]`. Also says whether its constraint is complete with it.
    fn draw(
        &mut self,
        logits: &[f32],
        sampler: &mut Sampler,
        mask: &mut Vec<u32>,
        sequence: &[u32],
    ) -> Result<(u32, Option<Logprobs>, bool), Reason> {
        let (how, seed) = (&self.sampling, self.seed);
        let wrong = Reason::Constraint;
        let (token, complete) = match &mut self.constraint {
            None => (sampler.draw(how, seed, sequence, logits).map_err(Reason::Failed)?, false),
            Some(constraint) => {
                mask.clear();
                mask.resize(logits.len().div_ceil(32), 0);
                constraint.allow(mask).map_err(wrong)?;
                if mask.iter().all(|word| *word == 0) {
                    return Err(wrong("no token is allowed".to_owned()));
                }
                let token = sampler.draw_among(mask, how, seed, sequence, logits).map_err(Reason::Failed)?;
                (token, constraint.accept(token).map_err(wrong)?)
            }
        };
        Ok((token, self.sampling.logprobs.map(|top| sampler.logprobs(logits, token, top)), complete))
    }

    /// Takes in the next token: the text that became certain with it, and why the request is over, if it is. It is `complete`
    /// if its constraint says so.
    fn report(
        &mut self,
        token: u32,
        complete: bool,
        text: Option<&dyn Text>,
        piece: &mut String,
        now: Instant,
    ) -> (String, Option<Reason>) {
        self.lengths[1] += 1;
        self.times[1].get_or_insert(now);
        self.times[2] = Some(now);
        let ends = !self.ignore_end && text.is_some_and(|text| text.is_end(token));
        let [prompt, generated] = self.lengths;
        let mut reason = self.limits.reached(token, ends, prompt, generated);
        let silent = reason == Some(Reason::Stop);
        if complete {
            reason = Some(Reason::Stop);
        }
        let mut text = String::new();
        if let Some(stream) = &mut self.stream {
            piece.clear();
            if !silent {
                stream.push(token, piece);
            }
            if reason.is_some() {
                stream.finish(piece);
            }
            self.stop.push(piece, &mut text);
            if let Some(at) = self.stop.found() {
                reason = Some(Reason::StopString(at));
            } else if reason.is_some() {
                self.stop.finish(&mut text);
            }
        }
        (text, reason)
    }

    fn usage(&self, cached: usize) -> Usage {
        let now = Instant::now();
        let [began, first, last] = self.times;
        let began = began.unwrap_or(now);
        let between = |from: Option<Instant>, to: Option<Instant>| Some(to?.saturating_duration_since(from?));
        Usage {
            prompt: self.lengths[0],
            cached,
            generated: self.lengths[1],
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
    let usage = ended.usage(scheduler.found(id));
    scheduler.cancel(id);
    Some(Event::Finished { id, reason, usage })
}

/// Length of the longest sequence that a model and its cache allow.
fn context(runner: &impl Runner) -> usize {
    runner.context().min(runner.pages().saturating_mul(PAGE))
}

/// What the cache of a sequence depends on beside its tokens.
fn kind(runner: &impl Runner, length: usize, adapters: &[Adapter]) -> Vec<u32> {
    let regime = runner.regime(length) as u64;
    let mut adapters: Vec<[u32; 2]> = adapters.iter().map(|a| [a.index, a.scale.to_bits()]).collect();
    adapters.sort_unstable();
    [regime as u32, (regime >> 32) as u32].into_iter().chain(adapters.into_iter().flatten()).collect()
}
