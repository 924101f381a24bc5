//! Weights that have no room in memory: fetched when a step comes to them or before, and kept as long as they are likelier to
//! be needed soon than others.
//!
//! A step goes through its stages in order, so how far a stage is away is known; of a mixture's experts it is not known
//! whether they will be needed then. What is kept is therefore what is expected back soonest: the distance of the stage, plus
//! whole rounds for experts that are needed once in so many rounds, which is counted, old rounds for less than new ones.

use crate::cores::bind;
use crate::read::{Reader, THREADS};
use crate::{DeviceError, Traffic};
use alula_kernels::{Ctx, Packed, Pool};
use alula_simd::Cpu;
use alula_tensor::Tensor;
use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// What a use counts for, of one a round later.
const KEPT: f64 = 63.0 / 64.0;
/// Counts do not grow beyond.
const MOST: f64 = 1e100;

/// A matrix that is fetched: its name and its bytes in a file.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) tensor: Tensor,
    /// Packed.
    pub(crate) bytes: usize,
}

/// Matrices that come and go together.
pub(crate) struct Unit {
    /// Number of its stage among those that fetch.
    pub(crate) stage: usize,
    pub(crate) parts: Vec<Part>,
}

impl Unit {
    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().map(|p| p.bytes).sum()
    }
}

/// A unit that is here, and the matrices of its parts.
pub(crate) type Come = (usize, Vec<Arc<Packed>>);

/// What the threads that fetch are like.
pub(crate) struct Fetcher {
    /// The level at which they pack.
    pub(crate) cpu: Cpu,
    /// Where they may run, if not where the thread that starts them may.
    pub(crate) processors: Vec<usize>,
}

/// Fetches units in threads of its own.
pub(crate) struct Pager {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    fetcher: Fetcher,
    units: Vec<Unit>,
    readers: Vec<Reader>,
    /// Bytes that units may take together.
    room: usize,
    state: Mutex<State>,
    /// There is something to fetch, or room for it.
    work: Condvar,
    /// Something has come.
    come: Condvar,
}

struct State {
    slots: Vec<Slot>,
    /// The stage that the step is at; all of them.
    now: usize,
    visits: Vec<Visits>,
    /// Parts to fetch, with old matrices whose memory they may take; then units that a stage waits for, then guesses.
    parts: VecDeque<(usize, usize, Option<Packed>)>,
    demand: VecDeque<usize>,
    guesses: VecDeque<usize>,
    /// Bytes of units that are here or coming.
    taken: usize,
    failed: Option<DeviceError>,
    stop: bool,
    traffic: Traffic,
}

/// A unit's state.
#[derive(Default)]
struct Slot {
    held: Held,
    /// The present stage needs it.
    wanted: bool,
    /// Its stage will need it the next time, as far as can be known.
    guessed: bool,
    /// It was fetched, or is, because of a guess, and has not been needed since.
    early: bool,
    /// Uses, each with what it counts for.
    heat: f64,
}

/// How often a stage was visited.
#[derive(Clone, Copy)]
struct Visits {
    /// Visits, in uses of now.
    all: f64,
    /// What a use counts for now.
    one: f64,
}

#[derive(Default)]
enum Held {
    #[default]
    Absent,
    Coming(Vec<Option<Arc<Packed>>>),
    Here(Vec<Arc<Packed>>),
}

impl Pager {
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn new(fetcher: Fetcher, units: Vec<Unit>, room: usize) -> std::io::Result<Pager> {
        let shared = Arc::new(Shared::new(fetcher, units, room));
        let mut pager = Pager { shared, threads: Vec::new() };
        for i in 0..THREADS {
            let shared = Arc::clone(&pager.shared);
            let thread = std::thread::Builder::new().name(format!("alula-fetch-{i}"));
            pager.threads.push(thread.spawn(move || shared.work())?);
        }
        Ok(pager)
    }

    /// Says that the step has come to a stage, which needs these of its units.
    pub(crate) fn want(&self, stage: usize, all: Range<usize>, units: impl Iterator<Item = usize>) {
        let mut guard = self.shared.lock();
        let s = &mut *guard;
        s.now = stage;
        let visits = &mut s.visits[stage];
        (visits.all, visits.one) = (visits.all * KEPT + 1.0, visits.one / KEPT);
        if visits.one > MOST {
            s.slots[all.clone()].iter_mut().for_each(|s| s.heat /= visits.one);
            visits.one = 1.0;
        }
        let one = visits.one;
        s.guesses.retain(|u| !all.contains(u));
        s.slots[all].iter_mut().for_each(|s| s.guessed = false);
        for u in units {
            let slot = &mut s.slots[u];
            slot.wanted = true;
            slot.heat += one;
            s.traffic.wanted += 1;
            match (&slot.held, std::mem::take(&mut slot.early)) {
                (Held::Absent, _) => s.demand.push_back(u),
                (_, true) => s.traffic.ahead += 1,
                _ => s.traffic.found += 1,
            }
        }
        self.shared.work.notify_all();
    }

