//! The settings of `alula serve` from a file.
//!
//! A key of the file is a flag's long name with `_` for `-`. Its value becomes the flag's default, so that the environment comes
//! before the file and a flag before both, and the same parser checks all three.

use crate::Fail;
use clap::builder::OsStr;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Bytes of a file at most.
const LONGEST: u64 = 1 << 20;
/// Flags that are no settings.
const NOT: [&str; 4] = ["config", "print_config", "help", "version"];

/// The command line with what its file says; ends the program if they are wrong.
pub fn matches() -> ArgMatches {
    let first = super::command().get_matches();
    let Some(path) = file(&first) else { return first };
    read(&path, std::env::args_os().collect()).unwrap_or_else(|e| {
        crate::say(format_args!("alula: {e}"));
        std::process::exit(2)
    })
}

/// The settings of `alula serve` as they are now: the same command line and environment, the file read anew.
pub fn again() -> Result<super::Serve, Fail> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let first = super::command().try_get_matches_from(args.clone())?;
    let matches = match file(&first) {
        Some(path) => read(&path, args)?,
        None => first,
    };
    match super::Cli::from_arg_matches(&matches)?.command {
        super::Command::Serve(serve) => Ok(*serve),
        _ => Err("these are not the arguments of `alula serve`".into()),
    }
}

fn file(matches: &ArgMatches) -> Option<PathBuf> {
    matches.subcommand_matches("serve")?.get_one::<PathBuf>("config").cloned()
}

fn read(path: &Path, args: Vec<OsString>) -> Result<ArgMatches, Fail> {
    let at = path.display();
    let mut text = String::new();
    let open = std::fs::File::open(path).and_then(|f| f.take(LONGEST).read_to_string(&mut text));
    open.map_err(|e| format!("the configuration {at}: {e}"))?;
    let table: Table = text.parse().map_err(|e| format!("the configuration {at}: {e}"))?;
    let mut command = super::command();
    for (key, value) in table {
        command = put(command, &key, value).map_err(|e| format!("the configuration {at}: {e}"))?;
    }
    Ok(command.try_get_matches_from(args).map_err(|e| format!("the configuration {at} does not fit: {e}"))?)
}

/// A flag's name in a file.
fn key(arg: &Arg) -> String {
    arg.get_long().map_or_else(|| arg.get_id().to_string(), |long| long.replace('-', "_"))
}

fn settings(command: &Command) -> impl Iterator<Item = &Arg> {
    let serve = command.find_subcommand("serve");
    serve.into_iter().flat_map(Command::get_arguments).filter(|a| !NOT.contains(&a.get_id().as_str()))
}

/// Makes a value the default of its flag.
fn put(command: Command, name: &str, value: Value) -> Result<Command, String> {
    let Some(arg) = settings(&command).find(|a| key(a) == name) else {
        return Err(format!("there is no setting `{name}`; `alula serve --print-config` lists them"));
    };
    let (id, switch) = (arg.get_id().clone(), matches!(arg.get_action(), ArgAction::SetTrue));
    let many = matches!(arg.get_action(), ArgAction::Append) || arg.get_num_args().is_some_and(|n| n.max_values() > 1);
    let one = |value: &Value| match value {
        Value::String(s) if !switch => Ok(OsStr::from(s.clone())),
        Value::Integer(_) | Value::Float(_) if !switch => Ok(OsStr::from(value.to_string())),
        Value::Boolean(b) => Ok(OsStr::from(b.to_string())),
        _ if switch => Err(format!("`{name}` is true or false")),
        _ => Err(format!("`{name}` is a {}, which no setting is", value.type_str())),
    };
    let values = match &value {
        Value::Array(all) if many => all.iter().map(one).collect::<Result<Vec<_>, _>>()?,
        Value::Array(_) => return Err(format!("`{name}` is one value, not a list")),
        value => vec![one(value)?],
    };
    Ok(command.mut_subcommand("serve", |serve| serve.mut_arg(id, |arg| arg.default_values(values))))
}

