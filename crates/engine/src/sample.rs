//! From logits to the next token.
//!
//! In this order, which is llama.cpp's default one; each stage works on what the one before left, renormalised:
//!
//! | stage | field | default | off at | keeps or changes |
//! |---|---|---|---|---|
//! | mask | [`crate::Constraint`] | none | none | leaves the tokens that are allowed; nothing brings others back |
//! | bias | `logit_bias` | none | none | adds to the logits of the named tokens |
//! | penalties | `repeat_penalty` | 1.0 | 1.0 | divides positive and multiplies other logits of tokens seen in the window |
//! | | `frequency_penalty` | 0.0 | 0.0 | subtracts it once per occurrence in the window |
//! | | `presence_penalty` | 0.0 | 0.0 | subtracts it once if the token occurs in the window |
//! | | `repeat_last_n` | 64 | 0 | the window: so many last tokens, prompt included |
//! | top-k | `top_k` | 40 | 0 | the k largest |
//! | typical | `typical_p` | 1.0 | 1.0 | those whose surprise is nearest to the entropy, until their mass reaches it |
//! | top-p | `top_p` | 0.95 | 1.0 | the largest, until their mass reaches it |
//! | min-p | `min_p` | 0.05 | 0.0 | those at least so likely, relative to the likeliest |
//! | temperature | `temperature` | 0.8 | 1.0 | divides logits; 0 takes the largest after the penalties and skips the rest |
//! | draw | `seed` | random | | one of what is left, by [`uniform`] of (seed, position) |
//!
//! Equal logits rank by id, lower first. A NaN logit counts as minus infinity. Bias and penalties are computed in f32,
//! the rest in f64 with `libm` and sums in a fixed order, so a draw depends on logits, sequence, arguments and seed
//! alone: the same token on every machine, and whatever else the step computes.
//!
//! Holtzman et al. 2020 (top-p), Meister et al. 2023 (typical), Nguyen et al. 2025 (min-p), Keskar et al. 2019 (repetition).

use crate::rng::uniform;
use thiserror::Error;

/// How to choose a token; the module's table says what each field means.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Finite, at least 0.
    pub temperature: f32,
    /// Any; 0 is off.
    pub top_k: usize,
    /// In (0, 1].
    pub top_p: f32,
    /// In [0, 1].
    pub min_p: f32,
    /// In (0, 1].
    pub typical_p: f32,
    /// Finite, above 0.
    pub repeat_penalty: f32,
    /// Any; `usize::MAX` is the whole sequence.
    pub repeat_last_n: usize,
    /// Finite.
    pub presence_penalty: f32,
    /// Finite.
    pub frequency_penalty: f32,
    /// (token, amount), amount finite or minus infinity (never that token); a token named twice gets the sum.
    pub logit_bias: Vec<(u32, f32)>,
    /// `None`: a random one is chosen when the request is submitted, and reported with its end.
    pub seed: Option<u64>,
    /// `Some(n)`: report the log-probability of each chosen token and of the n likeliest.
    pub logprobs: Option<usize>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
            logprobs: None,
        }
    }
}

/// A sampling argument that makes no sense.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ArgumentError {
    /// A number outside its range.
    #[error("{name} is {value} but must be {range}")]
    Range {
        /// The field.
        name: &'static str,
        /// What it was.
        value: f32,
        /// What it may be.
        range: &'static str,
    },
    /// A bias for a token that the model does not have.
    #[error("logit_bias names token {id} but the vocabulary has {vocab} tokens, 0 to {}", vocab.saturating_sub(1))]
    BiasToken {
        /// The token.
        id: u32,
        /// Tokens in the vocabulary.
        vocab: usize,
    },
    /// A bias that is NaN or plus infinity.
    #[error("logit_bias of token {id} is {value} but must be a finite number, or minus infinity to ban the token")]
    BiasValue {
        /// The token.
        id: u32,
        /// Its bias.
        value: f32,
    },
}

/// No token can be chosen: every logit is NaN or minus infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no token can be chosen: of {vocab} logits {nan} are NaN and the others minus infinity")]
pub struct NoCandidate {
    /// NaN logits.
    pub nan: usize,
    /// All logits.
    pub vocab: usize,
}

