//! The template for models without one, and what rendering promises.

mod common;

use alula_template::{Civil, Template};
use common::{Outcome, outcome};
use serde_json::json;
use std::time::{Duration, UNIX_EPOCH};

#[test]
fn fallback_is_chatml() {
    let case = json!({
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null},
        ],
        "add_generation_prompt": true,
    });
    let want = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n\
        <|im_start|>assistant\n";
    assert_eq!(outcome(&Ok(Template::fallback()), &case), Outcome::Text(want.into()));
}

#[test]
fn one_template_serves_many_threads() {
    fn shared<T: Send + Sync>(value: T) -> T {
        value
    }
    let template = shared(Template::new(
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    ));
    std::thread::scope(|scope| {
        for n in 0..8usize {
            let template = &template;
            scope.spawn(move || {
                let case = json!({"messages": vec![json!({"role": "user"}); n]});
                for _ in 0..50 {
                    assert_eq!(outcome(template, &case), Outcome::Text(n.to_string()));
                }
            });
        }
    });
}

#[test]
fn civil_time_of_the_clock() {
    for (seconds, want) in [
        (0, "1970-01-01 00:00:00 Thu 001"),
        (951_782_399, "2000-02-28 23:59:59 Mon 059"),
        (951_868_799, "2000-02-29 23:59:59 Tue 060"),
        (1_770_091_506, "2026-02-03 04:05:06 Tue 034"),
        (4_107_542_400, "2100-03-01 00:00:00 Mon 060"),
    ] {
        let civil = Civil::from(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(civil.format("%Y-%m-%d %H:%M:%S %a %j"), want);
    }
}
