//! A persistent thread pool: workers spin briefly for the next job, then park.
#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Turns of the spin loop before a worker parks and a caller yields: half a millisecond (Zen 5), more than the gap between
/// two ops.
const SPINS: u32 = 20_000;

/// Parts of the tasks that are left, for each thread.
const PARTS: usize = 8;

/// No worker may join.
const CLOSED: usize = 1 << (usize::BITS - 1);

type Job<'a> = &'a (dyn Fn(usize, usize) + Sync);

struct Shared {
    /// Counts jobs that are split; workers that spin see a change, those that park are woken. `usize::MAX` tells them to end.
    epoch: AtomicUsize,
    /// The last job. It is there while a worker is inside.
    job: AtomicPtr<Job<'static>>,
    tasks: AtomicUsize,
    next: AtomicUsize,
    /// A thread takes one of so many parts of the tasks that are left, so that threads seldom meet at `next` and mostly go
    /// through memory in one direction, and yet end together (guided self-scheduling: Polychronopoulos and Kuck 1987). Of few
    /// tasks, which may be large and uneven, each is taken alone.
    parts: usize,
    /// How many workers are at the job or have not started yet, and [`CLOSED`] while there is none to join. Who comes when
    /// the caller has found no task left, because the system gave its core to somebody else, is not waited for.
    inside: AtomicUsize,
    panicked: AtomicBool,
}

/// Threads that share the work of one job at a time. With one thread there are no workers at all.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
}

impl Pool {
    /// A pool that uses `threads` threads (at least 1), the caller's among them.
    pub fn new(threads: usize) -> Pool {
        Pool::prepared(threads, |_| {})
    }

