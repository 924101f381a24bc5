//! Text to pieces.

use serde_json::Value;

use crate::json::Step;
use crate::object::Object;
use crate::tagged::{Read, Tagged};
use crate::{Family, Format, Piece, Tool};

/// Takes what a model writes, in any pieces. The whole result does not depend on them.
#[derive(Debug)]
pub struct Parser {
    format: Format,
    tools: Vec<(String, Value)>,
    state: State,
    /// What came and is not understood yet.
    rest: String,
    /// What was read of a call before it was known to be one.
    raw: String,
    /// White space that is content if content follows it.
    gap: String,
    /// White space comes next that is none of the text.
    trim: bool,
    calls: usize,
    out: Vec<Piece>,
}

#[derive(Debug)]
enum State {
    /// Nothing yet, or reasoning alone. `thinks`: reasoning may begin.
    Lead {
        thinks: bool,
    },
    Reasoning,
    Content,
    /// Behind the mark that opens calls.
    Open,
    /// In a call's JSON; `listed`: in an array.
    Object {
        object: Box<Object>,
        listed: bool,
    },
    Tagged(Box<Tagged>),
    /// Behind a call's JSON.
    After {
        listed: bool,
    },
    /// In Harmony's header of a message, and in its text: reasoning, or content.
    Header,
    Body {
        reasoning: bool,
    },
}

