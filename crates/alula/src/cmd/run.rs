//! `alula run`: the continuation of a text.

use crate::cli::Run;
use crate::{Fail, models, open, say};
use alula_engine::local::LoadOptions;
use alula_engine::speech::Speech;
use alula_engine::{Engine, Event, Logprobs, Options, Reason, Request};
use serde_json::{Value, json};
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

/// Which argument is the model and which the prompt.
fn arguments(model: Option<String>, prompt: Option<String>) -> Result<(models::Place, Option<String>), Fail> {
    match (model, prompt) {
        (Some(m), Some(p)) => Ok((models::need(&m)?, Some(p))),
        (Some(one), None) => match models::find(&one) {
            Some(place) => Ok((place, None)),
            None if models::looks_like_path(&one) => models::need(&one).map(|place| (place, None)),
            None => Ok((models::Place::Builtin, Some(one))),
        },
        (None, prompt) => Ok((models::Place::Builtin, prompt)),
    }
}

/// `alula run [MODEL] [PROMPT]`.
pub fn run(a: Run) -> Result<(), Fail> {
    let start = Instant::now();
    let (place, prompt) = arguments(a.model, a.prompt)?;
    let (package, adapters) = open::adapt(place.open()?, &a.lora)?;
    package.writes()?;
    let (tokenizer, words) = open::words(&package)?;
    let prompt = open::text(prompt.as_deref())?;
    let mut stop = a.stop;
    let (shown, ids) = if a.chat || a.system.is_some() {
        let speech = Speech::new(&package, Arc::clone(&tokenizer))?;
        stop.extend(speech.stop());
        let mut messages = Vec::new();
        messages.extend(a.system.as_ref().map(|s| json!({"role": "system", "content": s})));
        messages.push(json!({"role": "user", "content": prompt}));
        speech.prompt(messages)?
    } else {
        let ids = tokenizer.encode(&prompt, true, false)?;
        (prompt, ids)
    };
    let options = LoadOptions {
        context: a.load.ctx,
        cache: open::cache(a.load.cache_type),
        keep: open::keep(a.load.no_cache),
        guess: a.load.mtp,
        ..LoadOptions::default()
    };
    let local = open::load(&package, a.load.compute, options)?;
    let (memory, loaded) = (local.memory(), start.elapsed());
    let mut engine = Engine::new(local, Some(words), Options::default());
    engine.submit(Request {
        prompt: ids.clone(),
        max_tokens: Some(a.max_tokens),
        sampling: open::sampling(&a.sampling, a.logprobs),
        stop,
        ignore_end: a.ignore_end,
        adapters: adapters.all(),
        ..Request::default()
    })?;
    let mut out = std::io::stdout().lock();
    let (mut text, mut tokens, mut logprobs) = (String::new(), Vec::new(), Vec::new());
    if a.echo && !a.json {
        out.write_all(shown.as_bytes())?;
    }
    while !engine.is_idle() {
        for event in engine.step()? {
            match event {
                Event::Token { token, text: piece, logprobs: l, .. } => {
                    tokens.push(token);
                    logprobs.extend(l.map(|l| (token, l)));
                    if a.json {
                        text.push_str(&piece);
                    } else {
                        out.write_all(piece.as_bytes())?;
                        out.flush()?;
                    }
                }
                Event::Prompt { .. } | Event::Hidden { .. } => {}
                Event::Finished { reason, usage, .. } => {
                    let ms = |d: std::time::Duration| (d.as_secs_f64() * 1e5).round() / 100.0;
                    let piece = |id: u32| String::from_utf8_lossy(&tokenizer.token_bytes(id)).into_owned();
                    if a.json {
                        let report = json!({
                            "model": package.name,
                            "text": text,
                            "tokens": tokens,
                            "prompt_tokens": ids,
                            "finish_reason": finish(reason)?,
                            "seed": usage.seed,
                            "logprobs": a.logprobs.map(|_| logprobs.iter().map(|(t, l)| probabilities(*t, l, &piece)).collect::<Vec<_>>()),
                            "timings": {
                                "load_ms": ms(loaded),
                                "first_token_ms": ms(usage.first_token()),
                                "prompt_ms": ms(usage.prompt_time),
                                "generate_ms": ms(usage.generate_time),
                                "prompt_tps": usage.prompt_speed(),
                                "generate_tps": usage.generate_speed(),
                            },
                        });
                        writeln!(out, "{report}")?;
                    } else {
                        finish(reason)?;
                        writeln!(out)?;
                        for (token, l) in &logprobs {
                            let top: Vec<_> = l.top.iter().map(|(id, p)| format!("{:?} {p:.4}", piece(*id))).collect();
                            say(format_args!("{:?} {:.4}  [{}]", piece(*token), l.chosen, top.join(", ")));
                        }
                    }
                    if a.stats {
                        say(format_args!(
                            "load {:.1} ms; prompt {} tokens, {:.1} tokens/s; answer {} tokens, {:.1} tokens/s; first token after \
                             {:.1} ms; seed {}; weights {:.1} MB, cache up to {:.1} MB",
                            ms(loaded),
                            usage.prompt,
                            usage.prompt_speed(),
                            usage.generated,
                            usage.generate_speed(),
                            ms(usage.first_token()),
                            usage.seed,
                            memory.weights as f64 / 1e6,
                            memory.cache as f64 / 1e6,
                        ));
                        if let Some(t) = engine.runner().traffic() {
                            say(open::traffic(&t));
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// Why it ended, in OpenAI's words.
pub fn finish(reason: Reason) -> Result<&'static str, Fail> {
    match reason {
        Reason::Stop | Reason::StopString(_) => Ok("stop"),
        Reason::Length | Reason::Context => Ok("length"),
        Reason::Cancelled => Ok("cancelled"),
        Reason::Failed(e) => Err(e.into()),
        Reason::Constraint(why) => Err(why.into()),
    }
}

fn probabilities(token: u32, l: &Logprobs, piece: &impl Fn(u32) -> String) -> Value {
    let one = |id: u32, p: f32| json!({"id": id, "token": piece(id), "logprob": p});
    let mut chosen = one(token, l.chosen);
    chosen["top_logprobs"] = l.top.iter().map(|(id, p)| one(*id, *p)).collect();
    chosen
}
