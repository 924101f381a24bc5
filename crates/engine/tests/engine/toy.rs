//! A toy model whose logits depend on every token of the sequence, read back through the page table: a wrong page,
//! position or order changes everything. It also checks that each batch keeps the promises of [`Batch`].

use alula_device::{Batch, PAGE};
use alula_engine::text::{Stream, Text};
use alula_engine::{Engine, Event, Id, Options, Reason, Request, RunError, Runner};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) const VOCAB: usize = 40;
pub(crate) const END: u32 = 1;

/// Token, position and regime of each token of a sequence.
pub(crate) type Held = Vec<(u32, u32, usize)>;

pub(crate) struct Toy {
    /// What the cache holds at each place: token, position, regime.
    pub(crate) cache: Held,
    pub(crate) logits: Vec<f32>,
    pub(crate) context: usize,
    /// Lengths past which a sequence is in another regime.
    pub(crate) regimes: Vec<usize>,
    pub(crate) max_tokens: usize,
    pub(crate) max_outputs: usize,
    /// The next so many runs fail after they wrote to the cache.
    pub(crate) fail: usize,
    /// So does every run of so many; 0: none.
    pub(crate) fail_every: usize,
    /// A sequence must go on where its slot stands, and there are so many checkpoints: all that each stands for.
    pub(crate) checkpoints: Option<Vec<Option<Held>>>,
    /// The same of each slot after its last run.
    pub(crate) held: BTreeMap<u32, Held>,
    /// Its logits depend on so many last tokens alone and not on the regime; 0: on all.
    pub(crate) short: usize,
    /// No row sees more than these, and page tables may have holes.
    pub(crate) windowed: bool,
    /// Rows of each step so far.
    pub(crate) rows: Vec<usize>,
    /// The positions before and after the last run in each slot.
    pub(crate) slots: BTreeMap<u32, [usize; 2]>,
    /// Logits that a token at the end of a sequence gives, instead of its own.
    pub(crate) fixed: Vec<(u32, f32)>,
    /// It guesses tokens, some wrongly, by this seed.
    pub(crate) guess: Option<u64>,
    /// The next so many guesses fail.
    pub(crate) fail_guess: usize,
    /// At each place, the token after it and its position, as the guesser was told.
    pub(crate) told: Vec<(u32, u32)>,
    /// It did not hear of some.
    pub(crate) deaf: bool,
    /// Token, position and place of each row of the last run.
    pub(crate) last: Vec<(u32, u32, usize)>,
}

impl Toy {
    pub(crate) fn new(pages: usize) -> Self {
        Self {
            cache: vec![(u32::MAX, u32::MAX, 0); pages * PAGE],
            logits: Vec::new(),
            context: 1000,
            regimes: Vec::new(),
            max_tokens: 512,
            max_outputs: 512,
            fail: 0,
            fail_every: 0,
            checkpoints: None,
            held: BTreeMap::new(),
            short: 0,
            windowed: false,
            rows: Vec::new(),
            slots: BTreeMap::new(),
            fixed: Vec::new(),
            guess: None,
            fail_guess: 0,
            told: vec![(u32::MAX, u32::MAX); pages * PAGE],
            deaf: false,
            last: Vec::new(),
        }
    }
}