impl Sampling {
    /// Always the likeliest token: temperature 0, everything else at its default.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every field against its range, and the biases against a vocabulary of `vocab` tokens.
    pub fn check(&self, vocab: usize) -> Result<(), ArgumentError> {
        let share = |x: f32| x > 0.0 && x <= 1.0;
        let (temperature, repeat) = (self.temperature, self.repeat_penalty);
        for (name, value, good, range) in [
            ("temperature", temperature, temperature >= 0.0 && temperature.is_finite(), "a finite number, 0 or more"),
            ("top_p", self.top_p, share(self.top_p), "above 0 and at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "between 0 and 1"),
            ("typical_p", self.typical_p, share(self.typical_p), "above 0 and at most 1"),
            ("repeat_penalty", repeat, repeat.is_normal() && repeat > 0.0, "a finite number above 0"),
            ("presence_penalty", self.presence_penalty, self.presence_penalty.is_finite(), "a finite number"),
            ("frequency_penalty", self.frequency_penalty, self.frequency_penalty.is_finite(), "a finite number"),
        ] {
            if !good {
                return Err(ArgumentError::Range { name, value, range });
            }
        }
        for &(id, value) in &self.logit_bias {
            if id as usize >= vocab {
                return Err(ArgumentError::BiasToken { id, vocab });
            }
            if value.is_nan() || value == f32::INFINITY {
                return Err(ArgumentError::BiasValue { id, value });
            }
        }
        Ok(())
    }

    /// Whether bias or penalties change any logit.
    fn adjusts(&self) -> bool {
        let penalties = (self.repeat_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0);
        !self.logit_bias.is_empty() || (penalties && self.repeat_last_n > 0)
    }
}

/// A token that may still be chosen.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    /// Finite.
    logit: f32,
    /// Place in the order of [`nucleus`]: smaller first.
    rank: f64,
    /// Probability times a constant that is the same for all candidates.
    weight: f64,
}

/// Chooses tokens. Holds nothing but scratch memory, so one serves all requests.
#[derive(Debug, Default)]
pub struct Sampler {
    masked: Vec<f32>,
    adjusted: Vec<f32>,
    window: Vec<u32>,
    kept: Vec<Candidate>,
}

impl Sampler {
    /// The token after `sequence` (prompt and what was generated), of which `logits`, `[vocab]`, are the model's.
    ///
    /// `how` must have passed [`Sampling::check`]; its `seed` is not looked at.
    pub fn draw(&mut self, how: &Sampling, seed: u64, sequence: &[u32], logits: &[f32]) -> Result<u32, NoCandidate> {
        let total = self.filter(how, sequence, logits)?;
        let target = uniform(seed, sequence.len() as u64) * total;
        let mut sum = 0.0;
        let mut chosen = None;
        for c in self.kept.iter().filter(|c| c.weight > 0.0) {
            chosen = Some(c.id);
            sum += c.weight;
            if sum > target {
                break;
            }
        }
        chosen.ok_or_else(|| no_candidate(logits))
    }

    /// The same among tokens whose bit is set in `mask`: bit `t % 32` of word `t / 32` is token `t`'s.
    pub fn draw_among(
        &mut self,
        mask: &[u32],
        how: &Sampling,
        seed: u64,
        sequence: &[u32],
        logits: &[f32],
    ) -> Result<u32, NoCandidate> {
        let mut masked = std::mem::take(&mut self.masked);
        masked.clear();
        for (logits, word) in logits.chunks(32).zip(mask) {
            let keep = |(bit, &l): (usize, &f32)| if word >> bit & 1 == 1 { l } else { f32::NEG_INFINITY };
            masked.extend(logits.iter().enumerate().map(keep));
        }
        masked.resize(logits.len(), f32::NEG_INFINITY);
        let drawn = self.draw(how, seed, sequence, &masked);
        self.masked = masked;
        drawn
    }

    /// The tokens among which [`Sampler::draw`] chooses, with their probabilities, in order of id.
    pub fn distribution(
        &mut self,
        how: &Sampling,
        sequence: &[u32],
        logits: &[f32],
    ) -> Result<Vec<(u32, f64)>, NoCandidate> {
        let total = self.filter(how, sequence, logits)?;
        Ok(self.kept.iter().map(|c| (c.id, c.weight / total)).collect())
    }

    /// All stages but the draw: leaves in `kept`, in order of id, the candidates and their weights, of which it returns the sum.
    fn filter(&mut self, how: &Sampling, sequence: &[u32], logits: &[f32]) -> Result<f64, NoCandidate> {
        let adjusted = how.adjusts();
        if adjusted {
            self.adjust(how, sequence, logits);
        }
        let from = if adjusted { &self.adjusted } else { logits };
        let greedy = how.temperature == 0.0;
        let kept = &mut self.kept;
        largest(from, if greedy { 1 } else { how.top_k }, kept);
        let Some(max) = kept.iter().map(|c| c.logit).reduce(f32::max) else {
            return Err(no_candidate(logits));
        };
        if how.typical_p < 1.0 && !greedy {
            let total = weigh(kept, max, 1.0);
            let surprise = |c: &Candidate| libm::log(total) - (f64::from(c.logit) - f64::from(max));
            let entropy: f64 = kept.iter().map(|c| c.weight / total * surprise(c)).sum();
            kept.iter_mut().for_each(|c| c.rank = (surprise(c) - entropy).abs());
            nucleus(kept, f64::from(how.typical_p) * total);
        }
        let max = kept.iter().map(|c| c.logit).fold(f32::MIN, f32::max);
        if how.top_p < 1.0 && !greedy {
            let total = weigh(kept, max, 1.0);
            kept.iter_mut().for_each(|c| c.rank = -f64::from(c.logit));
            nucleus(kept, f64::from(how.top_p) * total);
        }
        if how.min_p > 0.0 {
            let least = f64::from(max) + libm::log(f64::from(how.min_p));
            kept.retain(|c| f64::from(c.logit) >= least);
        }
        kept.sort_unstable_by_key(|c| c.id);
        Ok(weigh(kept, max, if greedy { 1.0 } else { how.temperature.into() }))
    }

