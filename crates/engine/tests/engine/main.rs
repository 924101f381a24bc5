//! The step loop over a toy model: whatever the company, the pieces and the preemptions, the answer is the same.

mod adapters;
mod constraints;
mod guesses;
mod prefix;
mod prompts;
mod speculation;
mod stories;
mod toy;
mod window;

use alula_device::PAGE;
use alula_engine::sample::{ArgumentError, NoCandidate};
use alula_engine::stop::StopError;
use alula_engine::text::{Text, Words};
use alula_engine::{Engine, Event, Options, Reason, Request, RequestError, Sampling, Speculation, StepError};
use alula_tokenizer::Tokenizer;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use toy::{Answer, END, Toy, ToyText, VOCAB, alone, by_definition, finish, note};

fn request(prompt: impl IntoIterator<Item = u32>, max_tokens: usize, seed: u64) -> Request {
    let sampling = Sampling { seed: Some(seed), ..Sampling::default() };
    Request { prompt: prompt.into_iter().collect(), max_tokens: Some(max_tokens), sampling, ..Request::default() }
}

/// Requests of all kinds: short and long prompts, greedy and not, penalties, ends.
fn mixed() -> Vec<Request> {
    let mut requests: Vec<Request> =
        [(1, 40), (7, 80), (150, 30), (64, 70), (65, 1), (200, 10), (3, 130), (2, 220), (4, 210)]
            .iter()
            .zip(0u32..)
            .map(|(&(len, n), i)| request((0..len).map(|j| (i * 7 + j * j) % VOCAB as u32), n, i.into()))
            .collect();
    requests[1].sampling.temperature = 0.0;
    requests[2].sampling.repeat_penalty = 1.3;
    requests[3].sampling.logprobs = Some(2);
    requests[6].stop_tokens = vec![9];
    requests
}

#[test]
fn as_defined_alone_together_and_in_pieces() {
    for regimes in [vec![], vec![100], vec![30, 31, 32, 120]] {
        let toy = |pages| Toy { regimes: regimes.clone(), ..Toy::new(pages) };
        let expected: Vec<_> = mixed().iter().map(|r| by_definition(r, 1000, &regimes)).collect();
        assert_eq!(expected[0].len(), 40);
        let options = |step_tokens, running| Options { step_tokens, running, ..Options::default() };
        let plain: Vec<Answer> = mixed().iter().map(|r| alone(toy(20), None, Options::default(), r)).collect();
        for (answer, want) in plain.iter().zip(&expected) {
            assert_eq!(&answer.tokens, want);
        }
        for pieces in [1, 7, 64] {
            for (request, want) in mixed().iter().zip(&plain) {
                assert_eq!(&alone(toy(20), None, options(pieces, 64), request), want, "in pieces of {pieces}");
            }
        }
        // Enough pages for all; few pages, so that some give way; one at a time; small steps.
        for (pages, tokens, running) in [(60, 512, 64), (6, 512, 64), (6, 10, 64), (4, 33, 3), (60, 20, 1)] {
            let mut engine = Engine::new(toy(pages), None, options(tokens, running));
            let ids: Vec<_> = mixed().into_iter().map(|r| engine.submit(r).unwrap()).collect();
            let mut answers = BTreeMap::new();
            finish(&mut engine, &mut answers);
            for (id, want) in ids.iter().zip(&plain) {
                assert_eq!(&answers[id], want, "{pages} pages, {tokens} tokens a step, {running} running");
            }
            assert_eq!(engine.load().counters.scheduler.preemptions > 0, pages <= 6, "{pages} pages");
            assert!(engine.runner().rows.iter().all(|&r| r <= tokens));
        }
    }
}

