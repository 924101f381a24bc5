//! Output stays within its constraint, whatever else a request asks for, and with guesses.

use crate::toy::{Answer, END, Toy, ToyText, VOCAB, finish};
use alula_engine::sample::NoCandidate;
use alula_engine::text::Text;
use alula_engine::{Constraint, Engine, Options, Reason, Request, Sampling};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Allows tokens of the class `i % 3` after `i` tokens, and the end from the third on.
struct Classes {
    told: Arc<Mutex<Vec<u32>>>,
    /// It is complete after so many tokens, or fails there.
    last: usize,
    fails: Option<&'static str>,
    /// It fails when it is told, not when it is asked.
    late: bool,
}

fn allowed(place: usize, token: u32) -> bool {
    if token == END { place >= 3 } else { token as usize % 3 == place % 3 }
}

impl Constraint for Classes {
    fn allow(&mut self, mask: &mut [u32]) -> Result<(), String> {
        assert!(mask.len() == VOCAB.div_ceil(32) && mask.iter().all(|w| *w == 0), "a fresh mask for each token");
        let place = self.told.lock().unwrap().len();
        if let (Some(why), false) = (self.fails, self.late || place < self.last) {
            return Err(why.to_owned());
        }
        for token in (0..VOCAB as u32).filter(|t| allowed(place, *t)) {
            mask[token as usize / 32] |= 1 << (token % 32);
        }
        mask[VOCAB / 32] |= u32::MAX << (VOCAB % 32); // past the vocabulary
        Ok(())
    }
    fn accept(&mut self, token: u32) -> Result<bool, String> {
        let mut told = self.told.lock().unwrap();
        assert!(allowed(told.len(), token), "{token} was not allowed");
        told.push(token);
        match self.fails {
            Some(why) if self.late && told.len() == self.last => Err(why.to_owned()),
            _ => Ok(self.fails.is_none() && told.len() == self.last),
        }
    }
}

fn run(toy: Toy, request: &Request, last: usize, fails: Option<&'static str>, late: bool) -> (Answer, Vec<u32>, u64) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let constraint = Classes { told: Arc::clone(&told), last, fails, late };
    let text: Arc<dyn Text> = Arc::new(ToyText);
    let mut engine = Engine::new(toy, Some(text), Options::default());
    let id = engine.submit_constrained(request.clone(), Box::new(constraint)).unwrap();
    // Company without a constraint.
    let free = engine.submit(request.clone()).unwrap();
    let mut answers = BTreeMap::new();
    finish(&mut engine, &mut answers);
    assert_ne!(answers[&free].tokens, answers[&id].tokens);
    let told = told.lock().unwrap().clone();
    (answers.remove(&id).unwrap(), told, engine.load().counters.right)
}

fn request(sampling: Sampling) -> Request {
    let sampling = Sampling { seed: Some(4), logprobs: Some(VOCAB), ..sampling };
    Request { prompt: vec![5, 6, 7], max_tokens: Some(60), sampling, ignore_end: true, ..Request::default() }
}

#[test]
fn output_is_what_is_allowed() {
    let biased =
        Sampling { logit_bias: (0..VOCAB as u32).step_by(3).map(|t| (t, 1e30)).collect(), ..Sampling::default() };
    let penalised = Sampling { repeat_penalty: 0.1, presence_penalty: -9.0, top_k: 0, ..Sampling::default() };
    for sampling in [Sampling::greedy(), Sampling::default(), biased, penalised] {
        let request = request(sampling);
        let (answer, told, _) = run(Toy::new(9), &request, 40, None, false);
        assert_eq!((answer.tokens.len(), answer.reason.clone()), (40, Some(Reason::Stop)));
        assert_eq!(answer.tokens, told);
        assert!(answer.tokens.iter().enumerate().all(|(i, t)| allowed(i, *t)));
        // The last token belongs to the output.
        let text = |n| run(Toy::new(9), &Request { max_tokens: Some(n), ..request.clone() }, 90, None, false).0.text;
        assert_eq!(answer.text, text(40));
        // The distribution that is told is the model's own.
        for (logprobs, chosen) in answer.logprobs.iter().zip(&answer.tokens) {
            let logprobs = logprobs.as_ref().unwrap();
            assert_eq!(logprobs.top.len(), VOCAB);
            assert!(
                logprobs.top.iter().all(|(_, p)| p.is_finite()) && logprobs.top.contains(&(*chosen, logprobs.chosen))
            );
        }
        for seed in 0..9 {
            let (guessed, _, right) = run(Toy { guess: Some(seed), ..Toy::new(9) }, &request, 40, None, false);
            assert_eq!(guessed, answer, "guesses change nothing; {right} were right");
        }
    }
    let greedy = request(Sampling::greedy());
    let right: u64 = (0..9).map(|s| run(Toy { guess: Some(s), ..Toy::new(9) }, &greedy, 40, None, false).2).sum();
    assert!(right > 0, "some were right");
}

#[test]
fn ends_come_where_they_are_allowed() {
    // Very much for the end token: it comes as soon as it may.
    let sampling = Sampling { logit_bias: vec![(END, 100.0)], ..Sampling::default() };
    let request = Request { ignore_end: false, ..request(sampling) };
    let (answer, told, _) = run(Toy::new(9), &request, 50, None, false);
    assert_eq!((answer.tokens.len(), answer.reason), (4, Some(Reason::Stop)));
    assert_eq!((told.len(), told[3]), (4, END), "it is told of the end");
}

#[test]
fn a_constraint_that_fails_ends_the_request() {
    let request = request(Sampling::default());
    for late in [false, true] {
        let (answer, _, _) = run(Toy::new(9), &request, 7, Some("no rule is left"), late);
        assert_eq!(answer.reason, Some(Reason::Constraint("no rule is left".into())));
        assert_eq!(answer.tokens.len(), if late { 6 } else { 7 });
    }
    struct Nothing;
    impl Constraint for Nothing {
        fn allow(&mut self, _: &mut [u32]) -> Result<(), String> {
            Ok(())
        }
        fn accept(&mut self, _: u32) -> Result<bool, String> {
            Ok(false)
        }
    }
    let mut engine = Engine::new(Toy::new(9), None, Options::default());
    let id = engine.submit_constrained(request.clone(), Box::new(Nothing)).unwrap();
    let mut answers = BTreeMap::new();
    finish(&mut engine, &mut answers);
    assert_eq!(answers[&id].reason, Some(Reason::Constraint("no token is allowed".into())));
    // What is allowed is banned by the request itself.
    let banned = Sampling {
        logit_bias: (0..VOCAB as u32).step_by(3).map(|t| (t, f32::NEG_INFINITY)).collect(),
        ..request.sampling.clone()
    };
    let (answer, told, _) = run(Toy::new(9), &Request { sampling: banned, ..request }, 7, None, false);
    assert!(answer.tokens.is_empty() && told.is_empty());
    assert_eq!(answer.reason, Some(Reason::Failed(NoCandidate { nan: 0, vocab: VOCAB })));
}
