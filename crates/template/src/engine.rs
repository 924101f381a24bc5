//! The door to minijinja: Python's values as its objects, and every filter, operator and function registered with it.
//!
//! minijinja parses and runs templates: control flow, scopes, macros, loops. What values do is ours, because templates
//! are written for Python's (`crate::translate` turns operators into calls of `crate::ops`).

use crate::Civil;
use crate::args::{Args, need, need_str};
use crate::filters::{FILTERS, Filter};
use crate::meter::{Fail, Meter, Res, fail};
use crate::methods;
use crate::ops::OPERATORS;
use crate::text;
use crate::value::{Namespace, Value, range_len};
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value as Engine};
use std::fmt;
use std::sync::{Arc, Mutex};

/// Instructions that a rendering may take.
const FUEL: u64 = 50_000_000;
/// The longest range that jinja2's sandbox allows.
const MAX_RANGE: usize = 100_000;
/// The variable that carries the [`Run`] into a rendering.
pub(crate) const RUN: &str = "_run";

/// What one rendering shares between its operators.
pub(crate) struct Run {
    pub(crate) meter: Meter,
    pub(crate) now: Civil,
    /// Every namespace made; they are emptied at the end, since they can hold each other.
    namespaces: Mutex<Vec<Arc<Namespace>>>,
}

impl Run {
    pub(crate) fn new(meter: Meter, now: Civil) -> Self {
        Self { meter, now, namespaces: Mutex::default() }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for namespace in self.namespaces.get_mut().into_iter().flatten() {
            if let Ok(mut vars) = namespace.vars.lock() {
                vars.clear();
            }
        }
    }
}

/// The [`Run`] as a variable.
#[derive(Clone)]
struct Handle(Arc<Run>);

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Run")
    }
}

impl Object for Handle {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// The variable [`RUN`].
pub(crate) fn handle(run: &Arc<Run>) -> Engine {
    Engine::from_object(Handle(run.clone()))
}

/// The rendering that a state belongs to.
fn run(state: &mut State<'_, '_>) -> Res<Arc<Run>> {
    if let Some(handle) = state.get_extension::<Handle>() {
        return Ok(handle.0.clone());
    }
    let found = state.lookup(RUN).and_then(|v| v.downcast_object::<Handle>());
    let Some(handle) = found else { return fail(format!("the variable {RUN} was overwritten")) };
    Ok(state.get_or_insert_extension((*handle).clone()).0.clone())
}

/// A value of ours that the engine has no kind for.
struct Py(Value);

impl fmt::Debug for Py {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.type_name())
    }
}

impl Object for Py {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        match self.0 {
            Value::List(_) | Value::Tuple(_) => ObjectRepr::Seq,
            Value::Dict(_) => ObjectRepr::Map,
            Value::Range(_) | Value::View(..) | Value::Gen(_) => ObjectRepr::Iterable,
            _ => ObjectRepr::Plain,
        }
    }

    fn get_value(self: &Arc<Self>, key: &Engine) -> Option<Engine> {
        match (&self.0, Value::from_engine(key)) {
            (Value::Dict(dict), Value::Str(key)) => dict.get_str(&key).map(Value::to_engine),
            (Value::List(seq) | Value::Tuple(seq), Value::Int(at)) => {
                seq.items.get(usize::try_from(at).ok()?).map(Value::to_engine)
            }
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.0.items(&Meter::default()) {
            Ok(items) => Enumerator::Values(items.iter().map(Value::to_engine).collect()),
            Err(_) => Enumerator::NonEnumerable,
        }
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        self.0.len()
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.0.truthy()
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Engine]) -> Result<Engine, Error> {
        let result = run(state).and_then(|run| match &self.0 {
            Value::Method(method) => methods::call(&method.0, &method.1, &collect(args)?, &run.meter),
            _ => fail(format!("'{}' object is not callable", self.0.type_name())),
        });
        give(result)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.type_name())
    }
}