    /// Those of `left` that are here, at least one; they are taken out of `left`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn take(&self, left: &mut Vec<usize>) -> Result<Vec<Come>, DeviceError> {
        let (mut s, start) = (self.shared.lock(), Instant::now());
        loop {
            if let Some(e) = s.failed.take() {
                s.demand.clear();
                s.slots.iter_mut().for_each(|s| s.wanted = false);
                return Err(e);
            }
            let mut here = Vec::new();
            left.retain(|&u| match &s.slots[u].held {
                Held::Here(parts) => {
                    here.push((u, parts.clone()));
                    false
                }
                _ => true,
            });
            if !here.is_empty() || left.is_empty() {
                s.traffic.waited += start.elapsed();
                return Ok(here);
            }
            s = self.shared.come.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says that units are not needed any more. Nothing else may hold them, or their memory is counted as free too early.
    pub(crate) fn done(&self, units: impl Iterator<Item = usize>) {
        let mut s = self.shared.lock();
        units.for_each(|u| s.slots[u].wanted = false);
        if !s.demand.is_empty() {
            self.shared.work.notify_all();
        }
    }

    /// Says that units will be needed soon, the next ones first.
    pub(crate) fn guess(&self, units: impl Iterator<Item = usize>) {
        let mut guard = self.shared.lock();
        let s = &mut *guard;
        s.guesses.clear();
        for u in units {
            s.slots[u].guessed = true;
            if matches!(s.slots[u].held, Held::Absent) {
                s.guesses.push_back(u);
            }
        }
        self.shared.work.notify_all();
    }

    /// The units of a stage that were needed most.
    pub(crate) fn hottest(&self, stage: Range<usize>, n: usize) -> Vec<usize> {
        let s = self.shared.lock();
        let mut all: Vec<usize> = stage.collect();
        all.sort_by(|&a, &b| self.shared.chance(&s, b).total_cmp(&self.shared.chance(&s, a)).then(a.cmp(&b)));
        all.truncate(n);
        all
    }

    /// Bytes of a unit.
    pub(crate) fn bytes(&self, unit: usize) -> usize {
        self.shared.units[unit].bytes()
    }

    /// Bytes that units may take together.
    pub(crate) fn room(&self) -> usize {
        self.shared.room
    }

    /// What happened so far.
    pub(crate) fn traffic(&self) -> Traffic {
        self.shared.lock().traffic
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        self.threads.drain(..).for_each(|t| _ = t.join());
    }
}

impl Shared {
    fn new(fetcher: Fetcher, units: Vec<Unit>, room: usize) -> Shared {
        let mut readers: Vec<Reader> = Vec::new();
        for part in units.iter().flat_map(|u| &u.parts) {
            let storage = part.tensor.storage().0;
            if !readers.iter().any(|r| r.is_of(storage)) {
                readers.push(Reader::new(storage));
            }
        }
        let slot = |unit: &Unit| {
            // What is not fetched is always here.
            let held = if unit.parts.is_empty() { Held::Here(Vec::new()) } else { Held::Absent };
            Slot { held, ..Slot::default() }
        };
        let stages = units.iter().map(|u| u.stage + 1).max().unwrap_or(0);
        let state = State {
            slots: units.iter().map(slot).collect(),
            now: 0,
            visits: vec![Visits { all: 0.0, one: 1.0 }; stages],
            parts: VecDeque::new(),
            demand: VecDeque::new(),
            guesses: VecDeque::new(),
            taken: 0,
            failed: None,
            stop: false,
            traffic: Traffic::default(),
        };
        let (work, come) = (Condvar::new(), Condvar::new());
        Shared { fetcher, units, readers, room, state: Mutex::new(state), work, come }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let (pool, mut buffer) = (Pool::new(1), Vec::new());
        let Fetcher { cpu, processors } = &self.fetcher;
        if !processors.is_empty() {
            _ = bind(processors); // elsewhere they are slow, but right
        }
        let ctx = Ctx { cpu: *cpu, pool: &pool };
        let mut s = self.lock();
        while !s.stop {
            let Some((unit, part, old)) = self.next(&mut s) else {
                s = self.work.wait(s).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(s);
            let got =
                catch_unwind(AssertUnwindSafe(|| self.fetch(ctx, &self.units[unit].parts[part], old, &mut buffer)));
            let got = got.unwrap_or_else(|_| Err("it cannot be brought into form".to_owned()));
            s = self.lock();
            self.arrive(&mut s, unit, part, got);
        }
    }

    /// Something to fetch for which there is room.
    fn next(&self, s: &mut State) -> Option<(usize, usize, Option<Packed>)> {
        loop {
            if let Some(part) = s.parts.pop_front() {
                return Some(part);
            }
            let demand = s.demand.front().copied();
            let (unit, old) = match demand {
                Some(unit) if !matches!(s.slots[unit].held, Held::Absent) => {
                    s.demand.pop_front();
                    continue;
                }
                // Until there is room for what a stage waits for, there is none for guesses.
                Some(unit) => (unit, self.clear(s, unit, f64::NEG_INFINITY)?),
                None => {
                    let unit = s.guesses.pop_front()?;
                    let slot = &s.slots[unit];
                    if !slot.guessed || !matches!(slot.held, Held::Absent) {
                        continue;
                    }
                    let Some(old) = self.clear(s, unit, self.rounds(s, unit)) else { continue };
                    (unit, old)
                }
            };
            s.slots[unit].early = demand.is_none();
            if demand.is_some() {
                s.demand.pop_front();
            }
            self.begin(s, unit, old);
        }
    }

    /// Makes room for a unit. Gives what was there; or nothing, and leaves everything, where all that may go is expected sooner
    /// than `after`.
    fn clear(&self, s: &mut State, unit: usize, after: f64) -> Option<Vec<Packed>> {
        // One that is larger than the room has it for itself.
        let need = self.units[unit].bytes().min(self.room);
        let (mut left, mut going) = (s.taken, Vec::new());
        while left > self.room - need {
            let may_go = |u: &usize| {
                let slot = &s.slots[*u];
                matches!(&slot.held, Held::Here(parts) if !parts.is_empty()) && !slot.wanted && !going.contains(u)
            };
            let each = (0..self.units.len()).filter(may_go).map(|u| (self.rounds(s, u), u));
            let (_, last) = each.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|l| l.0 > after)?;
            left -= self.units[last].bytes();
            going.push(last);
        }
        s.taken = left;
        let mut old = Vec::new();
        for u in going {
            if let Held::Here(parts) = std::mem::take(&mut s.slots[u].held) {
                old.extend(parts.into_iter().filter_map(Arc::into_inner));
            }
        }
        Some(old)
    }

