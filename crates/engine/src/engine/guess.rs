//! What comes after a step: guesses for the next one.

use super::{Active, Engine, find};
use crate::request::StepError;
use crate::runner::Runner;
use crate::sample::Sampler;
use alula_device::{Batch, Seq, emptied};

impl<R: Runner> Engine<R> {
    /// Guesses what follows the sequences that the step computed to their ends, and then lets the step's pages be shared.
    pub(super) fn speculate(&mut self) -> Result<(), StepError> {
        let Self { runner, scheduler, active, parts, speculation, .. } = self;
        let lookup = if runner.checkpoints().is_none() { speculation.lookup } else { 0 };
        let by_model = match &self.draft {
            _ if self.guesses => 1,
            Some(_) => speculation.draft,
            None => 0,
        };
        // What guesses may add to the next step, if it is one token for each.
        let mut room = speculation.rows.saturating_sub(scheduler.running());
        if !parts.iter().all(|part| part.ends) {
            room = 0;
        }
        for part in parts.iter() {
            let Some(at) = find(active, part.id) else { continue };
            let Active { pace, repeats, guesses, wanted, limits, lengths, .. } = &mut active[at];
            *wanted = 0;
            if part.turns.is_some() || !part.ends {
                continue;
            }
            let sequence = scheduler.tokens(part.id);
            let useful = limits.max_tokens.saturating_sub(lengths[1] + 1);
            let most = lookup.max(by_model).min(room).min(useful);
            let most = if speculation.adapt && most > 0 { pace.next(most) } else { most };
            let (now, then) = (sequence.len(), sequence.len() + most + 1);
            if most == 0 || runner.regime(now) != runner.regime(then) {
                continue;
            }
            if lookup > 0 {
                repeats.guess(sequence, most.min(lookup), guesses);
            }
            if guesses.is_empty() {
                *wanted = most.min(by_model);
            }
            room -= guesses.len().max(*wanted);
        }
        if self.guesses {
            self.guess()?;
        } else if self.draft.is_some() {
            self.draft()?;
        }
        for part in self.parts.iter().filter(|part| part.turns.is_none()) {
            if let Some(at) = find(&self.active, part.id) {
                let guesses = &mut self.active[at].guesses;
                guesses.truncate(self.scheduler.expect(part.id, guesses.len()));
            }
            self.scheduler.share(part.id);
        }
        Ok(())
    }

    /// The model guesses the token after the next one of each sequence that wants it, and hears of all tokens.
    fn guess(&mut self) -> Result<(), StepError> {
        let Self { runner, scheduler, active, sampler, tokens, positions, outputs, parts, rows, window, asked, .. } =
            self;
        for ids in [&mut *tokens, positions, outputs, rows] {
            ids.clear();
        }
        asked.clear();
        let mut seqs: Vec<Seq<'_>> = std::mem::take(&mut self.seqs);
        for part in parts.iter().filter(|part| part.turns.is_none()) {
            let Some(at) = find(active, part.id) else { continue };
            let (sequence, start) = (scheduler.tokens(part.id), tokens.len());
            let pages = scheduler.table(part.id);
            seqs.push(Seq { start, len: part.len, length: sequence.len(), pages, slot: 0, adapters: &[] });
            tokens.extend_from_slice(&sequence[part.start + 1..=part.start + part.len]);
            positions.extend((part.start..part.start + part.len).map(|p| p as u32));
            rows.extend((part.row..part.row + part.len).map(|r| r as u32));
            if part.ends && active[at].wanted > 0 {
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
        self.seqs = emptied(seqs);
        if logits.len() != asked.len() * vocab {
            return Err(StepError::Logits { rows: asked.len(), vocab, got: logits.len() });
        }
        for (&at, row) in asked.iter().zip(logits.chunks_exact(vocab)) {
            let active = &mut active[at];
            active.add_guess(scheduler.tokens(active.id), row, sampler, window);
        }
        Ok(())
    }

    /// The draft model computes what the step has computed, and then guesses, one token at a time for all that want more.
    fn draft(&mut self) -> Result<(), StepError> {
        let Self { draft, scheduler, active, sampler, tokens, positions, outputs, parts, window, asked, .. } = self;
        let Some(draft) = draft else { return Ok(()) };
        for part in parts.iter() {
            if let Some(at) = find(active, part.id).filter(|at| active[*at].wanted > 0) {
                active[at].wanted = scheduler.expect(part.id, active[at].wanted);
            }
        }
        let vocab = draft.vocab();
        for round in 0.. {
            for ids in [&mut *tokens, positions, outputs] {
                ids.clear();
            }
            asked.clear();
            let mut seqs: Vec<Seq<'_>> = std::mem::take(&mut self.seqs);
            for part in parts.iter().filter(|part| part.turns.is_none()) {
                let Some(at) = find(active, part.id) else { continue };
                let Active { guesses, wanted, .. } = &active[at];
                let (sequence, start) = (scheduler.tokens(part.id), tokens.len());
                let more = *wanted > round && (round == 0 || guesses.len() == round);
                if round == 0 {
                    tokens.extend_from_slice(&sequence[part.start..part.start + part.len + usize::from(more)]);
                    positions.push(part.start as u32);
                } else if more {
                    tokens.extend(guesses.last());
                    positions.push((sequence.len() - 1 + round) as u32);
                } else {
                    continue;
                }
                let len = tokens.len() - start;
                let first = positions[start];
                positions.extend((1..len as u32).map(|i| first + i));
                let (length, pages) = (sequence.len() + round, scheduler.table(part.id));
                seqs.push(Seq { start, len, length, pages, slot: seqs.len() as u32, adapters: &[] });
                if more {
                    outputs.push(tokens.len() as u32 - 1);
                    asked.push(at);
                }
            }
            if seqs.is_empty() {
                self.seqs = emptied(seqs);
                break;
            }
            let batch = Batch { tokens, positions, seqs: &seqs, outputs, ..Batch::default() };
            let logits = draft.run(&batch).map_err(StepError::Run)?;
            self.seqs = emptied(seqs);
            if logits.len() != asked.len() * vocab {
                return Err(StepError::Logits { rows: asked.len(), vocab, got: logits.len() });
            }
            if asked.is_empty() {
                break;
            }
            for (&at, row) in asked.iter().zip(logits.chunks_exact(vocab)) {
                let active = &mut active[at];
                active.add_guess(scheduler.tokens(active.id), row, sampler, window);
            }
        }
        Ok(())
    }
}

impl Active {
    /// Guesses one token more after `sequence` and the guesses so far, drawn from `logits` as the token itself will be.
    fn add_guess(&mut self, sequence: &[u32], logits: &[f32], sampler: &mut Sampler, window: &mut Vec<u32>) {
        window.clear();
        window.extend(sequence.iter().chain(&self.guesses));
        self.guesses.extend(sampler.draw(&self.sampling, self.seed, window, logits).ok());
    }
}
