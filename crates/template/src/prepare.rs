//! Template text as minijinja's parser takes it, within limits on how deep it can nest.

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

/// Tokens that one tag may have, and `elif`s that a template may have: they bound how deep what is parsed can nest.
const MAX_TOKENS: usize = 2000;
const MAX_ELIFS: usize = 500;
/// Characters that a line may have: the parser counts columns in 16 bits.
const MAX_LINE: usize = 60_000;

/// Where and why a template is not one.
#[derive(Debug)]
pub(crate) struct Bad {
    pub(crate) line: usize,
    pub(crate) what: String,
}

/// The jinja2 settings of transformers.
pub(crate) fn syntax() -> Result<SyntaxConfig, Bad> {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| bad(&e))
}

pub(crate) fn bad(error: &minijinja::Error) -> Bad {
    let what = error.detail().map_or_else(|| error.kind().to_string(), String::from);
    Bad { line: error.line().unwrap_or(1), what }
}

/// The source with line ends as jinja2 sees them, ready for minijinja's parser.
pub(crate) fn prepare(source: &str) -> Result<String, Bad> {
    if let Some(at) = source.lines().position(|line| line.chars().count() > MAX_LINE) {
        return Err(Bad { line: at + 1, what: format!("a line has more than {MAX_LINE} characters") });
    }
    rename_tags(&keep_raw_newlines(&source.replace("\r\n", "\n").replace('\r', "\n")))
}

/// Refuses what would nest deeper than parsers can follow, and writes what minijinja knows by another name.
///
/// `{% generation %}` marks what the assistant wrote; it makes a scope and writes nothing, and so does `{% with %}`.
fn rename_tags(source: &str) -> Result<String, Bad> {
    let mut out = String::with_capacity(source.len());
    let (mut in_tag, mut elifs, mut copied) = (0, 0, 0);
    for token in tokenize(source, false, syntax()?) {
        let (token, span) = token.map_err(|e| bad(&e))?;
        in_tag = match token {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => 0,
            _ => in_tag + 1,
        };
        elifs += usize::from(matches!(token, Token::Ident("elif")));
        let line = usize::from(span.start_line);
        if in_tag > MAX_TOKENS {
            return Err(Bad { line, what: format!("a tag has more than {MAX_TOKENS} tokens") });
        }
        if elifs > MAX_ELIFS {
            return Err(Bad { line, what: format!("more than {MAX_ELIFS} `elif`") });
        }
        let word = match token {
            Token::Ident("generation") if in_tag == 1 => "with",
            Token::Ident("endgeneration") if in_tag == 1 => "endwith",
            _ => continue,
        };
        out.push_str(source.get(copied..span.start_offset as usize).unwrap_or(""));
        out.push_str(word);
        copied = span.end_offset as usize;
    }
    Ok(out + source.get(copied..).unwrap_or(""))
}

/// jinja2 keeps the newline behind `{% raw %}`; minijinja does with a sign.
fn keep_raw_newlines(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%").filter(|_| source.contains("endraw")) {
        let inner = rest[at + 2..].trim_start_matches(['-', '+']).trim_start();
        let after = inner.strip_prefix("raw").map(str::trim_start).filter(|after| after.starts_with("%}"));
        let kept = after.map_or(at + 2, |after| rest.len() - after.len());
        out.push_str(&rest[..kept]);
        out.push_str(if after.is_some() { " +" } else { "" });
        rest = &rest[kept..];
    }
    out + rest
}