impl Value {
    /// The engine's value as one of ours.
    pub(crate) fn from_engine(value: &Engine) -> Value {
        match value.kind() {
            ValueKind::Undefined => Value::Undefined(None),
            ValueKind::None => Value::None,
            ValueKind::Bool => Value::Bool(value.is_true()),
            ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).map_or(Value::None, Value::Int),
            ValueKind::Number => f64::try_from(value.clone()).map_or(Value::None, Value::Float),
            ValueKind::String => value.to_str().map_or(Value::None, Value::Str),
            _ => match value.downcast_object_ref::<Py>() {
                Some(py) => py.0.clone(),
                None => Value::Foreign(value.clone()),
            },
        }
    }

    /// The value for the engine.
    pub(crate) fn to_engine(&self) -> Engine {
        match self {
            Value::None => Engine::from(()),
            Value::Bool(b) => Engine::from(*b),
            Value::Int(i) => i64::try_from(*i).map_or_else(|_| Engine::from(*i), Engine::from),
            Value::Float(f) => Engine::from(*f),
            Value::Str(s) => Engine::from(s.clone()),
            Value::Foreign(v) => v.clone(),
            _ => Engine::from_object(Py(self.clone())),
        }
    }
}

/// The arguments of a call.
fn arguments(pos: &[Engine], kwargs: &Kwargs) -> Res<Args> {
    let mut args = Args { pos: pos.iter().map(Value::from_engine).collect(), kw: Vec::new() };
    for name in kwargs.args() {
        let Ok(value) = kwargs.peek::<Engine>(name) else { return fail("a keyword has no value") };
        args.kw.push((name.into(), Value::from_engine(&value)));
    }
    Ok(args)
}

/// The arguments of a call that gives keywords as one last value.
fn collect(values: &[Engine]) -> Res<Args> {
    if let Some((last, pos)) = values.split_last()
        && last.is_kwargs()
        && let Ok(kwargs) = Kwargs::try_from(last.clone())
    {
        return arguments(pos, &kwargs);
    }
    Ok(Args { pos: values.iter().map(Value::from_engine).collect(), kw: Vec::new() })
}

/// The other way round, for calls that the engine makes.
fn forward(Rest(mut pos): Rest<Engine>, kwargs: Kwargs) -> Vec<Engine> {
    if kwargs.args().next().is_some() {
        pos.push(Engine::from(kwargs));
    }
    pos
}

/// A result of ours as one of the engine's.
fn give(result: Res<Value>) -> Result<Engine, Error> {
    result.map(|value| value.to_engine()).map_err(|fail| engine_error(*fail))
}

fn engine_error(fail: Fail) -> Error {
    Error::new(ErrorKind::InvalidOperation, fail.to_string()).with_source(fail)
}

/// What went wrong in a rendering, in words; or the template's own refusal.
pub(crate) fn reason(error: &Error) -> Fail {
    let mut source = std::error::Error::source(error);
    while let Some(err) = source {
        if let Some(fail) = err.downcast_ref::<Fail>() {
            return fail.clone();
        }
        source = err.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => Fail::Other(format!("the template takes too long (more than {FUEL} instructions)")),
        kind => Fail::Other(error.detail().map_or_else(|| kind.to_string(), String::from)),
    }
}

/// An engine that knows every filter, operator and function, and no template yet.
pub(crate) fn environment() -> Environment<'static> {
    let mut env = Environment::empty();
    env.set_fuel(Some(FUEL));
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    for (name, filter) in FILTERS.iter().chain(OPERATORS) {
        add_filter(&mut env, name, *filter);
    }
    env.add_filter("_call", |state: &mut State, of: &Engine, args: Rest<Engine>, kwargs: Kwargs| {
        give(call_method(state, of, &forward(args, kwargs)))
    });
    env.add_filter("_apply", |state: &mut State, of: &Engine, args: Rest<Engine>, kwargs: Kwargs| {
        of.call(state, &forward(args, kwargs))
    });
    env.add_filter("_absent", |value: &Engine| value.is_undefined());
    env.add_function("_store", |state: &mut State, of: &Engine, name: &Engine, value: &Engine| {
        give(run(state).and_then(|run| store(&run, of, name, value)))
    });
    type Function = fn(&Arc<Run>, &Args) -> Res<Value>;
    let functions: [(&str, Function); 5] = [
        ("range", range),
        ("dict", |run, args| Value::dict(pairs(args, &run.meter)?, &run.meter)),
        ("namespace", namespace),
        ("raise_exception", |run, args| {
            let [message] = args.bind("raise_exception", ["message"])?;
            Err(Box::new(Fail::Raised(text::str(&need(message, "raise_exception")?, &run.meter)?.to_string())))
        }),
        ("strftime_now", |run, args| {
            let [format] = args.bind("strftime_now", ["format"])?;
            let format = need_str(format, "strftime_now")?;
            run.meter.alloc(format.len().saturating_mul(16))?;
            Value::text(run.now.format(&format), &run.meter)
        }),
    ];
    for (name, function) in functions {
        env.add_function(name, move |state: &mut State, args: Rest<Engine>, kwargs: Kwargs| {
            give(run(state).and_then(|run| function(&run, &arguments(&args, &kwargs)?)))
        });
    }
    env.set_formatter(|out, state, value| {
        let mut written = String::new();
        let result = run(state).and_then(|run| text::write_str(&mut written, &Value::from_engine(value), &run.meter));
        result.map_err(|fail| engine_error(*fail))?;
        out.write_str(&written).map_err(Error::from)
    });
    env
}