#[test]
fn pieces_are_as_large_as_the_step_allows() {
    let rows = |max_tokens, step_tokens| {
        let mut engine = Engine::new(
            Toy { max_tokens, ..Toy::new(9) },
            None,
            Options { step_tokens, running: 4, ..Options::default() },
        );
        engine.submit(request((0..30).map(|i| i % 5), 3, 0)).unwrap();
        finish(&mut engine, &mut BTreeMap::new());
        engine.runner().rows.clone()
    };
    let mut engine = Engine::new(Toy { max_outputs: 2, ..Toy::new(9) }, None, Options::default());
    for _ in 0..5 {
        engine.submit(request([5], 3, 0)).unwrap();
    }
    finish(&mut engine, &mut BTreeMap::new());
    assert_eq!(engine.runner().rows, [2, 2, 2, 2, 2, 2, 1, 1, 1], "no more requests than rows of logits");
    assert_eq!(rows(512, usize::MAX), [30, 1, 1]);
    assert_eq!(rows(512, 16), [16, 14, 1, 1]);
    assert_eq!(rows(11, usize::MAX), [11, 11, 8, 1, 1]);
}

#[test]
fn groups_and_priorities_order_who_waits() {
    let mut engine = Engine::new(Toy::new(9), None, Options { running: 1, ..Options::default() });
    let mut submit = |group, priority| engine.submit(Request { group, priority, ..request([5, 6], 3, 0) }).unwrap();
    let [a, b, c, d] = [submit(1, 0), submit(1, 0), submit(2, 0), submit(1, 7)];
    let mut ended = Vec::new();
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            if let Event::Finished { id, .. } = event {
                ended.push(id);
            }
        }
    }
    assert_eq!(ended, [d, c, a, b]);
    fn goes_to_other_threads<T: Send>() {}
    goes_to_other_threads::<Engine<alula_engine::local::Local>>();
}

#[test]
fn a_sequence_whose_regime_changes_is_computed_again() {
    let mut engine = Engine::new(Toy { regimes: vec![10], ..Toy::new(9) }, None, Options::default());
    engine.submit(request([5; 8], 5, 0)).unwrap();
    finish(&mut engine, &mut BTreeMap::new());
    assert_eq!(engine.runner().rows, [8, 1, 1, 11, 1]);
}

#[test]
fn guesses_change_nothing_but_the_steps() {
    for (seed, regimes) in [(1, vec![]), (2, vec![100]), (3, vec![])] {
        let greedy = |mut r: Request| {
            r.sampling.temperature = 0.0;
            r
        };
        let requests: Vec<Request> = mixed().into_iter().map(|r| if seed == 3 { r } else { greedy(r) }).collect();
        let toy = |pages, guess| Toy { regimes: regimes.clone(), guess, ..Toy::new(pages) };
        for (pages, tokens, running) in [(60, 512, 64), (6, 512, 64), (6, 10, 64), (60, 20, 1)] {
            let run = |guess| {
                let speculation = Speculation { rows: 512, ..Speculation::default() };
                let options = Options { step_tokens: tokens, running, speculation, ..Options::default() };
                let mut engine = Engine::new(toy(pages, guess), None, options);
                let ids: Vec<_> = requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
                let mut answers = BTreeMap::new();
                finish(&mut engine, &mut answers);
                let answers: Vec<Answer> = ids.iter().map(|id| answers[id].clone()).collect();
                {
                    let counters = engine.load().counters;
                    (answers, engine.runner().rows.len(), (counters.guessed, counters.right))
                }
            };
            let (plain, guessed) = (run(None), run(Some(seed)));
            let at = format!("seed {seed}, {pages} pages, {tokens} tokens a step, {running} running");
            assert_eq!(plain.0, guessed.0, "{at}");
            let (tried, right) = guessed.2;
            assert!(plain.2 == (0, 0) && right < tried && (right > 100 || seed == 3), "{at}: {right} of {tried}");
            // Those that are right save a step each where a request is alone.
            if running == 1 {
                assert_eq!(plain.1 - guessed.1, right as usize, "{at}");
            }
        }
    }
}

#[test]
fn a_failed_guess_loses_no_event() {
    let toy = Toy { guess: Some(1), fail_guess: 2, ..Toy::new(9) };
    let mut engine = Engine::new(toy, None, Options::default());
    let request = request([5; 8], 20, 0);
    let id = engine.submit(request.clone()).unwrap();
    let mut answers = BTreeMap::new();
    for _ in 0..2 {
        assert_eq!(engine.step().unwrap_err().to_string(), "the model failed: the toy cannot guess");
    }
    finish(&mut engine, &mut answers);
    assert_eq!(answers[&id].tokens, by_definition(&request, 1000, &[]));
}