/// The settings that hold, as a file, without secrets.
pub fn text(matches: &ArgMatches) -> String {
    let command = super::command();
    let mut out = String::new();
    for arg in settings(&command) {
        let (id, key) = (arg.get_id().as_str(), key(arg));
        let raw: Vec<String> =
            matches.get_raw(id).into_iter().flatten().map(|v| v.to_string_lossy().into_owned()).collect();
        let many =
            matches!(arg.get_action(), ArgAction::Append) || arg.get_num_args().is_some_and(|n| n.max_values() > 1);
        // `007` and `1.50` may be names: a number must be written as it was.
        let value = |s: &String| match (s.parse::<i64>(), s.parse::<f64>()) {
            (Ok(n), _) if n.to_string() == *s => Value::Integer(n),
            (_, Ok(x)) if x.is_finite() && Value::Float(x).to_string() == *s => Value::Float(x),
            _ => Value::String(s.clone()),
        };
        out += &match raw.as_slice() {
            _ if matches!(arg.get_action(), ArgAction::SetTrue) => format!("{key} = {}\n", matches.get_flag(id)),
            [] => format!("# {key} is not set\n"),
            _ if id == "api_key" => format!("# {key} is set and not shown\n"),
            all if many => format!("{key} = {}\n", Value::Array(all.iter().map(value).collect())),
            [one, ..] => format!("{key} = {}\n", value(one)),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str, args: &[&str]) -> Result<super::super::Serve, String> {
        let path = std::env::temp_dir().join(format!(
            "alula-config-{}-{:?}.toml",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::write(&path, text).unwrap();
        let args = ["alula", "serve"].iter().chain(args).map(OsString::from).collect();
        let matches = read(&path, args).map_err(|e| e.to_string());
        std::fs::remove_file(&path).unwrap();
        match super::super::Cli::from_arg_matches(&matches?).map_err(|e| e.to_string())?.command {
            super::super::Command::Serve(serve) => Ok(*serve),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_come_before_the_file() {
        let text = "port = 1234\nlenient = true\nmodels = ['a', 'b']\nmax_body = '1MB'\nrequest_timeout = 1.5\n";
        let serve = read_text(text, &["--port", "99"]).unwrap();
        assert_eq!((serve.port, serve.lenient, serve.models), (99, true, vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(serve.request_timeout, std::time::Duration::from_millis(1500));
        assert_eq!(read_text(text, &["c"]).unwrap().models, ["c"]);
    }

    #[test]
    fn wrong_settings_are_named() {
        for (text, name) in [
            ("prot = 1", "`prot`"),
            ("port = 70000", "--port"),
            ("port = [1]", "`port`"),
            ("lenient = 'yes'", "`lenient`"),
            ("config = 'x'", "`config`"),
            ("[server]\nport = 1", "`server`"),
            ("port = ", "TOML"),
        ] {
            let e = read_text(text, &[]).unwrap_err();
            assert!(e.contains(name) && e.contains(".toml"), "{text}: {e}");
        }
    }

    #[test]
    fn what_is_printed_can_be_read() {
        let args = [
            "alula",
            "serve",
            "m",
            "007",
            "1.50",
            "--port",
            "7",
            "--api-key",
            "hush",
            "--cors-origin",
            "http://a",
            "--lenient",
        ];
        let matches = super::super::command().try_get_matches_from(args).unwrap();
        let text = text(matches.subcommand_matches("serve").unwrap());
        assert!(!text.contains("hush") && text.contains("api_key is set"), "{text}");
        let serve = read_text(&text, &[]).unwrap();
        assert_eq!((serve.port, serve.lenient, serve.cors_origin), (7, true, vec!["http://a".to_owned()]));
        assert_eq!(serve.models, ["m", "007", "1.50"]);
    }
}