/// One round of a hash (the finaliser of splitmix64).
fn mix(state: u64, value: u64) -> u64 {
    let mut z = (state ^ value).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn regime(regimes: &[usize], length: usize) -> usize {
    regimes.iter().filter(|&&n| length > n).count()
}

/// The toy model itself: a row of logits in -4..4 from everything the sequence holds.
fn logits(sequence: impl Iterator<Item = (u32, u32, usize)>) -> impl Iterator<Item = f32> {
    let hash = sequence.fold(0, |h, (token, position, regime)| {
        mix(h, u64::from(token) | u64::from(position) << 32 | (regime as u64) << 56)
    });
    (0..VOCAB as u64).map(move |id| (mix(hash, id) >> 40) as f32 / (1 << 21) as f32 - 4.0)
}

impl Runner for Toy {
    fn vocab(&self) -> usize {
        VOCAB
    }
    fn context(&self) -> usize {
        self.context
    }
    fn regime(&self, length: usize) -> usize {
        regime(&self.regimes, length)
    }
    fn pages(&self) -> usize {
        self.cache.len() / PAGE
    }
    fn window(&self) -> Option<usize> {
        self.windowed.then_some(self.short)
    }
    fn checkpoints(&self) -> Option<usize> {
        self.checkpoints.as_ref().map(Vec::len)
    }
    fn save(&mut self, slot: u32, position: usize, checkpoint: u32) -> Result<(), RunError> {
        if self.fail_every > 0 && position.is_multiple_of(3) {
            return Err("the toy cannot keep this".into());
        }
        assert_eq!(self.slots[&slot][1], position, "the slot does not stand there");
        let held = self.held[&slot][..position].to_vec();
        self.checkpoints.as_mut().unwrap()[checkpoint as usize] = Some(held);
        Ok(())
    }
    fn restore(&mut self, checkpoint: u32, slot: u32) -> Result<(), RunError> {
        let held = self.checkpoints.as_ref().unwrap()[checkpoint as usize].clone().unwrap();
        self.slots.insert(slot, [held.len(); 2]);
        self.held.insert(slot, held);
        Ok(())
    }
    fn max_tokens(&self) -> usize {
        self.max_tokens
    }
    fn max_outputs(&self) -> usize {
        self.max_outputs
    }
    fn run(&mut self, batch: &Batch<'_>) -> Result<&[f32], RunError> {
        let rows = batch.tokens.len();
        assert!((1..=self.max_tokens).contains(&rows) && batch.positions.len() == rows);
        assert!(batch.outputs.len() <= self.max_outputs);
        assert!(batch.outputs.is_sorted_by(|a, b| a < b) && batch.outputs.iter().all(|&r| (r as usize) < rows));
        let place = |pages: &[u32], p: u32| pages[p as usize / PAGE] as usize * PAGE + p as usize % PAGE;
        let (mut next, mut written, mut taken) = (0, vec![false; self.cache.len()], BTreeSet::new());
        self.last.clear();
        for seq in batch.seqs {
            assert!(seq.start == next && seq.len > 0);
            assert!(seq.length <= self.context && batch.positions[seq.start] as usize + seq.len <= seq.length);
            let first = batch.positions[seq.start] as usize;
            let stands = self.slots.entry(seq.slot).or_default();
            // After a wrong guess it goes on where no copy of a state of fixed size stands.
            let known = self.checkpoints.is_none() || first == 0 || stands.contains(&first);
            assert!(known, "slot {} stands at {stands:?}, not {first}", seq.slot);
            assert!(taken.insert(seq.slot), "a slot of two sequences");
            if self.checkpoints.is_some() {
                let pages = (0..first as u32).map(|p| self.cache[place(seq.pages, p)]);
                let held = self.held.entry(seq.slot).or_default();
                assert!(pages.eq(held[..first].iter().copied()), "the slot holds another sequence");
                held.truncate(first);
                let regime = regime(&self.regimes, seq.length);
                held.extend((seq.start..seq.start + seq.len).map(|r| (batch.tokens[r], batch.positions[r], regime)));
            }
            *stands = [first, first + seq.len];
            next += seq.len;
            for row in seq.start..next {
                let (token, position) = (batch.tokens[row], batch.positions[row]);
                assert!(row == seq.start || position == batch.positions[row - 1] + 1);
                assert!((token as usize) < VOCAB && (position as usize) < self.context);
                let place = place(seq.pages, position);
                assert!(!std::mem::replace(&mut written[place], true), "a place written twice in one step");
                self.cache[place] = (token, position, regime(&self.regimes, seq.length));
                self.last.push((token, position, place));
            }
        }
        assert_eq!(next, rows);
        self.rows.push(rows);
        self.logits.clear();
        for &row in batch.outputs {
            let seq = batch.seqs.iter().find(|s| (s.start..s.start + s.len).contains(&(row as usize))).unwrap();
            let at = batch.positions[row as usize];
            let from = if self.short > 0 { (at + 1).saturating_sub(self.short as u32) } else { 0 };
            let sequence = (from..=at).map(|p| self.cache[place(seq.pages, p)]);
            match self.fixed.iter().find(|f| f.0 == batch.tokens[row as usize]) {
                Some(&(_, value)) => self.logits.extend([value; VOCAB]),
                None if self.short > 0 => self.logits.extend(logits(sequence.map(|x| (x.0, 0, 0)))),
                None => self.logits.extend(logits(sequence)),
            }
        }
        let often = self.fail_every > 0 && self.rows.len().is_multiple_of(self.fail_every);
        if self.fail > 0 || often {
            self.fail = self.fail.saturating_sub(1);
            self.logits.push(0.0); // what is there after an error means nothing
            return Err("the toy broke".into());
        }
        Ok(&self.logits)
    }
    fn guesses(&self) -> bool {
        self.guess.is_some()
    }
    fn guess(&mut self, batch: &Batch<'_>, rows: &[u32]) -> Result<&[f32], RunError> {
        let seed = self.guess.expect("it guesses");
        let place = |pages: &[u32], p: u32| pages[p as usize / PAGE] as usize * PAGE + p as usize % PAGE;
        assert!(rows.len() == batch.tokens.len() && batch.positions.len() == rows.len());
        for seq in batch.seqs {
            for (row, from) in rows.iter().enumerate().skip(seq.start).take(seq.len) {
                let (token, position) = (batch.tokens[row], batch.positions[row]);
                let (_, was, at) = self.last[*from as usize];
                assert_eq!(
                    (was, at),
                    (position, place(seq.pages, position)),
                    "another row than the one it goes on from"
                );
                self.told[at] = (token, position);
            }
            // It has heard of every position, and what it heard is the sequence.
            let all = 0..batch.positions[seq.start + seq.len - 1];
            let heard = |p: u32| self.told[place(seq.pages, p)] == (self.cache[place(seq.pages, p + 1)].0, p);
            assert!(self.deaf || all.into_iter().all(heard), "a position was left out");
        }
        if self.fail_guess > 0 {
            (self.fail_guess, self.deaf) = (self.fail_guess - 1, true);
            return Err("the toy cannot guess".into());
        }
        self.logits.clear();
        for &row in batch.outputs {
            let seq = batch.seqs.iter().find(|s| (s.start..s.start + s.len).contains(&(row as usize))).unwrap();
            let (token, position) = (batch.tokens[row as usize], batch.positions[row as usize]);
            let known = (0..=position).map(|p| self.cache[place(seq.pages, p)]);
            let regime = regime(&self.regimes, seq.length);
            let chance = mix(seed, u64::from(position) | u64::from(token) << 32);
            let next = known.chain([(token, position + 1, regime)]);
            match chance % 3 {
                0 => self.logits.extend(logits([(token, position, 99)].into_iter())),
                _ => self.logits.extend(logits(next)),
            }
        }
        Ok(&self.logits)
    }
}

/// What the toy model answers, without an engine: its definition, token by token.
pub(crate) fn by_definition(request: &Request, context: usize, regimes: &[usize]) -> Vec<u32> {
    let mut sampler = alula_engine::sample::Sampler::default();
    let mut sequence = request.prompt.clone();
    let seed = request.sampling.seed.unwrap_or(0);
    let most = request.max_tokens.unwrap_or(usize::MAX);
    while sequence.len() < context && sequence.len() - request.prompt.len() < most {
        let regime = regime(regimes, sequence.len());
        let row: Vec<f32> = logits((0..).zip(&sequence).map(|(p, &t)| (t, p, regime))).collect();
        let token = sampler.draw(&request.sampling, seed, &sequence, &row).unwrap();
        sequence.push(token);
        if request.stop_tokens.contains(&token) {
            break;
        }
    }
    sequence.split_off(request.prompt.len())
}

/// A request's answer, as its events told it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) tokens: Vec<u32>,
    pub(crate) text: String,
    pub(crate) logprobs: Vec<Option<alula_engine::Logprobs>>,
    pub(crate) reason: Option<Reason>,
    /// Of the prompt's tokens.
    pub(crate) prompt: Vec<alula_engine::Logprobs>,
    /// Of its last token.
    pub(crate) hidden: Vec<f32>,
}

