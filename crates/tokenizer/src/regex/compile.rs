//! A tree to a program.

use super::class::{Class, Set};
use super::parse::{Node, first, nullable, width};
use super::{Kind, Regex, Step};

/// Longest program, so that counted repeats of hostile patterns stay small.
const MAX_STEPS: usize = 1 << 14;

pub(super) fn compile(node: &Node) -> Result<Regex, String> {
    let mut out = Regex { program: Vec::new(), classes: Vec::new(), first: first(node) };
    out.node(node)?;
    out.push(Step::Match)?;
    Ok(out)
}

impl Regex {
    fn push(&mut self, step: Step) -> Result<usize, String> {
        if self.program.len() >= MAX_STEPS {
            return Err("is too large".into());
        }
        self.program.push(step);
        Ok(self.program.len() - 1)
    }

    fn here(&self) -> u32 {
        self.program.len() as u32
    }

    fn class(&mut self, set: &Set) -> Result<u16, String> {
        self.classes.push(Class::new(set.clone()));
        u16::try_from(self.classes.len() - 1).map_err(|_| "is too large".into())
    }

    fn node(&mut self, node: &Node) -> Result<(), String> {
        match node {
            Node::Empty => {}
            Node::One(set) => {
                let class = self.class(set)?;
                self.push(Step::One(class))?;
            }
            Node::Assert(place) => {
                self.push(Step::Assert(*place))?;
            }
            Node::Sequence(nodes) => nodes.iter().try_for_each(|n| self.node(n))?,
            Node::Choice(nodes) => {
                let switch = self.push(Step::Match)?;
                let (mut ways, mut ends) = (Vec::new(), Vec::new());
                for n in nodes {
                    ways.push((first(n), self.here()));
                    self.node(n)?;
                    ends.push(self.push(Step::Match)?);
                }
                let end = self.here();
                ends.into_iter().for_each(|i| self.program[i] = Step::Jump(end));
                self.program[switch] = Step::Switch(ways.into());
            }
            Node::Repeat { node, min, max, kind } => self.repeat(node, *min, *max, *kind)?,
            Node::Look { node, ahead, negative } => {
                let back =
                    if *ahead { 0 } else { width(node).ok_or("looks behind at something of no fixed length")? };
                let at = self.push(Step::Match)?;
                self.node(node)?;
                self.push(Step::Match)?;
                self.program[at] = Step::Look { end: self.here(), negative: *negative, back };
            }
            Node::Atomic(node) => self.atomic(|p| p.node(node))?,
        }
        Ok(())
    }

    fn atomic(&mut self, inside: impl FnOnce(&mut Self) -> Result<(), String>) -> Result<(), String> {
        let at = self.push(Step::Match)?;
        inside(self)?;
        self.push(Step::Match)?;
        self.program[at] = Step::Atomic { end: self.here() };
        Ok(())
    }

    fn repeat(&mut self, node: &Node, min: u32, max: u32, kind: Kind) -> Result<(), String> {
        if let Node::One(set) = node {
            let class = self.class(set)?;
            self.push(Step::Run { class, min, max, kind })?;
            return Ok(());
        }
        if kind == Kind::Possessive {
            return self.atomic(|p| p.repeat(node, min, max, Kind::Greedy));
        }
        if nullable(node) && max > 1 {
            return Err("repeats something that can be empty".into());
        }
        for _ in 0..min {
            self.node(node)?;
        }
        let fork = |once: u32, end: u32| if kind == Kind::Lazy { Step::Fork(end, once) } else { Step::Fork(once, end) };
        if max == u32::MAX {
            let at = self.push(Step::Match)?;
            self.node(node)?;
            self.push(Step::Jump(at as u32))?;
            self.program[at] = fork(at as u32 + 1, self.here());
        } else {
            let mut forks = Vec::new();
            for _ in min..max {
                forks.push(self.push(Step::Match)?);
                self.node(node)?;
            }
            let end = self.here();
            forks.into_iter().for_each(|at| self.program[at] = fork(at as u32 + 1, end));
        }
        Ok(())
    }
}