    fn begin(&self, s: &mut State, unit: usize, mut old: Vec<Packed>) {
        let Unit { parts, .. } = &self.units[unit];
        s.taken += self.units[unit].bytes();
        s.slots[unit].held = Held::Coming(parts.iter().map(|_| None).collect());
        for (i, part) in parts.iter().enumerate() {
            let like = old.iter().position(|p| p.bytes() == part.bytes);
            s.parts.push_back((unit, i, like.map(|at| old.swap_remove(at))));
        }
        self.work.notify_all();
    }

    fn fetch(&self, ctx: Ctx<'_>, part: &Part, old: Option<Packed>, buffer: &mut Vec<u8>) -> Result<Packed, String> {
        let t = &part.tensor;
        let (storage, range) = t.storage();
        let Some(reader) = self.readers.iter().find(|r| r.is_of(storage)) else { unreachable!("each has a reader") };
        let bytes = reader.read(range, buffer).map_err(|e| format!("its file cannot be read: {e}"))?;
        let packed = Packed::reusing(ctx, (t.dtype(), t.rows(), t.cols()), bytes, old);
        t.release(); // where the mapping was read
        packed.ok_or_else(|| "there is no memory for it".to_owned())
    }

    fn arrive(&self, s: &mut State, unit: usize, part: usize, got: Result<Packed, String>) {
        let slot = &mut s.slots[unit];
        let Held::Coming(parts) = &mut slot.held else { return }; // another part of it has failed
        match got {
            Ok(packed) => {
                s.traffic.read += self.units[unit].parts[part].tensor.bytes().len() as u64;
                parts[part] = Some(Arc::new(packed));
                if parts.iter().all(Option::is_some) {
                    slot.held = Held::Here(parts.drain(..).flatten().collect());
                }
            }
            Err(why) => {
                slot.held = Held::Absent;
                s.taken -= self.units[unit].bytes();
                s.parts.retain(|p| p.0 != unit);
                // A guess that fails is fetched again when it is needed.
                if slot.wanted {
                    s.failed = Some(DeviceError::Weight { name: self.units[unit].parts[part].name.clone(), why });
                }
            }
        }
        self.come.notify_all();
        if !s.demand.is_empty() {
            self.work.notify_all();
        }
    }

    /// How likely a unit is needed when its stage comes.
    fn chance(&self, s: &State, unit: usize) -> f64 {
        let visits = s.visits[self.units[unit].stage];
        // Of what has not been seen yet, something is expected.
        (s.slots[unit].heat / visits.one + 0.1) / (visits.all + 1.0)
    }