/// The log-probabilities of a prompt's tokens behind the first, by definition.
pub(crate) fn prompt_by_definition(prompt: &[u32], top: usize) -> Vec<alula_engine::Logprobs> {
    let mut sampler = alula_engine::sample::Sampler::default();
    let mut one = |n: usize| {
        let row: Vec<f32> = logits((0..).zip(&prompt[..n]).map(|(p, &t)| (t, p, 0))).collect();
        sampler.logprobs(&row, prompt[n], top)
    };
    (1..prompt.len()).map(&mut one).collect()
}

/// Adds events to the answers; checks that nothing comes after the end, and that the usage is true.
pub(crate) fn note(answers: &mut BTreeMap<Id, Answer>, events: Vec<Event>) {
    for event in events {
        match event {
            Event::Token { id, token, text, logprobs } => {
                let answer = answers.entry(id).or_default();
                assert_eq!(answer.reason, None, "a token after the end");
                answer.tokens.push(token);
                answer.text += &text;
                answer.logprobs.push(logprobs);
            }
            Event::Prompt { id, logprobs } => {
                let answer = answers.entry(id).or_default();
                assert!(answer.tokens.is_empty() && answer.reason.is_none(), "a prompt after its answer");
                answer.prompt.extend(logprobs);
            }
            Event::Hidden { id, values } => {
                let answer = answers.entry(id).or_default();
                assert!(answer.tokens.is_empty() && answer.hidden.is_empty(), "once, before the answer");
                answer.hidden = values;
            }
            Event::Finished { id, reason, usage } => {
                let answer = answers.entry(id).or_default();
                assert_eq!(answer.reason.replace(reason), None, "ended twice");
                assert_eq!(usage.generated, answer.tokens.len());
            }
        }
    }
}

