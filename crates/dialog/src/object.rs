//! A call's JSON: an object that is the arguments, or one with a name and arguments in it.

use crate::json::{Json, Step, copy};

/// What of a call is known so far and was not said yet.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) name: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) arguments: String,
}

/// Reads a call's object.
#[derive(Debug)]
pub(crate) struct Object {
    json: Json,
    /// The whole object is the arguments.
    bare: bool,
    /// The key or value at the outermost level that is being read.
    span: String,
    key: String,
    name: Option<String>,
    id: Option<String>,
    /// Arguments that came before the name.
    early: Option<String>,
    /// The name has been said, and arguments are said as they come.
    pub(crate) said: bool,
    given: bool,
    streaming: bool,
    /// No other keys than those of calls.
    pub(crate) narrow: bool,
    pub(crate) news: News,
}

/// The keys of a call that stands without marks; an object with others is an answer.
const KEYS: [&str; 6] = ["name", "arguments", "parameters", "type", "id", "index"];
const ARGUMENTS: [&str; 2] = ["arguments", "parameters"];

impl Object {
    /// `name`: the call's and its id, if the object is only its arguments. `narrow`: it stands without marks.
    pub(crate) fn new(name: Option<(String, Option<String>)>, narrow: bool) -> Self {
        let mut object = Object {
            json: Json::new(),
            bare: name.is_some(),
            span: String::new(),
            key: String::new(),
            name: None,
            id: None,
            early: None,
            said: false,
            given: false,
            streaming: false,
            narrow,
            news: News::default(),
        };
        if let Some((name, id)) = name {
            object.id = id;
            object.name = Some(name);
        }
        object
    }

    /// Takes a character. `known`: says whether a name is a tool's; a call of another name is no call.
    pub(crate) fn step(&mut self, c: char, known: &dyn Fn(&str) -> bool) -> Step {
        let (depth, text, key, value) =
            (self.json.depth(), self.json.in_text(), self.json.before_key(), self.json.before_value());
        if depth == 0 && c != '{' {
            return Step::Bad;
        }
        let step = self.json.step(c);
        if step == Step::Bad {
            return step;
        }
        if self.bare {
            if !self.said {
                self.say();
            }
            copy(&mut self.news.arguments, c, text);
            self.given = true;
            return step;
        }
        let space = c.is_ascii_whitespace() && !text;
        if depth == 1 && (key || value) && !space && c != '}' {
            self.span.clear();
            let arguments = value && c == '{' && !self.given && ARGUMENTS.contains(&self.key.as_str());
            if arguments && self.name.is_some() && self.early.is_none() {
                if !self.said {
                    self.say();
                }
                self.streaming = true;
            }
        }
        // A number's end shows only in what follows it.
        let inside = depth != 1 || text || !matches!(c, ',' | '}' | ':');
        if inside && depth >= 1 {
            if self.streaming {
                copy(&mut self.news.arguments, c, text);
            } else {
                copy(&mut self.span, c, text);
            }
        }
        if depth == 1 && self.json.behind_key() && text {
            self.key = serde_json::from_str(&self.span).unwrap_or_default();
            self.span.clear();
            if self.narrow && !KEYS.contains(&self.key.as_str()) {
                return Step::Bad;
            }
        } else if depth >= 1 && (self.json.depth() == 1 && self.json.behind_value() || !inside && c != ':') {
            return self.value(step, known);
        }
        step
    }

    /// A value at the outermost level has ended, or the object has.
    fn value(&mut self, step: Step, known: &dyn Fn(&str) -> bool) -> Step {
        let span = std::mem::take(&mut self.span);
        let key = std::mem::take(&mut self.key);
        if std::mem::take(&mut self.streaming) {
            self.given = true;
            return step;
        }
        let text = || serde_json::from_str::<String>(&span).ok();
        match key.as_str() {
            "name" if self.name.is_none() => match text().filter(|name| known(name)) {
                Some(name) => self.name = Some(name),
                None => return Step::Bad,
            },
            "id" if !self.said => self.id = text(),
            key if ARGUMENTS.contains(&key) && !self.given => {
                // Arguments may be a string that holds JSON.
                let arguments = text().unwrap_or_else(|| if span.trim() == "null" { "{}".into() } else { span });
                self.early = Some(arguments);
            }
            _ => {}
        }
        if let Some(early) = self.early.take_if(|_| self.name.is_some()) {
            if !self.said {
                self.say();
            }
            self.news.arguments.push_str(&early);
            self.given = true;
        }
        step
    }

    fn say(&mut self) {
        self.said = true;
        self.news.name.clone_from(&self.name);
        self.news.id = self.id.take();
    }

    /// The object is complete: a name alone is a call without arguments, if `lone` names are calls. Whether it is one.
    pub(crate) fn finish(&mut self, lone: bool) -> bool {
        if !self.said && lone && self.name.is_some() {
            self.say();
        }
        if self.said && !self.given {
            self.news.arguments.push_str("{}");
            self.given = true;
        }
        self.said
    }
}
