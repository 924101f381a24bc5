//! The text of `/metrics`.

use super::{EngineStats, Histogram, ModelStats, REASONS, lock};
use crate::app::App;
use crate::models::Kind;
use alula_engine::Load;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

/// Tokens of a cache page.
const PAGE: usize = alula_engine::PAGE;

/// Prometheus' text.
#[utoipa::path(get, path = "/metrics", tag = "Health", responses((status = 200, description = "What the server counts, as Prometheus reads it", body = String, content_type = "text/plain")))]
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], write(&app)).into_response()
}

/// One model's numbers at this moment.
struct Seen {
    name: String,
    adapters: Vec<String>,
    stats: Arc<ModelStats>,
    engine: Arc<EngineStats>,
    load: Load,
    loaded: bool,
}

/// A number of a model.
type Number = fn(&Seen) -> f64;
/// A distribution of a model.
type Distribution = fn(&Seen) -> &Histogram;

/// Name, vLLM's name, what it is, its value.
const GAUGES: &[(&str, Option<&str>, &str, Number)] = &[
    ("alula_model_loaded", None, "1 if the model is loaded", |s| f64::from(u8::from(s.loaded))),
    ("alula_requests_running", Some("vllm:num_requests_running"), "Answers that are written", |s| {
        s.load.running as f64
    }),
    ("alula_requests_waiting", Some("vllm:num_requests_waiting"), "Answers that wait", |s| s.load.waiting as f64),
    ("alula_waiting_tokens", None, "Tokens of those that wait", |s| s.load.waiting_tokens as f64),
    (
        "alula_cache_usage_ratio",
        Some("vllm:kv_cache_usage_perc"),
        "Share of cache pages that answers hold, 0 to 1",
        |s| s.load.pages.used as f64 / s.load.pages.total.max(1) as f64,
    ),
    ("alula_cache_pages", None, "Pages of the cache", |s| s.load.pages.total as f64),
    ("alula_cache_pages_reusable", None, "Pages that nobody holds and a later prompt may find", |s| {
        s.load.pages.cached as f64
    }),
];

/// The same; each only grows.
const COUNTERS: &[(&str, Option<&str>, &str, Number)] = &[
    (
        "alula_prefix_cache_queries_total",
        Some("vllm:prefix_cache_queries_total"),
        "Prompt tokens that were looked for in the cache",
        |s| s.load.counters.scheduler.prompt_tokens as f64,
    ),
    (
        "alula_prefix_cache_hits_total",
        Some("vllm:prefix_cache_hits_total"),
        "Prompt tokens that were found there",
        |s| s.load.counters.scheduler.cached_tokens as f64,
    ),
    ("alula_cache_evictions_total", None, "Pages that were forgotten to make room", |s| {
        s.load.counters.scheduler.evictions as f64
    }),
    ("alula_preemptions_total", Some("vllm:num_preemptions_total"), "Answers that had to give way", |s| {
        s.load.counters.scheduler.preemptions as f64
    }),
    ("alula_prompt_tokens_total", Some("vllm:prompt_tokens_total"), "Prompt tokens", |s| {
        s.load.counters.scheduler.prompt_tokens as f64
    }),
    ("alula_generated_tokens_total", Some("vllm:generation_tokens_total"), "Generated tokens", |s| {
        s.load.counters.generated as f64
    }),
    ("alula_steps_total", None, "Steps of the engine", |s| s.load.counters.steps as f64),
    (
        "alula_speculation_drafts_total",
        Some("vllm:spec_decode_num_drafts_total"),
        "Times that tokens were guessed",
        |s| s.load.counters.drafts as f64,
    ),
    (
        "alula_speculation_guessed_tokens_total",
        Some("vllm:spec_decode_num_draft_tokens_total"),
        "Tokens that were guessed",
        |s| s.load.counters.guessed as f64,
    ),
    (
        "alula_speculation_right_tokens_total",
        Some("vllm:spec_decode_num_accepted_tokens_total"),
        "Of these, tokens that were right",
        |s| s.load.counters.right as f64,
    ),
    ("alula_queue_refusals_total", None, "Requests that found the queue full", |s| {
        s.stats.refused.load(Ordering::Relaxed) as f64
    }),
];

