//! Templates and inputs that mean harm: each ends in a text or an error, soon, on a stack of 1 MiB.

mod common;

use alula_template::{Error, Template};
use common::{Outcome, outcome};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Runs on the smallest stack that a platform's main thread has.
fn on_small_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(1 << 20).spawn(work).unwrap().join().unwrap();
}

fn fails(source: &str, why: &str) {
    let (source, why) = (source.to_string(), why.to_string());
    on_small_stack(move || {
        let start = Instant::now();
        match outcome(&Template::new(&source), &Value::Null) {
            Outcome::Error(message) => assert!(message.contains(&why), "{message}"),
            other => panic!("{} gave {other:?}", &source[..source.len().min(100)]),
        }
        assert!(start.elapsed() < Duration::from_secs(120), "took {:?}", start.elapsed());
    });
}

#[test]
fn text_that_doubles() {
    let double =
        |step: &str| format!("{{% set ns = namespace(x='aaaaaaaa') %}}{{% for i in range(99) %}}{step}{{% endfor %}}");
    for step in [
        "{% set ns.x = ns.x ~ ns.x %}",
        "{% set ns.x = ns.x + ns.x %}",
        "{% set ns.x = ns.x * 2 %}",
        "{% set ns.x = [ns.x, ns.x]|join %}",
        "{% set ns.x = ns.x.replace('a', 'aa') %}",
        "{% set ns.x = ns.x|replace('a', 'aa') %}",
        "{% set ns.x = '%s%s' % (ns.x, ns.x) %}",
        "{% set ns.x = '{0}{0}'.format(ns.x) %}",
        "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}",
        "{% set ns.x = ns.x|tojson|tojson %}",
        "{% set ns.x = ns.x|list + ns.x|list %}",
        "{% set ns.x = [ns.x] * 3 %}{% set ns.x = ns.x|string %}",
        "{% set ns.x = ns.x.join([ns.x, ns.x]) %}",
    ] {
        fails(&double(step), "too much text");
    }
    fails("{{ 'a' * 99999999999999 }}", "too much text");
    fails("{{ [1] * 99999999999999 }}", "too much text");
    fails("{{ 'a'.center(99999999999999) }}", "too much text");
    fails("{{ 'x\n'|indent(4294967296) }}", "too much text");
    fails("{{ '%*d' % (999999999, 1) }}", "small positive integer");
    fails("{{ '{:999999999}'.format(1) }}", "width");
    let long = "x".repeat(50_000);
    fails(
        &format!(
            "{{% macro m() %}}{{% for i in range(99999) %}}{long}{{% endfor %}}{{% endmacro %}}{{{{ m()|length }}}}"
        ),
        "too much text",
    );
}

#[test]
fn work_without_end() {
    let nested = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    fails(nested, "too");
    fails("{% set x = 'ab' * 9999999 %}{% for i in range(99999) %}{{ 'z' in x }}{% endfor %}", "too long");
    fails("{{ range(99999999) }}", "Range too big");
    fails("{{ 9 ** 9 ** 9 }}", "128 bits");
    // Two lists that share their halves, so that comparing them naively takes 2^100 steps.
    let twins = "{% set ns = namespace(a=[], b=[]) %}{% for i in range(100) %}\
        {% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}";
    fails(&format!("{twins}{{{{ ns.a == ns.b }}}}"), "too long");
    fails(&format!("{twins}{{{{ ns.a }}}}"), "too");
}