#[test]
fn requests_are_checked() {
    let mut engine = Engine::new(Toy { context: 100, ..Toy::new(1) }, None, Options::default());
    assert_eq!(engine.context(), PAGE, "the cache is smaller than the model's context");
    let mut refuse = |request: Request| engine.submit(request).unwrap_err();
    assert_eq!(refuse(request([], 1, 0)), RequestError::EmptyPrompt);
    let long = refuse(request([0; 64], 1, 0));
    assert_eq!(long, RequestError::PromptTooLong { prompt: 64, context: 64 });
    assert!(long.to_string().contains("64 tokens but the context holds 64"));
    let unknown = RequestError::PromptToken { at: 1, token: 40, vocab: 40 };
    assert_eq!(refuse(request([39, 40], 1, 0)), unknown);
    let mut bad = request([0], 1, 0);
    bad.sampling.top_p = 0.0;
    let range = ArgumentError::Range { name: "top_p", value: 0.0, range: "above 0 and at most 1" };
    assert_eq!(refuse(bad), RequestError::Sampling(range));
    let bad = Request { stop_tokens: vec![0, 40], ..request([0], 1, 0) };
    assert_eq!(refuse(bad), RequestError::Stop(StopError::Token { id: 40, vocab: 40 }));
    assert_eq!(refuse(Request { stop: vec!["x".into()], ..request([0], 1, 0) }), RequestError::StopWithoutText);
    assert_eq!(refuse(Request { stop: vec!["".into()], ..request([0], 1, 0) }), StopError::Empty(0).into());
    assert!(engine.is_idle() && engine.step().unwrap().is_empty());
    assert!(engine.submit(request([0; 63], 1, 0)).is_ok());
    let engine = Engine::new(Toy { context: 100, ..Toy::new(9) }, None, Options::default());
    assert_eq!(engine.context(), 100);
}

/// The letters that the toy model writes after `prompt`, all of them.
fn written(prompt: &[u32], n: usize) -> Answer {
    let request = Request { ignore_end: true, ..request(prompt.iter().copied(), n, 3) };
    alone(Toy::new(9), Some(Arc::new(ToyText)), Options::default(), &request)
}

#[test]
fn reasons() {
    let run = |request: &Request, toy: Toy| alone(toy, Some(Arc::new(ToyText)), Options::default(), request);
    let whole = written(&[5, 6], 200);
    let chars: Vec<char> = whole.text.chars().collect();
    assert!(whole.tokens.len() == 200 && whole.reason == Some(Reason::Length) && chars.len() > 100);

    let base = Request { ignore_end: true, ..request([5, 6], 200, 3) };
    let got = run(&Request { max_tokens: Some(4), ..base.clone() }, Toy::new(9));
    assert_eq!((&got.tokens[..], got.reason), (&whole.tokens[..4], Some(Reason::Length)));

    let got = run(&Request { max_tokens: Some(0), ..base.clone() }, Toy::new(9));
    assert_eq!((got.tokens.len(), got.text.as_str(), got.reason), (0, "", Some(Reason::Length)));

    let got = run(&Request { max_tokens: None, ..base.clone() }, Toy { context: 50, ..Toy::new(9) });
    assert_eq!((&got.tokens[..], got.reason), (&whole.tokens[..48], Some(Reason::Context)));

    let stop = whole.tokens[10];
    let at = whole.tokens.iter().position(|&t| t == stop).unwrap();
    let got = run(&Request { stop_tokens: vec![0, stop], ..base.clone() }, Toy::new(9));
    assert_eq!((&got.tokens[..], got.reason), (&whole.tokens[..=at], Some(Reason::Stop)));
    assert_eq!(got.text, written(&[5, 6], at).text, "a stop token has no text");

    let stop: String = chars[20..30].iter().collect();
    let before = whole.text.split(&stop).next().unwrap().to_string();
    let got = run(&Request { stop: vec!["never".into(), stop], ..base.clone() }, Toy::new(9));
    assert_eq!((got.text, got.reason), (before, Some(Reason::StopString(1))));
    assert_eq!(got.tokens, whole.tokens[..got.tokens.len()]);

    // Text that might have begun a stop string comes out at the end.
    let got = run(&Request { stop: vec![format!("{}never", whole.text)], ..base.clone() }, Toy::new(9));
    assert_eq!((got.text, got.reason), (whole.text.clone(), Some(Reason::Length)));

    let end = whole.tokens.iter().position(|&t| t == END).expect("the toy ends sometimes");
    let got = run(&Request { ignore_end: false, ..base.clone() }, Toy::new(9));
    assert_eq!((&got.tokens[..], got.reason), (&whole.tokens[..=end], Some(Reason::Stop)));
    assert_eq!(got.text, written(&[5, 6], end).text);
    let got = alone(Toy::new(9), None, Options::default(), &Request { ignore_end: false, ..base });
    assert_eq!((got.tokens.len(), got.text.as_str()), (200, ""), "without a tokenizer nothing ends, and no text");
}