/// Whether a text holds one of some marks.
enum Found {
    At(usize, &'static str),
    /// From here on it may be the beginning of one.
    Maybe(usize),
    No,
}

fn find(text: &str, marks: &[&'static str]) -> Found {
    let first = marks.iter().filter_map(|mark| text.find(mark).map(|at| (at, *mark))).min_by_key(|(at, _)| *at);
    if let Some((at, mark)) = first {
        return Found::At(at, mark);
    }
    let longest = marks.iter().map(|mark| mark.len()).max().unwrap_or(0);
    let mut from = text.len().saturating_sub(longest);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let begins = |at: &usize| text.is_char_boundary(*at) && marks.iter().any(|mark| mark.starts_with(&text[*at..]));
    (from..text.len()).find(begins).map_or(Found::No, Found::Maybe)
}

/// Whether a text begins with a mark: `None` if it may yet.
fn begins(text: &str, mark: &str, end: bool) -> Option<bool> {
    if text.starts_with(mark) {
        return Some(true);
    }
    if !end && mark.starts_with(text) { None } else { Some(false) }
}

/// How much is read at once, in bytes.
const PIECE: usize = 128;

/// The longest text before a call's arguments, in bytes.
const HEAD: usize = 1024;

const SEPARATOR: &str = "<｜tool▁sep｜>";
const CALL: &str = "<｜tool▁call▁begin｜>";
const HARMONY: [&str; 4] = ["<|end|>", "<|call|>", "<|return|>", "<|start|>"];

impl Parser {
    pub(crate) fn new(format: Format, opened: bool, tools: &[Tool]) -> Self {
        let state = match (format.family, opened) {
            (Family::Harmony, _) => State::Header,
            (_, true) => State::Reasoning,
            (_, false) => State::Lead { thinks: format.thinking.is_some() },
        };
        let tools = tools.iter().map(|tool| (tool.name.clone(), tool.parameters.clone())).collect();
        Parser {
            format,
            tools,
            state,
            rest: String::new(),
            raw: String::new(),
            gap: String::new(),
            trim: opened,
            calls: 0,
            out: Vec::new(),
        }
    }

    /// Takes more text; what is known of it now.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        // In short pieces, as what is taken off the front of a text moves the rest of it.
        let mut text = text;
        while !text.is_empty() {
            let (piece, more) = text.split_at(text.floor_char_boundary(PIECE));
            self.rest.push_str(piece);
            while self.advance(false) {}
            text = more;
        }
        std::mem::take(&mut self.out)
    }

    /// No more text comes; what was still open. A call that was begun stays as it is.
    pub fn finish(&mut self) -> Vec<Piece> {
        while self.advance(true) {}
        let rest = std::mem::take(&mut self.rest);
        self.say(&rest);
        // White space at the end is content's, unless it only stood between calls.
        let gap = std::mem::take(&mut self.gap);
        if !self.trim && !gap.is_empty() {
            self.emit(Piece::Content(gap));
        }
        std::mem::take(&mut self.out)
    }

    /// How many calls there were so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Reads on; whether there is more to read.
    fn advance(&mut self, end: bool) -> bool {
        if self.rest.is_empty() && !end {
            return false;
        }
        match std::mem::replace(&mut self.state, State::Content) {
            State::Lead { thinks } => self.lead(thinks, end),
            State::Reasoning => self.reasoning(end),
            State::Content => self.content(end),
            State::Open => self.open(end),
            State::Object { object, listed } => self.object(object, listed, end),
            State::Tagged(tagged) => self.tagged(tagged, end),
            State::After { listed } => self.after(listed, end),
            State::Header => self.header(end),
            State::Body { reasoning } => self.body(reasoning, end),
        }
    }

    fn wait(&mut self, state: State) -> bool {
        self.state = state;
        false
    }

    fn go(&mut self, state: State) -> bool {
        self.state = state;
        true
    }

    /// Takes bytes off what is left.
    fn take(&mut self, bytes: usize) -> String {
        let rest = self.rest.split_off(bytes);
        std::mem::replace(&mut self.rest, rest)
    }

    /// White space at the beginning of what is left, in bytes.
    fn space(&self) -> usize {
        self.rest.len() - self.rest.trim_start().len()
    }

    fn lead(&mut self, thinks: bool, end: bool) -> bool {
        let space = self.space();
        let space = self.take(space);
        if !self.trim {
            self.gap.push_str(&space);
        }
        let text = self.rest.as_str();
        if text.is_empty() && !end {
            return self.wait(State::Lead { thinks });
        }
        if let Some((open, _)) = self.format.thinking.filter(|_| thinks) {
            match begins(text, open, end) {
                None => return self.wait(State::Lead { thinks }),
                Some(true) => {
                    self.take(open.len());
                    self.gap.clear();
                    self.trim = true;
                    return self.go(State::Reasoning);
                }
                Some(false) => {}
            }
        }
        if self.bare() && !self.tools.is_empty() && text.starts_with('{') {
            return self.start(None, false);
        }
        if text.is_empty() {
            return false;
        }
        self.go(State::Content)
    }

    /// Whether calls may stand without marks.
    fn bare(&self) -> bool {
        matches!(self.format.family, Family::Llama3 | Family::Plain)
    }

    fn start(&mut self, name: Option<(String, Option<String>)>, listed: bool) -> bool {
        let narrow = self.bare() && !self.raw.starts_with("<|python_tag|>");
        self.go(State::Object { object: Box::new(Object::new(name, narrow)), listed })
    }

    fn reasoning(&mut self, end: bool) -> bool {
        let close = self.format.thinking.map_or("</think>", |(_, close)| close);
        let (bytes, closed) = match find(&self.rest, &[close]) {
            Found::At(at, _) => (at, true),
            Found::Maybe(at) if !end => (at, false),
            _ => (self.rest.len(), false),
        };
        let text = self.take(bytes);
        self.spaced(&text, Piece::Reasoning);
        if closed {
            self.take(close.len());
            self.gap.clear();
            self.trim = true;
            return self.go(State::Lead { thinks: false });
        }
        if end {
            self.gap.clear();
        }
        self.wait(State::Reasoning)
    }

    fn content(&mut self, end: bool) -> bool {
        let marks: &[&'static str] = match self.format.family {
            _ if self.tools.is_empty() => &[],
            Family::Hermes => &["<tool_call>"],
            Family::QwenCoder => &["<tool_call>", "<function="],
            Family::Llama3 => &["<|python_tag|>"],
            Family::Mistral | Family::MistralArgs | Family::MistralId => &["[TOOL_CALLS]"],
            Family::DeepSeek | Family::DeepSeek31 => &["<｜tool▁calls▁begin｜>", CALL],
            Family::Harmony | Family::Plain => &[],
        };
        let (bytes, mark) = match find(&self.rest, marks) {
            Found::At(at, mark) => (at, Some(mark)),
            Found::Maybe(at) if !end => (at, None),
            _ => (self.rest.len(), None),
        };
        let text = self.take(bytes);
        self.say(&text);
        let Some(mark) = mark else { return self.wait(State::Content) };
        // A mark that is itself the beginning of a call is read again.
        let read = if matches!(mark, "<function=" | CALL) { 0 } else { mark.len() };
        self.raw = self.take(read);
        self.go(State::Open)
    }

    /// Content, without what space must not be said yet.
    fn say(&mut self, text: &str) {
        self.spaced(text, Piece::Content);
    }

    fn spaced(&mut self, text: &str, kind: fn(String) -> Piece) {
        let text = if self.trim { text.trim_start() } else { text };
        if text.is_empty() {
            return;
        }
        let end = text.trim_end().len();
        if end > 0 {
            self.trim = false;
            let gap = std::mem::take(&mut self.gap);
            self.emit(kind(gap + &text[..end]));
        }
        self.gap.push_str(&text[end..]);
    }

    fn emit(&mut self, piece: Piece) {
        match (self.out.last_mut(), piece) {
            (Some(Piece::Content(last)), Piece::Content(text))
            | (Some(Piece::Reasoning(last)), Piece::Reasoning(text)) => {
                last.push_str(&text);
            }
            (Some(Piece::Arguments { index: last, text: all }), Piece::Arguments { index, text }) if *last == index => {
                all.push_str(&text);
            }
            (_, piece) => self.out.push(piece),
        }
    }

    /// What was read is no call.
    fn fail(&mut self) -> bool {
        if self.raw.is_empty() {
            let first = self.rest.chars().next().map_or(0, char::len_utf8);
            self.raw = self.take(first);
        }
        let raw = std::mem::take(&mut self.raw);
        self.say(&raw);
        self.go(State::Content)
    }

    fn call(&mut self, id: Option<String>, name: String) {
        self.raw.clear();
        self.gap.clear();
        self.trim = true;
        let index = self.calls;
        self.calls += 1;
        self.emit(Piece::Call { index, id, name });
    }

    fn arguments(&mut self, text: String) {
        if !text.is_empty() {
            self.emit(Piece::Arguments { index: self.calls.saturating_sub(1), text });
        }
    }

    /// Behind the mark that opens calls, or between calls.
    fn open(&mut self, end: bool) -> bool {
        let space = self.space();
        let space = self.take(space);
        self.raw.push_str(&space);
        if self.rest.is_empty() {
            return if end { self.fail() } else { self.wait(State::Open) };
        }
        match self.format.family {
            Family::Hermes | Family::QwenCoder => match begins(&self.rest, "<function=", end) {
                None => self.wait(State::Open),
                Some(true) => {
                    let text = self.take("<function=".len());
                    self.raw.push_str(&text);
                    self.go(State::Tagged(Box::default()))
                }
                Some(false) => self.braced(false),
            },
            Family::Mistral | Family::MistralArgs | Family::MistralId => {
                if self.rest.starts_with('[') {
                    let text = self.take(1);
                    self.raw.push_str(&text);
                    return self.go(State::After { listed: true });
                }
                self.named(end)
            }
            Family::DeepSeek | Family::DeepSeek31 => self.separated(end),
            _ => self.braced(false),
        }
    }

    /// An object must begin here.
    fn braced(&mut self, listed: bool) -> bool {
        if !self.rest.starts_with('{') {
            return self.fail();
        }
        self.start(None, listed)
    }

    /// Mistral's `name[CALL_ID]id[ARGS]{`.
    fn named(&mut self, end: bool) -> bool {
        let Some(brace) = self.rest.find('{').filter(|at| *at <= HEAD) else {
            return if end || self.rest.len() > HEAD { self.fail() } else { self.wait(State::Open) };
        };
        let head = self.rest[..brace].trim_end();
        let head = head.strip_suffix("[ARGS]").unwrap_or(head);
        let (name, id) =
            head.split_once("[CALL_ID]").map_or((head, None), |(name, id)| (name, Some(id.trim().to_string())));
        let name = name.trim().to_string();
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || "_-.:/".contains(c)) {
            return self.fail();
        }
        let text = self.take(brace);
        self.raw.push_str(&text);
        self.start(Some((name, id)), false)
    }

