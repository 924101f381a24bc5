//! What layers remember of sequences: pages of keys and values, and states of fixed size.

use crate::{Batch, Limits, PAGE};
use alula_graph::StateSpec;
use alula_kernels::{Fixed, Kv, Run, Runs, zeros};
use alula_simd::LANES;

/// A layer's state.
pub(crate) enum State {
    Paged(Kv),
    Fixed(Fixed),
}

/// Copies of every state of fixed size in a slot: before and after its last run.
const COPIES: usize = 2;

impl State {
    /// `None` where there is not so much memory.
    pub(crate) fn new(spec: StateSpec, limits: Limits) -> Option<State> {
        match spec {
            StateSpec::Paged { heads, key_dim, value_dim, shared, .. } => {
                let new = if shared { Kv::latent } else { Kv::new };
                new(limits.cache, limits.pages, PAGE, heads, key_dim, value_dim).map(State::Paged)
            }
            StateSpec::Fixed { len } => {
                let copies = limits.slots.checked_mul(COPIES)?.checked_add(limits.checkpoints)?;
                Fixed::new(copies, len).map(State::Fixed)
            }
        }
    }

    /// Bytes that it takes; more than there can be, where that is no number.
    pub(crate) fn bytes(spec: StateSpec, limits: Limits) -> usize {
        match spec {
            StateSpec::Paged { heads, key_dim, value_dim, shared, .. } => {
                let values = if shared { 0 } else { value_dim };
                let block = Kv::bytes_per_block(limits.cache, heads, key_dim, values);
                block.saturating_mul(PAGE / LANES).saturating_mul(limits.pages)
            }
            StateSpec::Fixed { len } => {
                let copies = limits.slots.saturating_mul(COPIES).saturating_add(limits.checkpoints);
                Fixed::size(copies, len).unwrap_or(usize::MAX)
            }
        }
    }
}

/// The position that each copy of a slot stands at: the one of the sequence's next token. `None` where it holds nothing.
pub(crate) struct Slots {
    standing: Vec<[Option<usize>; COPIES]>,
    /// The same of each checkpoint, whose copies come after those of the slots.
    checkpoints: Vec<Option<usize>>,
}

impl Slots {
    /// `None` where there is not so much memory.
    pub(crate) fn new(slots: usize, checkpoints: usize) -> Option<Slots> {
        Some(Slots { standing: zeros(slots)?, checkpoints: zeros(checkpoints)? })
    }

    /// The copies from and to which a slot is saved at a position; the checkpoint then stands there.
    pub(crate) fn save(&mut self, slot: u32, position: usize, checkpoint: u32) -> Result<(usize, usize), String> {
        let (slot, checkpoint, first) = (slot as usize, checkpoint as usize, self.standing.len() * COPIES);
        let standing = self.standing.get(slot).ok_or_else(|| format!("slot {slot} does not exist"))?;
        let Some(side) = standing.iter().position(|at| *at == Some(position)) else {
            return Err(format!("slot {slot} does not stand at position {position}"));
        };
        let kept = self.checkpoints.get_mut(checkpoint);
        *kept.ok_or_else(|| format!("checkpoint {checkpoint} does not exist"))? = Some(position);
        Ok((slot * COPIES + side, first + checkpoint))
    }

    /// The copies from and to which a slot is restored.
    pub(crate) fn restore(&mut self, checkpoint: u32, slot: u32) -> Result<(usize, usize), String> {
        let (slot, checkpoint, first) = (slot as usize, checkpoint as usize, self.standing.len() * COPIES);
        let Some(&Some(position)) = self.checkpoints.get(checkpoint) else {
            return Err(format!("checkpoint {checkpoint} does not exist, or holds nothing"));
        };
        let standing = self.standing.get_mut(slot).ok_or_else(|| format!("slot {slot} does not exist"))?;
        *standing = [Some(position), None];
        Ok((first + checkpoint, slot * COPIES))
    }

    /// Which copies the batch's runs begin with and leave behind. What they leave behind holds nothing until [`end`](Slots::end).
    pub(crate) fn begin(&mut self, batch: &Batch<'_>, runs: &mut Runs) -> Result<(), String> {
        runs.clear();
        for (i, s) in batch.seqs.iter().enumerate() {
            let Some(standing) = self.standing.get(s.slot as usize) else {
                return Err(format!("slot {} does not exist; there are {}", s.slot, self.standing.len()));
            };
            if batch.seqs[..i].iter().any(|other| other.slot == s.slot) {
                return Err("two runs have one slot".to_owned());
            }
            let first = batch.positions[s.start] as usize;
            let from = standing.iter().position(|at| *at == Some(first)).filter(|_| first > 0);
            if first > 0 && from.is_none() {
                return Err(format!("slot {} does not stand at position {first}", s.slot));
            }
            let copy = |side| s.slot as usize * COPIES + side;
            let to = copy(from.map_or(0, |from| 1 - from));
            runs.push(Run { rows: s.start..s.start + s.len, from: from.map(copy), to });
        }
        for run in runs.all() {
            let standing = &mut self.standing[run.to / COPIES];
            match run.from {
                Some(_) => standing[run.to % COPIES] = None,
                None => *standing = [None; COPIES], // another sequence
            }
        }
        Ok(())
    }

    /// The batch has been computed: what its runs left behind stands after them.
    pub(crate) fn end(&mut self, batch: &Batch<'_>) {
        for s in batch.seqs {
            let standing = &mut self.standing[s.slot as usize];
            // One copy holds nothing; where both do, the first was written.
            let empty = standing.iter().position(Option::is_none).unwrap_or(0);
            standing[empty] = Some(batch.positions[s.start] as usize + s.len);
        }
    }
}