#[test]
fn characters_come_whole() {
    let bias = |id| Request {
        sampling: Sampling { logit_bias: vec![(id, 100.0)], ..Sampling::greedy() },
        ..request([7], 3, 0)
    };
    let mut engine = Engine::new(Toy::new(9), Some(Arc::new(ToyText)), Options::default());
    engine.submit(bias(2)).unwrap();
    let mut texts = Vec::new();
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            if let Event::Token { text, .. } = event {
                texts.push(text);
            }
        }
    }
    assert_eq!(texts, ["", "", "\u{fffd}\u{fffd}\u{fffd}"], "halves are held back until the end");
}

/// A tokenizer.json of seven byte-level tokens: an end, " a", "b", the halves of é, a special token, "c".
const TOKENIZER: &str = r#"{
    "added_tokens": [
        {"id": 0, "content": "</s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},
        {"id": 5, "content": "<x>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}
    ],
    "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "vocab": {"</s>": 0, "Ġa": 1, "b": 2, "Ã": 3, "©": 4, "<x>": 5, "c": 6}, "merges": []}
}"#;

/// The real tokenizer behind the engine's door: text continues the prompt, characters come whole, special tokens have none.
#[test]
fn the_tokenizer_streams() {
    let config = serde_json::json!({"eos_token": "</s>"});
    let tokenizer = Tokenizer::from_json(TOKENIZER.as_bytes(), Some(&config), "tokenizer.json").unwrap();
    let text: Arc<dyn Text> = Arc::new(Words::new(Arc::new(tokenizer), vec![6]));
    assert!(text.is_end(0) && text.is_end(6) && !text.is_end(1));
    let mut stream = text.clone().stream(&[2, 3]);
    let mut pieces = Vec::new();
    for token in [4, 1, 3, 4, 5, 2, 900, 3] {
        let mut piece = String::new();
        stream.push(token, &mut piece);
        pieces.push(piece);
    }
    assert_eq!(pieces, ["é", " a", "", "é", "", "b", "", ""]);
    let mut rest = String::new();
    stream.finish(&mut rest);
    assert_eq!(rest, "\u{fffd}");

    let script = |token| Request {
        sampling: Sampling { logit_bias: vec![(token, 100.0)], ..Sampling::greedy() },
        stop: vec!["bbb".into()],
        ..request([2], 5, 0)
    };
    let run = |token| alone(Toy::new(9), Some(text.clone()), Options::default(), &script(token));
    let got = run(2);
    assert_eq!((got.text.as_str(), got.tokens.len(), got.reason), ("", 3, Some(Reason::StopString(0))));
    let got = run(1);
    assert_eq!((got.text.as_str(), got.reason), (" a a a a a", Some(Reason::Length)));
    let got = run(0);
    assert_eq!((got.text.as_str(), got.tokens.as_slice(), got.reason), ("", &[0][..], Some(Reason::Stop)));
}

#[test]
fn logprobs_come_when_asked_for() {
    let mut asked = request([5, 6], 5, 1);
    asked.sampling.logprobs = Some(3);
    asked.sampling.logit_bias = vec![(8, 50.0)];
    let answer = alone(Toy::new(9), None, Options::default(), &asked);
    assert_eq!(answer.tokens, [8; 5]);
    for logprobs in answer.logprobs {
        let logprobs = logprobs.unwrap();
        assert!(logprobs.top.len() == 3 && logprobs.top.is_sorted_by(|a, b| a.1 >= b.1));
        assert!(logprobs.chosen < -0.1, "the model's own, without the bias");
    }
    assert_eq!(alone(Toy::new(9), None, Options::default(), &request([5], 1, 1)).logprobs, [None]);
}

#[test]
fn seeds() {
    let answer = |seed| {
        let mut request = request([5, 6], 30, 0);
        request.sampling.seed = seed;
        let mut engine = Engine::new(Toy::new(9), None, Options::default());
        engine.submit(request).unwrap();
        let (mut tokens, mut used) = (Vec::new(), None);
        while !engine.is_idle() {
            for event in engine.step().unwrap() {
                match event {
                    Event::Token { token, .. } => tokens.push(token),
                    Event::Prompt { .. } | Event::Hidden { .. } => {}
                    Event::Finished { usage, .. } => used = Some(usage.seed),
                }
            }
        }
        (tokens, used.unwrap())
    };
    assert_eq!(answer(Some(4)), answer(Some(4)));
    assert_eq!(answer(Some(4)).1, 4);
    assert_ne!(answer(Some(4)).0, answer(Some(5)).0);
    let (random, seed) = answer(None);
    assert_ne!(seed, answer(None).1);
    assert_eq!(answer(Some(seed)).0, random, "the reported seed gives the same answer");
}

#[test]
fn a_failed_step_is_done_again() {
    let requests: Vec<_> = mixed().into_iter().take(4).collect();
    let mut engine = Engine::new(
        Toy { fail: 3, ..Toy::new(9) },
        None,
        Options { step_tokens: 20, running: 4, ..Options::default() },
    );
    let ids: Vec<_> = requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
    let none = engine.submit(Request { max_tokens: Some(0), ..requests[0].clone() }).unwrap();
    let mut answers = BTreeMap::new();
    for _ in 0..3 {
        let error = engine.step().unwrap_err();
        assert_eq!(error.to_string(), "the model failed: the toy broke");
        assert!(matches!(error, StepError::Run(_)) && !engine.is_idle());
    }
    finish(&mut engine, &mut answers);
    for (id, request) in ids.iter().zip(&requests) {
        assert_eq!(answers[id].tokens, by_definition(request, 1000, &[]));
    }
    assert_eq!(answers[&none].reason, Some(Reason::Length), "events that were ready are not lost");
}

#[test]
fn broken_logits_end_only_their_own_request() {
    let toy = Toy { fixed: vec![(13, f32::NAN)], ..Toy::new(9) };
    let mut engine = Engine::new(toy, None, Options::default());
    let bad = engine.submit(request([5, 13], 9, 0)).unwrap();
    let mut good = request([5, 6], 9, 0);
    good.sampling.logit_bias = vec![(13, f32::NEG_INFINITY)];
    let good = engine.submit(good).unwrap();
    let mut answers = BTreeMap::new();
    finish(&mut engine, &mut answers);
    assert_eq!(answers[&bad].reason, Some(Reason::Failed(NoCandidate { nan: VOCAB, vocab: VOCAB })));
    assert_eq!((answers[&good].tokens.len(), answers[&good].reason.clone()), (9, Some(Reason::Length)));
}

#[test]
fn wrong_logits_are_an_error() {
    struct Short(Toy);
    impl alula_engine::Runner for Short {
        fn vocab(&self) -> usize {
            VOCAB
        }
        fn context(&self) -> usize {
            100
        }
        fn pages(&self) -> usize {
            9
        }
        fn max_tokens(&self) -> usize {
            9
        }
        fn run(&mut self, batch: &alula_device::Batch<'_>) -> Result<&[f32], alula_engine::RunError> {
            self.0.run(batch).map(|l| &l[1..])
        }
    }
    let mut engine = Engine::new(Box::new(Short(Toy::new(9))), None, Options::default());
    engine.submit(request([1, 2], 3, 0)).unwrap();
    let error = engine.step().unwrap_err();
    assert_eq!(error.to_string(), "the model returned 39 logits where 1 rows of 40 were asked for");
}

#[test]
fn usage_counts_and_times() {
    let mut engine = Engine::new(Toy::new(9), None, Options { step_tokens: 4, running: 1, ..Options::default() });
    engine.submit(request([1; 10], 6, 0)).unwrap();
    let late = engine.submit(request([1; 3], 1, 0)).unwrap();
    let mut done = BTreeMap::new();
    while !engine.is_idle() {
        std::thread::sleep(std::time::Duration::from_millis(1));
        for event in engine.step().unwrap() {
            if let Event::Finished { id, usage, .. } = event {
                done.insert(id, usage);
            }
        }
    }
    let late = done.remove(&late).unwrap();
    let first = done.into_values().next().unwrap();
    assert_eq!((first.prompt, first.generated, late.prompt, late.generated), (10, 6, 3, 1));
    let ms = |n| std::time::Duration::from_millis(n);
    assert!(first.prompt_time >= ms(2) && first.generate_time >= ms(5) && late.waited >= ms(8), "{first:?} {late:?}");
    assert!(late.generate_time.is_zero() && late.generate_speed() == 0.0);
    assert_eq!(first.first_token(), first.waited + first.prompt_time);
    assert_eq!(first.prompt_speed(), 10.0 / first.prompt_time.as_secs_f64());
    assert_eq!(first.generate_speed(), 5.0 / first.generate_time.as_secs_f64());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    /// Requests come and go at random times under random limits: those that stay get the answer they get alone,
    /// those that go have got a beginning of it, and nothing is left behind.
    #[test]
    fn company_does_not_matter(
        pages in 4..12usize, tokens in 1..80usize, running in 1..6usize, long in prop::bool::ANY,
        guess in prop::option::of(0..9u64), checkpoints in prop::option::of(0..4usize),
        fail_every in prop::option::of(2..6usize),
        plan in prop::collection::vec((1..120u32, 1..90usize, 0..6usize, prop::option::of(1..40usize)), 1..10),
    ) {
        let regimes = if long { vec![70, 99] } else { vec![] };
        let (guess, checkpoints) = (guess.filter(|_| checkpoints.is_none()), checkpoints.map(|n| vec![None; n]));
        let toy = Toy { regimes: regimes.clone(), context: 220, guess, checkpoints, fail_every: fail_every.unwrap_or(0), ..Toy::new(pages) };
        let speculation = Speculation { lookup: tokens % 4, rows: 40, ..Speculation::default() };
        let mut engine = Engine::new(toy, None, Options { step_tokens: tokens, running, speculation, ..Options::default() });
        let mut answers = BTreeMap::new();
        let mut wants = Vec::new();
        for (i, &(prompt, n, wait, leave)) in plan.iter().enumerate() {
            for _ in 0..wait {
                note(&mut answers, engine.step().unwrap_or_default());
            }
            let request = request((0..prompt).map(|j| (j * j + i as u32 % 3) % VOCAB as u32), n, i as u64);
            let id = engine.submit(request.clone()).unwrap();
            wants.push((id, by_definition(&request, engine.context(), &regimes), leave));
        }
        for step in 1..40 {
            for (id, _, leave) in &wants {
                if *leave == Some(step) {
                    let event = engine.cancel(*id);
                    prop_assert_eq!(event.is_some(), answers.get(id).is_none_or(|a: &Answer| a.reason.is_none()));
                    note(&mut answers, event.into_iter().collect());
                }
            }
            note(&mut answers, engine.step().unwrap_or_default());
        }
        finish(&mut engine, &mut answers);
        for (id, want, _) in &wants {
            let Answer { tokens, reason, .. } = &answers[id];
            if *reason == Some(Reason::Cancelled) {
                prop_assert!(want.starts_with(tokens));
            } else {
                prop_assert_eq!(tokens, want);
            }
            prop_assert!(engine.cancel(*id).is_none());
        }
    }
}