#[test]
fn nesting_without_end() {
    let deep = |step: &str| {
        format!(
            "{{% set ns = namespace(x=[]) %}}{{% for j in range(99) %}}{{% for i in range(9000) %}}{step}{{% endfor %}}{{% endfor %}}"
        )
    };
    for step in ["{% set ns.x = [ns.x] %}", "{% set ns.x = {'a': ns.x} %}", "{% set ns.x = (ns.x,) %}"] {
        fails(&deep(step), "nest deeper");
    }
    fails("{% for x in [1] %}{{ [loop] }}{% endfor %}", "cannot be stored");
    fails("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion");
    fails(
        "{% macro m(x) %}{% if true %}{% for i in [1] %}{{ m([1]) ~ '' }}{% endfor %}{% endif %}{% endmacro %}{{ m(1) }}",
        "recursion",
    );
    fails("{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}", "recursion");
    // Namespaces that hold each other: nothing is left behind, and nothing overflows when they go.
    on_small_stack(|| {
        let chain = "{% set ns = namespace(x=0) %}{% set top = namespace(n=ns) %}{% for j in range(20) %}{% for i in range(9000) %}\
            {% set top.n = namespace(x=top.n) %}{% endfor %}{% endfor %}{% set ns.x = top %}ok";
        assert_eq!(outcome(&Template::new(chain), &Value::Null), Outcome::Text("ok".into()));
    });
}

#[test]
fn sources_that_nest() {
    let many = 100_000;
    for source in [
        format!("{{{{ {}1{} }}}}", "(".repeat(many), ")".repeat(many)),
        format!("{{{{ {}1{} }}}}", "[".repeat(many), "]".repeat(many)),
        format!("{{{{ {}1 }}}}", "not ".repeat(many)),
        format!("{{{{ {}1 }}}}", "-".repeat(many)),
        format!("{{{{ 1{} }}}}", " + 1".repeat(many)),
        format!("{{{{ a{} }}}}", ".b".repeat(many)),
        format!("{{{{ a{} }}}}", "|upper".repeat(many)),
        format!("{{{{ a{} }}}}", "()".repeat(many)),
        format!("{{{{ a{} }}}}", "[0]".repeat(many)),
        format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(many)),
        format!("{{{{ 1{} }}}}", " and 1".repeat(many)),
        format!("{{{{ 1{} }}}}", " < 1".repeat(many)),
        "{% if 1 %}".repeat(many),
        format!("{}{}", "{% if 1 %}".repeat(many), "{% endif %}".repeat(many)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(many)),
        format!("{}{}", "{% for a in b %}".repeat(many), "{% endfor %}".repeat(many)),
        format!("{}{}", "{% if 0 %}{% else %}".repeat(many), "{% endif %}".repeat(many)),
        "{{".repeat(many),
        "{#".repeat(many),
        "{%".repeat(many),
        format!("{{{{ '{}' }}}}", "x".repeat(many)),
    ] {
        on_small_stack(move || {
            let error = Template::new(&source).expect_err("a line too long");
            assert!(matches!(error, Error::Syntax { line: 1, .. }), "{error}");
            let lines = source.replace(' ', "\n").replace("%}{%", "%}\n{%").replace("((", "(\n(").replace("[[", "[\n[");
            let lines =
                lines.replace("))", ")\n)").replace("]]", "]\n]").replace(".b", ".b\n").replace("|upper", "|upper\n");
            let lines =
                lines.replace("()", "()\n").replace("[0]", "[0]\n").replace("--", "-\n-").replace("{{{{", "{{\n{{");
            let error = Template::new(&lines.replace("--", "-\n-")).expect_err("nests too deep");
            assert!(matches!(error, Error::Syntax { .. }), "{error}");
        });
    }
    // As deep as is allowed, in each way: compiled and run.
    for source in [
        format!("{{{{ {}1{} }}}}", "(".repeat(60), ")".repeat(60)),
        format!("{{{{ {}1{} }}}}", "[".repeat(60), "]".repeat(60)),
        format!("{{{{ {}1 }}}}", "not ".repeat(1900)),
        format!("{{{{ 1{} }}}}", " + 1".repeat(900)),
        format!("{{{{ messages{} }}}}", "|list".repeat(900)),
        format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(400)),
        format!("{{{{ 1{} }}}}", " and 1".repeat(900)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(450)),
        format!("{}{}", "{% if 1 %}".repeat(100), "{% endif %}".repeat(100)),
        format!("{}{}", "{% for a in [1] %}".repeat(60), "{% endfor %}".repeat(60)),
    ] {
        on_small_stack(move || {
            let got = outcome(&Template::new(&source), &Value::Null);
            assert!(matches!(got, Outcome::Text(_)), "{}: {got:?}", &source[..60]);
        });
    }
}