    /// DeepSeek's `<｜tool▁call▁begin｜>function<｜tool▁sep｜>name` and a fence, or the name before the separator.
    fn separated(&mut self, end: bool) -> bool {
        let text = self.rest.as_str();
        match begins(text, CALL, end) {
            None => return self.wait(State::Open),
            Some(false) => return self.fail(),
            Some(true) => {}
        }
        let Some(brace) = text.find('{').filter(|at| *at <= HEAD) else {
            return if end || text.len() > HEAD { self.fail() } else { self.wait(State::Open) };
        };
        let Some((kind, head)) = text[CALL.len()..brace].split_once(SEPARATOR) else { return self.fail() };
        let head = head.trim();
        let name = head.strip_suffix("```json").or_else(|| head.strip_suffix("```")).unwrap_or(head).trim();
        let name = if name.is_empty() { kind.trim() } else { name };
        if name.is_empty() || name.contains(['\n', '<']) {
            return self.fail();
        }
        let name = name.to_string();
        let text = self.take(brace);
        self.raw.push_str(&text);
        self.start(Some((name, None)), false)
    }

    fn object(&mut self, mut object: Box<Object>, listed: bool, end: bool) -> bool {
        let marked = !object.narrow;
        let names = &self.tools;
        let known = |name: &str| marked && !name.is_empty() || names.iter().any(|(tool, _)| tool == name);
        let mut read = self.rest.len();
        let mut last = Step::More;
        for (at, c) in self.rest.char_indices() {
            last = object.step(c, &known);
            if last != Step::More {
                read = at + if last == Step::Done { c.len_utf8() } else { 0 };
                break;
            }
        }
        let text = self.take(read);
        let called = last == Step::Done && object.finish(marked);
        let news = std::mem::take(&mut object.news);
        if let Some(name) = news.name {
            self.call(news.id, name);
        }
        self.arguments(news.arguments);
        if !object.said {
            self.raw.push_str(&text);
        }
        match last {
            Step::Done if called => self.go(State::After { listed }),
            Step::More if !end || object.said => self.wait(State::Object { object, listed }),
            // What was said stays said; the rest is content.
            _ if object.said => self.go(State::Content),
            _ => self.fail(),
        }
    }

