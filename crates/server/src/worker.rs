//! The thread that owns a model's engine.
//!
//! Requests come through a channel and each has a channel for what it gets. Whoever drops the receiving end has gone: the
//! request is cancelled before the next step. Without requests the thread waits and costs nothing.

use crate::error::ApiError;
use crate::metrics::EngineStats;
use alula_engine::{Constraint, Engine, Event, Id, Load, Logprobs, Reason, Request, RequestError, Runner, Usage};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// What a request gets: tokens, then one end.
#[derive(Clone, Debug)]
pub enum Output {
    /// The next token.
    Token {
        /// The token.
        token: u32,
        /// The text that became certain with it.
        text: String,
        /// If asked for.
        logprobs: Option<Logprobs>,
    },
    /// The log-probabilities of the prompt's next tokens.
    Prompt(Vec<Logprobs>),
    /// The state of the prompt's last token.
    Hidden(Vec<f32>),
    /// It is over.
    End {
        /// Why.
        reason: Reason,
        /// What it took.
        usage: Usage,
    },
    /// It broke off.
    Failed(String),
}

enum Command {
    Submit {
        request: Box<Request>,
        constraint: Option<Box<dyn Constraint>>,
        outputs: mpsc::UnboundedSender<Output>,
        reply: oneshot::Sender<Result<(), RequestError>>,
    },
    /// Says what the engine is doing.
    Load(oneshot::Sender<Load>),
    /// Ends everything that is under way.
    Stop(String),
}

/// The way to a model's engine. The thread ends when the last of them is dropped.
#[derive(Clone, Debug)]
pub struct Worker {
    commands: Sender<Command>,
    alive: Arc<AtomicBool>,
    stats: Arc<EngineStats>,
}

/// A model's thread has ended, which it does when it panics.
const DEAD: &str = "the model's thread has stopped after an internal error; restart the server";

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start<R: Runner + Send + 'static>(name: &str, engine: Engine<R>) -> std::io::Result<Worker> {
        let (commands, inbox) = channel();
        let alive = Arc::new(AtomicBool::new(true));
        let flag = Arc::clone(&alive);
        let stats = Arc::new(EngineStats::default());
        let board = Arc::clone(&stats);
        std::thread::Builder::new().name(format!("engine {name}")).spawn(move || {
            let mut desk = Desk { engine, open: HashMap::new(), stats: board };
            desk.stats.publish(desk.engine.load(), false);
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| desk.run(&inbox)));
            flag.store(false, Ordering::Release);
            if result.is_err() {
                desk.close(DEAD);
            }
        })?;
        Ok(Worker { commands, alive, stats })
    }

    /// Whether it can take requests.
    pub fn alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// What its engine does.
    pub fn stats(&self) -> Arc<EngineStats> {
        Arc::clone(&self.stats)
    }

    /// Puts a request in line. Dropping what it returns cancels it.
    ///
    /// # Errors
    /// The engine refuses it, or is no more.
    pub async fn submit(
        &self,
        request: Request,
        constraint: Option<Box<dyn Constraint>>,
    ) -> Result<mpsc::UnboundedReceiver<Output>, ApiError> {
        let (outputs, inbox) = mpsc::unbounded_channel();
        let (reply, answer) = oneshot::channel();
        let dead = || ApiError::unavailable(DEAD);
        self.commands
            .send(Command::Submit { request: Box::new(request), constraint, outputs, reply })
            .map_err(|_| dead())?;
        answer.await.map_err(|_| dead())??;
        Ok(inbox)
    }

    /// What the engine is doing, between two steps.
    ///
    /// # Errors
    /// The engine is no more.
    pub async fn load(&self) -> Result<Load, ApiError> {
        let (reply, answer) = oneshot::channel();
        let dead = || ApiError::unavailable(DEAD);
        self.commands.send(Command::Load(reply)).map_err(|_| dead())?;
        answer.await.map_err(|_| dead())
    }

    /// Ends everything that is under way with an error that says why.
    pub fn stop(&self, why: &str) {
        _ = self.commands.send(Command::Stop(why.to_owned()));
    }
}

/// The engine and who waits for it.
struct Desk<R> {
    engine: Engine<R>,
    open: HashMap<Id, Open>,
    stats: Arc<EngineStats>,
}

/// Who waits for a request.
struct Open {
    outputs: mpsc::UnboundedSender<Output>,
    /// When its last token came.
    last: Option<Instant>,
}

impl<R: Runner> Desk<R> {
    fn run(&mut self, inbox: &Receiver<Command>) {
        let (mut events, mut gone) = (Vec::new(), Vec::new());
        loop {
            if self.engine.is_idle() {
                match inbox.recv() {
                    Ok(command) => self.obey(command),
                    Err(_) => return,
                }
            }
            while let Ok(command) = inbox.try_recv() {
                self.obey(command);
            }
            gone.extend(self.open.iter().filter(|(_, o)| o.outputs.is_closed()).map(|(id, _)| *id));
            for id in gone.drain(..) {
                self.engine.cancel(id);
                self.open.remove(&id);
            }
            match self.engine.step_into(&mut events) {
                Ok(()) => {
                    // Before the events, so that who has the last one finds it counted.
                    self.stats.publish(self.engine.load(), true);
                    let now = Instant::now();
                    events.drain(..).for_each(|event| self.hand_out(event, now));
                }
                Err(e) => self.close(&e.to_string()),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit { request, constraint, outputs, reply } => {
                let result = match constraint {
                    Some(constraint) => self.engine.submit_constrained(*request, constraint),
                    None => self.engine.submit(*request),
                };
                let result = result.map(|id| {
                    self.open.insert(id, Open { outputs, last: None });
                });
                // Who no longer waits for the answer has dropped the outputs too.
                _ = reply.send(result);
            }
            // Who no longer waits needs no answer.
            Command::Load(reply) => _ = reply.send(self.engine.load()),
            Command::Stop(why) => self.close(&why),
        }
    }

    fn hand_out(&mut self, event: Event, now: Instant) {
        match event {
            Event::Token { id, token, text, logprobs } => {
                if let Some(open) = self.open.get_mut(&id) {
                    if let Some(last) = open.last.replace(now) {
                        self.stats.gap(now.saturating_duration_since(last).as_secs_f64());
                    }
                    _ = open.outputs.send(Output::Token { token, text, logprobs });
                }
            }
            Event::Prompt { id, logprobs } => {
                if let Some(open) = self.open.get(&id) {
                    _ = open.outputs.send(Output::Prompt(logprobs));
                }
            }
            Event::Hidden { id, values } => {
                if let Some(open) = self.open.get(&id) {
                    _ = open.outputs.send(Output::Hidden(values));
                }
            }
            Event::Finished { id, reason, usage } => {
                if let Some(open) = self.open.remove(&id) {
                    _ = open.outputs.send(Output::End { reason, usage });
                }
            }
        }
    }

    /// Everybody's end, for the same reason.
    fn close(&mut self, why: &str) {
        for (id, open) in self.open.drain() {
            self.engine.cancel(id);
            _ = open.outputs.send(Output::Failed(why.to_owned()));
        }
    }
}