/// Name, vLLM's name, what it is, its distribution.
const HISTOGRAMS: &[(&str, Option<&str>, &str, Distribution)] = &[
    (
        "alula_time_to_first_token_seconds",
        Some("vllm:time_to_first_token_seconds"),
        "From a request's arrival to its first token",
        |s| &s.stats.first,
    ),
    (
        "alula_time_per_output_token_seconds",
        Some("vllm:request_time_per_output_token_seconds"),
        "Mean time of an answer's tokens after the first",
        |s| &s.stats.token,
    ),
    (
        "alula_inter_token_seconds",
        Some("vllm:inter_token_latency_seconds"),
        "From one token of an answer to the next",
        |s| &s.engine.gap,
    ),
    (
        "alula_request_seconds",
        Some("vllm:e2e_request_latency_seconds"),
        "From a request's arrival to its last token",
        |s| &s.stats.whole,
    ),
    ("alula_queue_seconds", Some("vllm:request_queue_time_seconds"), "Waiting for the first step", |s| &s.stats.queue),
    ("alula_prompt_seconds", Some("vllm:request_prefill_time_seconds"), "Computing the prompt", |s| &s.stats.prefill),
    ("alula_generate_seconds", Some("vllm:request_decode_time_seconds"), "From the first token to the last", |s| {
        &s.stats.decode
    }),
    ("alula_request_prompt_tokens", Some("vllm:request_prompt_tokens"), "Tokens of a prompt", |s| &s.stats.prompt),
    ("alula_request_generated_tokens", Some("vllm:request_generation_tokens"), "Tokens of an answer", |s| {
        &s.stats.generated
    }),
    ("alula_step_tokens", Some("vllm:iteration_tokens_total"), "Tokens in a step", |s| &s.engine.rows),
    ("alula_step_requests", None, "Requests in a step", |s| &s.engine.batch),
];

/// Models with their engines, and their adapters as models without.
fn seen(app: &App) -> Vec<Seen> {
    let mut out = Vec::new();
    for entry in app.models.entries() {
        let model = app.models.peek(entry);
        let engine = match model.as_ref().map(|m| &m.kind) {
            Some(Kind::Writer(writer)) => writer.worker.stats(),
            _ => Arc::default(),
        };
        let adapters = entry.adapters.iter().map(|(name, _)| name.clone()).collect();
        let (stats, load) = (app.metrics.model(&entry.name), engine.load());
        out.push(Seen { name: entry.name.clone(), adapters, stats, engine, load, loaded: model.is_some() });
        for (name, _) in &entry.adapters {
            let (stats, engine, name) = (app.metrics.model(name), Arc::default(), name.clone());
            let (adapters, load) = (Vec::new(), Load::default());
            out.push(Seen { name, adapters, stats, engine, load, loaded: model.is_some() });
        }
    }
    out
}

