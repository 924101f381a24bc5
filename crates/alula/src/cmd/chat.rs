//! `alula chat`: a conversation, at a terminal or through a pipe.
//!
//! At a terminal there is line editing with a history, and Ctrl-C stops the answer. In a pipe every line (or block in
//! `"""`) is a message and standard output has the answers alone; everything else goes to standard error.

mod commands;
mod input;
mod saved;
mod session;
mod settings;

use crate::cli::Chat;
use crate::{Fail, models, open, say};
use alula_engine::local::LoadOptions;
use input::{Input, Reader};
use session::Session;
use settings::Settings;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Tokens of a step: few enough that Ctrl-C is soon heard while a long prompt is computed.
const STEP: usize = 128;

/// Ctrl-C: while an answer is written it stops that, else the program.
#[derive(Clone, Default)]
pub(super) struct Interrupt {
    busy: Arc<AtomicBool>,
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens from now on.
    fn listen(&self) -> Result<(), Fail> {
        let Interrupt { busy, asked } = self.clone();
        Ok(ctrlc::set_handler(move || match busy.load(Ordering::SeqCst) {
            true => asked.store(true, Ordering::SeqCst),
            false => std::process::exit(130),
        })?)
    }

    /// Whether the answer that is being written shall stop.
    fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// An answer begins or ends.
    fn busy(&self, yes: bool) {
        self.asked.store(false, Ordering::SeqCst);
        self.busy.store(yes, Ordering::SeqCst);
    }
}

/// `alula chat [MODEL]`.
pub fn chat(a: Chat) -> Result<(), Fail> {
    let keyboard = std::io::stdin().is_terminal();
    let interrupt = Interrupt::default();
    if keyboard {
        interrupt.listen()?;
    }
    let (package, adapters) = open::adapt(models::need(&a.model)?.open()?, &a.lora)?;
    package.writes()?;
    let options = LoadOptions {
        context: a.load.ctx,
        cache: open::cache(a.load.cache_type),
        keep: open::keep(a.load.no_cache),
        guess: a.load.mtp,
        step_tokens: STEP,
        outputs: 1,
        ..LoadOptions::default()
    };
    let settings = Settings::new(open::sampling(&a.sampling, None), a.max_tokens);
    let mut session = Session::open(&package, a.load.compute, options, settings, interrupt)?;
    session.chosen = adapters.all();
    session.adapters = adapters;
    session.system = a.system;
    let mut reader = Reader::new(keyboard && std::io::stdout().is_terminal())?;
    if keyboard {
        say(format_args!("{}, context of {} tokens", package.name, session.context()));
        say("/help helps, Ctrl-D leaves");
    }
    loop {
        let result = match reader.next()? {
            Input::End => return Ok(()),
            Input::Message(text) => session.send(text),
            Input::Command(name, argument) => match commands::run(&mut session, &name, &argument) {
                Ok(true) => return Ok(()),
                Ok(false) => Ok(()),
                Err(e) => Err(e),
            },
        };
        match result {
            // Standard output is gone.
            Err(e) if e.is::<std::io::Error>() => return Err(e),
            Err(e) => say(format_args!("alula: {e}")),
            Ok(()) => {}
        }
    }
}