    /// The same; `prepare(i)` is called before thread `i` is started, which inherits what the caller's thread is then.
    pub fn prepared(threads: usize, mut prepare: impl FnMut(usize)) -> Pool {
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: AtomicPtr::default(),
            tasks: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            parts: PARTS * threads.max(1),
            inside: AtomicUsize::new(CLOSED),
            panicked: AtomicBool::new(false),
        });
        let workers = (1..threads)
            .map_while(|id| {
                prepare(id);
                let own = Arc::clone(&shared);
                // The first job that is split ends when all have started, so that no later one has to do with that.
                shared.inside.fetch_add(1, Relaxed);
                let started = std::thread::Builder::new().name(format!("alula-{id}")).spawn(move || {
                    own.inside.fetch_sub(1, Release);
                    own.work(id);
                });
                // Where the system refuses more threads, the pool has fewer.
                if started.is_err() {
                    shared.inside.fetch_sub(1, Relaxed);
                }
                started.ok()
            })
            .collect();
        Pool { shared, workers, turn: Mutex::new(()) }
    }

    /// Number of threads, the caller's among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(task, thread)` for every task in `0..tasks`, in any order, on any thread; returns when all are done.
    /// No two threads of a job have the same `thread`, which is below [`threads`](Pool::threads). The caller does it
    /// alone with `split` false, with a single task, and while the pool has another job (of another caller, or the
    /// one whose task this call is made from).
    ///
    /// # Panics
    /// If `f` panics in any thread.
    pub fn run(&self, tasks: usize, split: bool, f: impl Fn(usize, usize) + Sync) {
        if self.workers.is_empty() || !split || tasks < 2 {
            return (0..tasks).for_each(|task| f(task, 0));
        }
        let Ok(turn) = self.turn.try_lock() else {
            return (0..tasks).for_each(|task| f(task, 0));
        };
        let s = &*self.shared;
        // It lives longer than any worker is inside: this function does not return, nor unwind, before the job is closed and
        // all have left.
        let job: Job<'_> = &f;
        s.job.store((&raw const job).cast_mut().cast(), Relaxed);
        s.tasks.store(tasks, Relaxed);
        s.next.store(0, Relaxed);
        s.inside.fetch_sub(CLOSED, Release);
        s.epoch.fetch_add(1, Release);
        self.workers.iter().for_each(|w| w.thread().unpark());
        let mine = catch_unwind(AssertUnwindSafe(|| s.drain(&f, 0)));
        s.inside.fetch_or(CLOSED, Relaxed);
        let mut turns = 0u32;
        while s.inside.load(Acquire) != CLOSED {
            if turns < SPINS {
                turns += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        let theirs = s.panicked.swap(false, Relaxed);
        drop(turn);
        if let Err(panic) = mine {
            resume_unwind(panic);
        }
        assert!(!theirs, "a worker thread panicked");
    }
}

impl Shared {
    fn drain(&self, f: &(dyn Fn(usize, usize) + Sync), thread: usize) {
        let tasks = self.tasks.load(Relaxed);
        loop {
            let left = tasks.saturating_sub(self.next.load(Relaxed));
            let many = (left / self.parts).max(1);
            let first = self.next.fetch_add(many, Relaxed);
            if first >= tasks {
                return;
            }
            (first..tasks.min(first + many)).for_each(|task| f(task, thread));
        }
    }

    fn work(&self, thread: usize) {
        let mut seen = 0;
        loop {
            let mut turns = 0;
            let epoch = loop {
                let now = self.epoch.load(Acquire);
                if now != seen {
                    break now;
                }
                turns += 1;
                if turns < SPINS { std::hint::spin_loop() } else { std::thread::park() }
            };
            if epoch == usize::MAX {
                return;
            }
            seen = epoch;
            let join = |inside| (inside & CLOSED == 0).then_some(inside + 1);
            if self.inside.fetch_update(Acquire, Relaxed, join).is_err() {
                continue; // too late
            }
            // SAFETY: the job is open, whose opening was after `Pool::run` stored it, and `run` keeps it until this worker has
            // left.
            let f = unsafe { *self.job.load(Relaxed) };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.drain(f, thread))) {
                self.panicked.store(true, Relaxed);
                std::mem::forget(panic); // to drop it may panic
            }
            self.inside.fetch_sub(1, Release);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.epoch.store(usize::MAX, Release);
        for w in self.workers.drain(..) {
            w.thread().unpark();
            let _ = w.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for tasks in [0, 1, 2, 7, 1000] {
                let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, true, |t, thread| {
                    assert!(thread < threads);
                    counts[t].fetch_add(1, Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Relaxed) == 1));
            }
        }
    }

    #[test]
    fn parked_workers_wake_and_panics_come_back() {
        let pool = Pool::new(2);
        let total = AtomicUsize::new(0);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            // Each thread waits for the other: both must come.
            let meet = std::sync::Barrier::new(2);
            pool.run(2, true, |t, _| {
                meet.wait();
                total.fetch_add(t, Relaxed);
            });
        }
        assert_eq!(total.load(Relaxed), 3);
        let caught = catch_unwind(AssertUnwindSafe(|| pool.run(10, true, |t, _| assert!(t != 7))));
        assert!(caught.is_err());
        pool.run(10, true, |t, _| _ = total.fetch_add(t, Relaxed));
        assert_eq!(total.load(Relaxed), 48);
        // Both threads panic: each is in its task when the other is.
        let both = AtomicUsize::new(0);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(2, true, |_, _| {
                both.fetch_add(1, Relaxed);
                while both.load(Relaxed) < 2 {
                    std::thread::yield_now();
                }
                panic!("on purpose");
            });
        }));
        assert!(caught.is_err());
        pool.run(10, true, |t, _| _ = total.fetch_add(t, Relaxed));
        assert_eq!(total.load(Relaxed), 93);
    }

    #[test]
    fn a_task_may_run_a_job_and_callers_may_share_the_pool() {
        let (pool, total) = (Pool::new(2), AtomicUsize::new(0));
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for _ in 0..100 {
                        pool.run(4, true, |_, _| pool.run(5, true, |t, _| _ = total.fetch_add(t, Relaxed)));
                    }
                });
            }
        });
        assert_eq!(total.load(Relaxed), 3 * 100 * 4 * 10);
    }

    #[test]
    fn jobs_in_a_row_never_mix() {
        // Each job's closure and tasks are gone when `run` returns; a worker that came late would touch them.
        // With many threads, most come late.
        for threads in [3, 16] {
            let pool = Pool::new(threads);
            for n in 1..3000 {
                let counts: Vec<_> = (0..n % 7 + 2).map(|_| AtomicUsize::new(0)).collect();
                pool.run(counts.len(), true, |t, _| _ = counts[t].fetch_add(1, Relaxed));
                assert!(counts.iter().all(|c| c.load(Relaxed) == 1), "job {n} of {threads} threads");
            }
        }
    }
}