/// A label's value with what would end it escaped.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Writing to a string does not fail, so results are dropped.
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        _ = writeln!(self.0, "{name}{{{labels}}} {value}");
    }

    fn histogram(&mut self, name: &str, labels: &str, of: &Histogram) {
        let (counts, sum) = of.read();
        let mut below = 0;
        let bounds = of.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(counts) {
            below += count;
            _ = writeln!(self.0, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        _ = write!(self.0, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {below}\n");
    }

    /// A family under its own name and under vLLM's.
    fn both(
        &mut self,
        seen: &[Seen],
        names: (&str, Option<&str>),
        help: &str,
        kind: &str,
        one: impl Fn(&mut Text, &str, &str, &Seen),
    ) {
        self.head(names.0, help, kind);
        for s in seen {
            one(self, names.0, &format!("model=\"{}\"", escape(&s.name)), s);
        }
        if let Some(name) = names.1 {
            self.head(name, help, kind);
            for s in seen {
                one(self, name, &vllm(s), s);
            }
        }
    }
}

fn vllm(s: &Seen) -> String {
    format!("model_name=\"{}\",engine=\"0\"", escape(&s.name))
}

fn write(app: &App) -> String {
    let seen = seen(app);
    let mut t = Text(String::new());
    for &(name, alias, help, value) in GAUGES {
        t.both(&seen, (name, alias), help, "gauge", |t, name, labels, s| t.line(name, labels, value(s)));
    }
    for &(name, alias, help, value) in COUNTERS {
        t.both(&seen, (name, alias), help, "counter", |t, name, labels, s| t.line(name, labels, value(s)));
    }
    for &(name, alias, help, value) in HISTOGRAMS {
        t.both(&seen, (name, alias), help, "histogram", |t, name, labels, s| t.histogram(name, labels, value(s)));
    }
    let names = ("alula_answers_total", Some("vllm:request_success_total"));
    t.both(&seen, names, "Answers by how they ended", "counter", |t, name, labels, s| {
        for (reason, count) in REASONS.iter().zip(&s.stats.ends) {
            t.line(name, &format!("{labels},finished_reason=\"{reason}\""), count.load(Ordering::Relaxed) as f64);
        }
    });
    kubernetes(&mut t, &seen);
    requests(&mut t, app);
    process(&mut t, app);
    t.0
}

/// What llm-d's router asks for beside: the cache's shape, and the adapters at work.
fn kubernetes(t: &mut Text, seen: &[Seen]) {
    t.head("vllm:cache_config_info", "Shape of the cache", "gauge");
    for s in seen.iter().filter(|s| s.load.pages.total > 0) {
        let shape = format!("{},block_size=\"{PAGE}\",num_gpu_blocks=\"{}\"", vllm(s), s.load.pages.total);
        t.line("vllm:cache_config_info", &shape, 1.0);
    }
    t.head("vllm:lora_requests_info", "Adapters that are used; the value is the time in seconds since 1970", "gauge");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    for s in seen.iter().filter(|s| !s.adapters.is_empty()) {
        let at_work =
            |name: &&String| seen.iter().any(|a| a.name == **name && a.stats.active.load(Ordering::Relaxed) > 0);
        let names: Vec<String> = s.adapters.iter().filter(at_work).map(|n| escape(n)).collect();
        let labels = format!(
            "max_lora=\"{}\",running_lora_adapters=\"{}\",waiting_lora_adapters=\"\"",
            s.adapters.len(),
            names.join(",")
        );
        t.line("vllm:lora_requests_info", &labels, now);
    }
}

/// HTTP, and what keys have used if that was asked for.
fn requests(t: &mut Text, app: &App) {
    let requests = lock(&app.metrics.requests).clone();
    t.head("alula_http_requests_total", "Requests by route and status", "counter");
    for ((route, status), (count, _)) in &requests {
        t.line("alula_http_requests_total", &format!("route=\"{route}\",status=\"{status}\""), *count as f64);
    }
    t.head("alula_http_request_seconds_total", "Seconds that they took together", "counter");
    for ((route, status), (_, sum)) in &requests {
        t.line("alula_http_request_seconds_total", &format!("route=\"{route}\",status=\"{status}\""), *sum);
    }
    if !app.config.metrics_per_key {
        return;
    }
    let (keys, nobody) = (app.keys(), app.anonymous());
    let accounts: Vec<_> = match keys.needed() {
        true => keys.all().iter().map(|k| (escape(&k.entry.name), &*k.account)).collect(),
        false => vec![(String::new(), &*nobody)],
    };
    type Count = fn(&crate::limits::Account) -> u64;
    let counts: [(&str, &str, Count); 4] = [
        ("alula_key_requests_total", "Requests of a key", |a| a.requests.load(Ordering::Relaxed)),
        ("alula_key_prompt_tokens_total", "Prompt tokens of a key", |a| a.prompt.load(Ordering::Relaxed)),
        ("alula_key_generated_tokens_total", "Tokens generated for a key", |a| a.generated.load(Ordering::Relaxed)),
        ("alula_key_limited_total", "Refusals because of a key's limits", |a| a.limited.load(Ordering::Relaxed)),
    ];
    for (name, help, count) in counts {
        t.head(name, help, "counter");
        for (key, account) in &accounts {
            t.line(name, &format!("key=\"{key}\""), count(account) as f64);
        }
    }
}

/// The process itself.
fn process(t: &mut Text, app: &App) {
    t.head("alula_build_info", "The program", "gauge");
    t.line("alula_build_info", concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""), 1.0);
    t.head("alula_ready", "1 if requests are welcome", "gauge");
    _ = writeln!(t.0, "alula_ready {}", u8::from(app.ready()));
    for (name, help, n) in [
        ("alula_log_lines_dropped_total", "Log lines that nobody took", app.log.dropped()),
        ("alula_spans_dropped_total", "Spans that no collector took", app.traces.dropped()),
    ] {
        t.head(name, help, "counter");
        _ = writeln!(t.0, "{name} {n}");
    }
    t.head("process_start_time_seconds", "When the process began, in seconds since 1970", "gauge");
    _ = writeln!(t.0, "process_start_time_seconds {}", app.metrics.began);
    // Linux: the second number is resident pages.
    let resident = std::fs::read_to_string("/proc/self/statm").ok();
    if let Some(pages) = resident.and_then(|s| s.split(' ').nth(1)?.parse::<u64>().ok()) {
        t.head("process_resident_memory_bytes", "Memory that the process has", "gauge");
        _ = writeln!(t.0, "process_resident_memory_bytes {}", pages * 4096);
    }
}