    fn tagged(&mut self, mut tagged: Box<Tagged>, end: bool) -> bool {
        match tagged.read(&self.rest, end) {
            Read::Wait => self.wait(State::Tagged(tagged)),
            Read::Name(bytes, name) => {
                self.take(bytes);
                let schema = self.tools.iter().find(|(tool, _)| *tool == name).map(|(_, schema)| schema.clone());
                tagged.set_schema(schema.unwrap_or_default());
                self.call(None, name);
                self.go(State::Tagged(tagged))
            }
            Read::Arguments(bytes, text) => {
                self.take(bytes);
                self.arguments(text);
                if self.rest.is_empty() && end {
                    return false;
                }
                self.go(State::Tagged(tagged))
            }
            Read::Done(bytes, text) => {
                self.take(bytes);
                self.arguments(text);
                self.go(State::After { listed: false })
            }
            Read::Bad(text) if self.raw.is_empty() => {
                self.arguments(text);
                self.go(State::Content)
            }
            Read::Bad(_) => self.fail(),
        }
    }

    /// Behind a call, or behind the bracket that opens a list of them.
    fn after(&mut self, listed: bool, end: bool) -> bool {
        let space = self.space();
        let space = self.take(space);
        if !self.raw.is_empty() {
            self.raw.push_str(&space);
        }
        let text = self.rest.as_str();
        if text.is_empty() {
            return match (end, self.raw.is_empty()) {
                (false, _) => self.wait(State::After { listed }),
                (true, true) => self.wait(State::Content),
                (true, false) => self.fail(),
            };
        }
        let marks: &[(&str, bool)] = match self.format.family {
            Family::Hermes | Family::QwenCoder => &[("</tool_call>", false)],
            Family::DeepSeek | Family::DeepSeek31 => {
                &[("```", true), ("<｜tool▁call▁end｜>", true), ("<｜tool▁calls▁end｜>", false)]
            }
            Family::Llama3 | Family::Plain => &[(";", true)],
            Family::Mistral | Family::MistralArgs | Family::MistralId if listed => &[(",", true), ("]", false)],
            _ => &[],
        };
        for (mark, more) in marks {
            match begins(text, mark, end) {
                None => return self.wait(State::After { listed }),
                Some(true) => {
                    let text = self.take(mark.len());
                    if !self.raw.is_empty() {
                        self.raw.push_str(&text);
                    }
                    if !more && !self.raw.is_empty() {
                        return self.fail();
                    }
                    return self.go(if *more { State::After { listed } } else { State::Content });
                }
                Some(false) => {}
            }
        }
        if (listed || self.bare()) && text.starts_with('{') {
            return self.braced(listed);
        }
        if self.format.family == Family::Harmony {
            return self.go(State::Body { reasoning: false });
        }
        if self.raw.is_empty() { self.go(State::Content) } else { self.fail() }
    }