fn add_filter(env: &mut Environment<'static>, name: &'static str, filter: Filter) {
    env.add_filter(name, move |state: &mut State, value: &Engine, args: Rest<Engine>, kwargs: Kwargs| {
        give(run(state).and_then(|run| {
            run.meter.step(1)?;
            filter(Value::from_engine(value), &arguments(&args, &kwargs)?, &run.meter)
        }))
    });
}

/// `of.name(args)`: the first argument is the name.
fn call_method(state: &mut State<'_, '_>, of: &Engine, args: &[Engine]) -> Res<Value> {
    let run = run(state)?;
    let Some((name, args)) = args.split_first() else { return fail("a method has a name") };
    let name = need_str(Some(Value::from_engine(name)), "a method")?;
    let of = Value::from_engine(of);
    if let Value::Foreign(foreign) = &of {
        let result = foreign.call_method(state, &name, args);
        return result.map(|value| Value::from_engine(&value)).map_err(|error| Box::new(reason(&error)));
    }
    match crate::access::attr(&of, &name, &run.meter)? {
        Value::Method(method) => methods::call(&method.0, &method.1, &collect(args)?, &run.meter),
        Value::Foreign(callee) => {
            let result = callee.call(state, args);
            result.map(|value| Value::from_engine(&value)).map_err(|error| Box::new(reason(&error)))
        }
        Value::Undefined(_) => fail(format!("'{}' has no method '{name}' that templates may call", of.type_name())),
        other => fail(format!("'{}' object is not callable", other.type_name())),
    }
}

fn store(run: &Run, of: &Engine, name: &Engine, value: &Engine) -> Res<Value> {
    let Value::Namespace(namespace) = Value::from_engine(of) else {
        return fail("cannot assign attribute on non-namespace object");
    };
    let name = need_str(Some(Value::from_engine(name)), "a namespace")?;
    namespace.set(&name, Value::from_engine(value), &run.meter)?;
    Ok(Value::None)
}

fn range(_: &Arc<Run>, args: &Args) -> Res<Value> {
    let [first, second, step] = args.bind("range", ["", "", ""])?;
    let int = |value: Value| {
        let int = value.as_int();
        int.map_or_else(|| fail(format!("range wants integers, not {}", value.type_name())), Ok)
    };
    let first = int(need(first, "range")?)?;
    let (start, stop) = match second {
        Some(stop) => (first, int(stop)?),
        None => (0, first),
    };
    let range = [start, stop, step.map_or(Ok(1), int)?];
    if range[2] == 0 {
        return fail("range() arg 3 must not be zero");
    }
    if range_len(&range) > MAX_RANGE {
        return fail(format!("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({MAX_RANGE})."));
    }
    Ok(Value::Range(Arc::new(range)))
}

fn namespace(run: &Arc<Run>, args: &Args) -> Res<Value> {
    let namespace = Arc::new(Namespace::default());
    run.meter.alloc(size_of::<Namespace>())?;
    if let Ok(mut all) = run.namespaces.lock() {
        all.push(namespace.clone());
    }
    for (name, value) in pairs(args, &run.meter)? {
        namespace.set(&need_str(Some(name), "namespace")?, value, &run.meter)?;
    }
    Ok(Value::Namespace(namespace))
}

/// What `dict(..)` is made of: a mapping or pairs, and keywords.
fn pairs(args: &Args, meter: &Meter) -> Res<Vec<(Value, Value)>> {
    let mut pairs = Vec::new();
    match args.pos.as_slice() {
        [] => {}
        [Value::Dict(dict)] => pairs.extend(dict.pairs().cloned()),
        [items] => {
            for item in items.items(meter)? {
                match <[Value; 2]>::try_from(item.items(meter)?) {
                    Ok([key, value]) => pairs.push((key, value)),
                    Err(_) => return fail("dict wants pairs"),
                }
            }
        }
        _ => return fail("dict takes at most one argument"),
    }
    pairs.extend(args.kw.iter().map(|(key, value)| (Value::Str(key.clone()), value.clone())));
    Ok(pairs)
}
