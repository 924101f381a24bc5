//! One file per command.

mod bench;
mod cache;
mod chat;
mod embed;
mod eval;
mod key;
mod list;
mod pages;
mod rerank;
mod run;
mod serve;
mod show;
mod tokenize;

use crate::Fail;
use crate::cli::Command;

/// Does what the command line asks for.
pub fn run(command: Command) -> Result<(), Fail> {
    match command {
        Command::Run(a) => run::run(a),
        Command::Chat(a) => chat::chat(a),
        Command::Serve(a) => serve::serve(a),
        Command::Key(a) => key::key(a),
        Command::List(a) => list::list(&a),
        Command::Show(a) => show::show(&a),
        Command::Tokenize(a) => tokenize::tokenize(&a),
        Command::Detokenize(a) => tokenize::detokenize(&a),
        Command::Embed(a) => embed::embed(&a),
        Command::Rerank(a) => rerank::rerank(&a),
        Command::Eval(a) => eval::eval(&a),
        Command::Bench(a) => bench::bench(&a),
        Command::Cache(a) => cache::cache(&a),
        Command::Completions(a) => pages::completions(&a),
        Command::Man(a) => pages::man(&a),
    }
}