    /// Bias, then penalties, on a copy of the logits.
    fn adjust(&mut self, how: &Sampling, sequence: &[u32], logits: &[f32]) {
        self.adjusted.clear();
        self.adjusted.extend_from_slice(logits);
        for &(id, bias) in &how.logit_bias {
            if let Some(logit) = self.adjusted.get_mut(id as usize) {
                *logit += bias;
            }
        }
        self.window.clear();
        self.window.extend_from_slice(&sequence[sequence.len().saturating_sub(how.repeat_last_n)..]);
        self.window.sort_unstable();
        for same in self.window.chunk_by(|a, b| a == b) {
            let Some(logit) = self.adjusted.get_mut(same[0] as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / how.repeat_penalty } else { *logit * how.repeat_penalty };
            *logit -= same.len() as f32 * how.frequency_penalty + how.presence_penalty;
        }
    }
}

fn no_candidate(logits: &[f32]) -> NoCandidate {
    NoCandidate { nan: logits.iter().filter(|l| l.is_nan()).count(), vocab: logits.len() }
}

/// The `k` largest logits (0: all) above minus infinity into `kept`: all of them in order of id, fewer in order of logit, then id.
///
/// One pass with a floor that rises: a later token that only equals the floor has a larger id, and loses.
fn largest(logits: &[f32], k: usize, kept: &mut Vec<Candidate>) {
    kept.clear();
    let k = if k == 0 { logits.len() } else { k };
    kept.reserve(k.saturating_mul(2).min(logits.len()));
    let order = |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id));
    let mut floor = f32::NEG_INFINITY;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > floor {
            // Adding 0 turns -0 into 0, so that the total order takes them as equal.
            kept.push(Candidate { id: id as u32, logit: logit.min(f32::MAX) + 0.0, rank: 0.0, weight: 0.0 });
            if kept.len() / 2 >= k {
                kept.select_nth_unstable_by(k - 1, order);
                kept.truncate(k);
                floor = kept[k - 1].logit;
            }
        }
    }
    if kept.len() > k {
        kept.select_nth_unstable_by(k - 1, order);
        kept.truncate(k);
    }
    if k < logits.len() {
        kept.sort_unstable_by(order);
    }
}

/// Sets each weight to exp((logit - max) / temperature), and returns the sum in the order of `kept`.
fn weigh(kept: &mut [Candidate], max: f32, temperature: f64) -> f64 {
    let mut total = 0.0;
    for c in kept {
        c.weight = libm::exp((f64::from(c.logit) - f64::from(max)) / temperature);
        total += c.weight;
    }
    total
}

/// Keeps the first by (rank, id) until their weights reach `mass`, in that order. Sorts no more than it needs.
fn nucleus(kept: &mut Vec<Candidate>, mass: f64) {
    let order = |a: &Candidate, b: &Candidate| a.rank.total_cmp(&b.rank).then(a.id.cmp(&b.id));
    let (mut sorted, mut batch, mut sum) = (0, 256, 0.0);
    while sorted < kept.len() {
        let rest = &mut kept[sorted..];
        let n = rest.len().min(batch);
        if n < rest.len() {
            rest.select_nth_unstable_by(n - 1, order);
        }
        rest[..n].sort_unstable_by(order);
        for (i, c) in rest[..n].iter().enumerate() {
            sum += c.weight;
            if sum >= mass {
                kept.truncate(sorted + i + 1);
                return;
            }
        }
        (sorted, batch) = (sorted + n, batch * 4);
    }
}

/// Log-probabilities at one position, of the model's own distribution: before mask, bias, penalties, filters and temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Natural logarithm of the chosen token's probability.
    pub chosen: f32,
    /// The likeliest tokens with theirs, likeliest first; equal ones by id.
    pub top: Vec<(u32, f32)>,
}

impl Sampler {
    /// log softmax of `logits`, `[vocab]`, at `token` and at the `top` largest. NaN counts as minus infinity.
    pub fn logprobs(&mut self, logits: &[f32], token: u32, top: usize) -> Logprobs {
        let value = |l: f32| if l.is_nan() { f64::NEG_INFINITY } else { f64::from(l.min(f32::MAX)) };
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max).min(f32::MAX);
        let sum: f64 = logits.iter().map(|&l| libm::exp(value(l) - f64::from(max))).sum();
        let norm = f64::from(max) + libm::log(sum);
        let log = |l: f32| (value(l) - norm) as f32;
        self.kept.clear();
        if top > 0 {
            largest(logits, top.min(logits.len()), &mut self.kept);
            self.kept.sort_by(|a, b| b.logit.total_cmp(&a.logit)); // stable: equal ones stay in order of id
        }
        Logprobs {
            chosen: logits.get(token as usize).map_or(f32::NEG_INFINITY, |&l| log(l)),
            top: self.kept.iter().map(|c| (c.id, log(c.logit))).collect(),
        }
    }
}