#[test]
fn inputs_that_are_no_conversation() {
    let template = Template::new("{{ messages }}{{ tools }}");
    let mut deep = json!(1);
    for _ in 0..1000 {
        deep = Value::Array(vec![deep]);
    }
    for (case, why) in [
        (json!({"messages": 1}), "messages must be an array of objects"),
        (json!({"messages": [1]}), "messages[0] is not an object"),
        (json!({"messages": [{"role": "user"}, []]}), "messages[1] is not an object"),
        (json!({"messages": [], "tools": {}}), "tools must be an array of objects"),
        (json!({"messages": [], "documents": ["x"]}), "documents[0] is not an object"),
    ] {
        match outcome(&template, &case) {
            Outcome::Error(message) => assert!(message.contains(why), "{message}"),
            other => panic!("{other:?}"),
        }
    }
    let case = json!({"messages": [{"content": deep}]});
    assert!(matches!(outcome(&template, &case), Outcome::Error(message) if message.contains("nests deeper")));
}

#[test]
fn sources_cut_and_mutated() {
    let source = "{%- macro m(a, b='x') -%}{{ a.b[1:]|join(', ') ~ '\\n' }}{%- endmacro -%}{% for k, v in {'a': [1, 2.5e3]}.items() \
        if v is iterable %}{# c #}{{ m(k, b=v) if loop.first else -1 }}{% else %}{% raw %}{{{% endraw %}{% endfor %}{% set ns = \
        namespace(x=1) %}{% set ns.x = ns.x + 1 %}{% set y | trim %} é {{ ns.x }}{% endset %}{% generation %}{{ y }}{% endgeneration %}";
    assert!(matches!(outcome(&Template::new(source), &Value::Null), Outcome::Text(_) | Outcome::Error(_)));
    let bytes = source.as_bytes();
    let mut random = 0x2545f4914f6cdd1du64;
    let mut next = |n: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % n as u64) as usize
    };
    for round in 0..20_000 {
        let mut mutated = bytes.to_vec();
        match round % 4 {
            0 => mutated.truncate(next(bytes.len())),
            1 => drop(mutated.drain(..next(bytes.len()))),
            2 => {
                for _ in 0..=next(4) {
                    let at = next(mutated.len());
                    mutated[at] = b"{}%#-+|.,:()[]'\"\\ \n0a\xe9~="[next(24)];
                }
            }
            _ => {
                let (from, len, to) = (next(bytes.len()), next(30), next(bytes.len()));
                let piece: Vec<u8> = bytes.iter().copied().skip(from).take(len).collect();
                mutated.splice(to..to, piece);
            }
        }
        let text = String::from_utf8_lossy(&mutated).into_owned();
        // Whatever comes of it: no panic.
        let _ = outcome(&Template::new(&text), &Value::Null);
    }
}

#[test]
fn errors_name_the_line() {
    let template = Template::new("one\n{% if true %}\n\n{{ messages\n .nope.x }}{% endif %}").unwrap();
    let got = outcome(&Ok(template), &Value::Null);
    assert!(matches!(&got, Outcome::Error(m) if m.contains("line 4") && m.contains("nope")), "{got:?}");
    let error = Template::new("one\ntwo {% nope %}").expect_err("no such tag");
    assert!(matches!(error, Error::Syntax { line: 2, .. }), "{error:?}");
    let error = Template::new("one\n\n{{ x|nope }}").expect_err("no such filter");
    assert_eq!(error, Error::Syntax { line: 3, what: "no filter named `nope`".into() });
    let refused = outcome(&Template::new("{{ raise_exception('Only user!') }}"), &Value::Null);
    assert_eq!(refused, Outcome::Refused("Only user!".into()));
}