    /// Harmony: `<|start|>assistant<|channel|>final<|message|>`, of which the prompt may have had a part.
    fn header(&mut self, end: bool) -> bool {
        // Without a channel at all it is content.
        let text = self.rest.trim_start();
        let may = |mark: &&str| text.starts_with(mark) || mark.starts_with(text);
        let may = ["<|start|>", "<|channel|>", "assistant", "to="].iter().any(may);
        let Some(at) = self.rest.find("<|message|>").filter(|at| may && *at <= HEAD) else {
            if !end && may && self.rest.len() <= HEAD {
                return self.wait(State::Header);
            }
            let first = self.rest.chars().next().map_or(0, char::len_utf8);
            let text = self.take(first);
            self.say(&text);
            return if first > 0 { self.go(State::Body { reasoning: false }) } else { self.wait(State::Header) };
        };
        let head = self.take(at + "<|message|>".len());
        let recipient = head
            .split_once("to=functions.")
            .map(|(_, name)| name.split(|c: char| c.is_whitespace() || c == '<').next().unwrap_or("").to_string());
        if let Some(name) = recipient.filter(|name| !name.is_empty() && !self.tools.is_empty()) {
            self.raw = head;
            return self.start(Some((name, None)), false);
        }
        self.trim = true;
        self.gap.clear();
        self.go(State::Body { reasoning: head.contains("<|channel|>analysis") })
    }

    fn body(&mut self, reasoning: bool, end: bool) -> bool {
        let (bytes, mark) = match find(&self.rest, &HARMONY) {
            Found::At(at, mark) => (at, Some(mark)),
            Found::Maybe(at) if !end => (at, None),
            _ => (self.rest.len(), None),
        };
        let text = self.take(bytes);
        self.spaced(&text, if reasoning { Piece::Reasoning } else { Piece::Content });
        let Some(mark) = mark else { return self.wait(State::Body { reasoning }) };
        if mark != "<|start|>" {
            self.take(mark.len());
        }
        if reasoning {
            self.gap.clear();
        }
        self.go(State::Header)
    }
}