/// Steps until nothing is left to do; a step that fails is done again.
pub(crate) fn finish<R: Runner>(engine: &mut Engine<R>, answers: &mut BTreeMap<Id, Answer>) {
    for _ in 0..100_000 {
        if engine.is_idle() {
            let pages = engine.scheduler().pages();
            assert_eq!(pages.free(), pages.total(), "pages leaked");
            assert_eq!((engine.scheduler().running(), engine.scheduler().waiting()), (0, 0));
            return;
        }
        match engine.step() {
            Ok(events) => note(answers, events),
            Err(e) => assert!(e.to_string().contains("the toy"), "{e}"),
        }
    }
    panic!("never finishes");
}

/// The answer to one request alone.
pub(crate) fn alone(toy: Toy, text: Option<Arc<dyn Text>>, options: Options, request: &Request) -> Answer {
    let mut engine = Engine::new(toy, text, options);
    let id = engine.submit(request.clone()).unwrap();
    let mut answers = BTreeMap::new();
    finish(&mut engine, &mut answers);
    answers.remove(&id).unwrap()
}

/// A tokenizer for the toy: token 1 ends, 2 is the first half of an é, 3 the second, and the others are letters
/// (`a` is 4), with `<`, token and `>` for those past z.
pub(crate) struct ToyText;

struct ToyStream(Vec<u8>);

impl Text for ToyText {
    fn is_end(&self, token: u32) -> bool {
        token == END
    }
    fn stream(self: Arc<Self>, _: &[u32]) -> Box<dyn Stream> {
        Box::new(ToyStream(Vec::new()))
    }
}

impl Stream for ToyStream {
    fn push(&mut self, token: u32, out: &mut String) {
        match token {
            2 | 3 => self.0.push("é".as_bytes()[token as usize - 2]),
            4..30 => self.0.push(b'a' + token as u8 - 4),
            _ => self.0.extend(format!("<{token}>").bytes()),
        }
        if !self.0.ends_with(&"é".as_bytes()[..1]) {
            self.finish(out);
        }
    }
    fn finish(&mut self, out: &mut String) {
        out.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.0)));
    }
}