    /// After how many rounds a unit is expected to be needed.
    fn rounds(&self, s: &State, unit: usize) -> f64 {
        let (stage, stages) = (self.units[unit].stage, s.visits.len());
        // A unit of this stage that is not wanted has a whole round before it.
        let away = (stage + stages - s.now - 1) % stages + 1;
        let chance = if s.slots[unit].guessed { 1.0 } else { self.chance(s, unit) };
        away as f64 / stages as f64 + 1.0 / chance - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alula_tensor::{DType, Storage};

    /// Stages of a unit each, of so many thousand bytes, without threads.
    fn pager(sizes: &[usize], room: usize) -> Pager {
        let unit = |(stage, size): (usize, &usize)| {
            let (bytes, shape) = (size * 1000, vec![16, size * 1000 / 64]);
            let tensor = Tensor::new(DType::F32, shape, Storage::from(vec![0; bytes]), 0..bytes).expect("a tensor");
            Unit { stage, parts: vec![Part { name: format!("part {stage}"), tensor, bytes }] }
        };
        let fetcher = Fetcher { cpu: Cpu::all()[0], processors: Vec::new() };
        let shared = Shared::new(fetcher, sizes.iter().enumerate().map(unit).collect(), room * 1000);
        Pager { shared: Arc::new(shared), threads: Vec::new() }
    }

    impl Pager {
        /// Does what a thread would, until nothing is left to do; the numbers of the units that were read.
        fn settle(&self, ends: &dyn Fn(usize) -> Option<String>) -> Vec<usize> {
            let (pool, mut buffer, mut read) = (Pool::new(1), Vec::new(), Vec::new());
            let (mut s, ctx) = (self.shared.lock(), Ctx { cpu: self.shared.fetcher.cpu, pool: &pool });
            while let Some((unit, part, old)) = self.shared.next(&mut s) {
                let got = self.shared.fetch(ctx, &self.shared.units[unit].parts[part], old, &mut buffer);
                self.shared.arrive(&mut s, unit, part, ends(unit).map_or(got, Err));
                read.push(unit);
            }
            assert_eq!(
                s.taken,
                s.slots
                    .iter()
                    .zip(&self.shared.units)
                    .map(|(s, u)| match s.held {
                        Held::Here(_) => u.bytes(),
                        _ => 0,
                    })
                    .sum::<usize>()
            );
            read
        }

        /// Goes through a stage; what was read for it.
        fn visit(&self, stage: usize) -> Vec<usize> {
            self.want(stage, stage..stage + 1, stage..stage + 1);
            let read = self.settle(&|_| None);
            assert_eq!(self.take(&mut vec![stage]).expect("it is there").len(), 1);
            self.done(stage..stage + 1);
            read
        }
    }

    /// What is wanted next stays, and nothing goes for a guess that has no room all the same.
    #[test]
    fn a_guess_without_room_pushes_nothing_out() {
        let p = pager(&[64, 64, 64, 128], 192);
        assert_eq!([0, 1, 2].map(|stage| p.visit(stage)), [[0], [1], [2]]);
        p.visit(0);
        p.want(1, 1..2, 1..2);
        p.guess([2, 3].into_iter());
        // The first one may go, which is not enough.
        assert!(p.settle(&|_| None).is_empty());
        p.done(1..2);
        assert!([2, 0, 2].into_iter().all(|stage| p.visit(stage).is_empty()));
        p.guess([3].into_iter());
        assert_eq!(p.settle(&|_| None), [3]);
        assert!(p.visit(3).is_empty() && p.traffic().ahead == 1);
    }

    /// A guess that fails is forgotten, and one that is wanted by then is an error; later it can come.
    #[test]
    fn parts_that_fail() {
        let p = pager(&[64, 64], 128);
        let broken = |_| Some("broken".to_owned());
        p.guess([1].into_iter());
        assert_eq!(p.settle(&broken), [1]);
        assert_eq!(p.visit(1), [1]);
        p.guess([0].into_iter());
        {
            let mut s = p.shared.lock();
            assert_eq!(p.shared.next(&mut s).map(|n| n.0), Some(0));
        }
        p.want(0, 0..1, 0..1);
        p.shared.arrive(&mut p.shared.lock(), 0, 0, Err("broken".to_owned()));
        assert!(matches!(p.take(&mut vec![0]), Err(DeviceError::Weight { why, .. }) if why == "broken"));
        assert_eq!((p.visit(0), p.traffic().ahead), (vec![0], 1));
    }

    /// What is larger than the room comes when nothing else is there.
    #[test]
    fn a_unit_without_room_comes_alone() {
        let p = pager(&[64, 256, 64], 128);
        for _ in 0..2 {
            assert_eq!([0, 1, 2].map(|stage| p.visit(stage)), [[0], [1], [2]]);
        }
    }
}
