use super::*;
use alula_device::HOLE;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn scheduler(tokens: usize, running: usize, pages: usize) -> Scheduler {
    Scheduler::new(Limits { tokens, running, pages, ..Limits::default() })
}

fn sharing(tokens: usize, running: usize, pages: usize) -> Scheduler {
    Scheduler::new(Limits { tokens, running, pages, share: Some(0), ..Limits::default() })
}

/// Tokens counted from 0.
fn ask(s: &mut Scheduler, known: usize, longest: usize) -> Result<Id, Refused> {
    s.admit(Ask { tokens: (0..known as u32).collect(), longest, ..Ask::default() })
}

/// The step as (id, start, len, ends), then committed; each share that ends grows by one token.
fn run(s: &mut Scheduler) -> Vec<(u64, usize, usize, bool)> {
    let shares: Vec<_> = s.step().shares().map(|x| (x.id.0, x.start, x.len, x.ends)).collect();
    for &(id, _, _, ends) in &shares {
        grow(s, Id(id), usize::from(ends));
        s.share(Id(id));
    }
    shares
}

fn grow(s: &mut Scheduler, id: Id, n: usize) {
    for _ in 0..n {
        s.append(id, s.tokens(id).len() as u32);
    }
    s.commit(id);
}

#[test]
fn a_long_prompt_goes_in_pieces_and_stops_nobody() {
    let mut s = scheduler(8, 4, 100);
    ask(&mut s, 3, 100).unwrap();
    ask(&mut s, 20, 100).unwrap();
    ask(&mut s, 2, 100).unwrap();
    assert_eq!(run(&mut s), [(0, 0, 3, true), (1, 0, 3, false), (2, 0, 2, true)]);
    assert_eq!(run(&mut s), [(0, 3, 1, true), (1, 3, 6, false), (2, 2, 1, true)]);
    assert_eq!((s.running(), s.waiting()), (3, 0));
    assert_eq!(run(&mut s), [(0, 4, 1, true), (1, 9, 6, false), (2, 3, 1, true)]);
    assert_eq!(run(&mut s), [(0, 5, 1, true), (1, 15, 5, true), (2, 4, 1, true)]);
}

#[test]
fn short_prompts_pass_long_ones_which_keep_half_their_pace() {
    let mut s = scheduler(101, 9, 100);
    for n in [1000, 500, 30, 20] {
        ask(&mut s, n, 2000).unwrap();
    }
    assert_eq!(run(&mut s), [(0, 0, 50, false), (1, 0, 1, false), (2, 0, 30, true), (3, 0, 20, true)]);
    assert_eq!(run(&mut s), [(0, 50, 50, false), (1, 1, 49, false), (2, 30, 1, true), (3, 20, 1, true)]);
}

#[test]
fn a_younger_request_keeps_its_pace_beside_an_older_long_one() {
    let mut s = scheduler(4, 4, 100);
    ask(&mut s, 1, 100).unwrap();
    ask(&mut s, 1, 100).unwrap();
    assert_eq!(run(&mut s).len(), 2);
    grow(&mut s, Id(0), 50);
    assert_eq!(run(&mut s), [(0, 1, 3, false), (1, 1, 1, true)]);
}

#[test]
fn the_youngest_gives_way_and_comes_back() {
    let mut s = scheduler(64, 4, 3);
    ask(&mut s, PAGE - 1, 3 * PAGE).unwrap();
    ask(&mut s, 1, 3 * PAGE).unwrap();
    assert_eq!(run(&mut s), [(0, 0, 63, true), (1, 0, 1, true)]);
    grow(&mut s, Id(0), PAGE);
    assert_eq!(run(&mut s), [(0, 63, 63, false), (1, 1, 1, true)]);
    assert_eq!((s.counters().preemptions, s.pages().free()), (0, 0));
    grow(&mut s, Id(0), 1);
    assert_eq!(run(&mut s), [(0, 126, 3, true)], "129 tokens need a third page");
    assert_eq!((s.running(), s.waiting(), s.counters().preemptions, s.pages().free()), (1, 1, 1, 0));
    assert!(s.cancel(Id(0)));
    assert_eq!(run(&mut s), [(1, 0, 3, true)]);
    assert!(s.cancel(Id(1)) && !s.cancel(Id(1)));
    assert_eq!((s.running(), s.waiting(), s.pages().free()), (0, 0, 3));
}

#[test]
fn the_youngest_gives_way_to_itself_too() {
    let mut s = scheduler(200, 4, 2);
    ask(&mut s, 1, 2 * PAGE).unwrap();
    ask(&mut s, PAGE, 2 * PAGE).unwrap();
    assert_eq!(run(&mut s), [(0, 0, 1, true)], "one page is kept for the first");
    let mut s = scheduler(200, 4, 3);
    ask(&mut s, PAGE, 2 * PAGE).unwrap();
    ask(&mut s, PAGE, 2 * PAGE).unwrap();
    assert_eq!(run(&mut s), [(0, 0, 64, true), (1, 0, 64, true)]);
    assert_eq!(run(&mut s), [(0, 64, 1, true)], "the third page went to the older");
    assert_eq!((s.waiting(), s.counters().preemptions, s.pages().free()), (1, 1, 1));
    assert_eq!(run(&mut s), [(0, 65, 1, true)], "its two pages are not free");
}

#[test]
fn limits_hold() {
    let mut s = scheduler(0, 0, 2);
    let too_long = Err(Refused::TooLong { longest: 129, room: 128 });
    assert_eq!(ask(&mut s, 1, 2 * PAGE + 1), too_long);
    assert_eq!(ask(&mut s, 129, 1), too_long);
    ask(&mut s, 2, 128).unwrap();
    ask(&mut s, 2, 128).unwrap();
    assert_eq!(run(&mut s), [(0, 0, 1, false)]);
    assert_eq!(run(&mut s), [(0, 1, 1, true)]);
    assert_eq!((s.running(), s.waiting()), (1, 1));
    let mut s = scheduler(8, 1, 9);
    ask(&mut s, 2, 128).unwrap();
    ask(&mut s, 2, 128).unwrap();
    assert_eq!(run(&mut s), [(0, 0, 2, true)], "one at a time");
}

#[test]
fn the_queue_is_bounded() {
    let limits = Limits { tokens: 8, running: 2, pages: 9, waiting: 1, waiting_tokens: 20, ..Limits::default() };
    let mut s = Scheduler::new(limits);
    for n in [1, 19] {
        ask(&mut s, n, 100).unwrap();
    }
    let full = |waiting, tokens| Err(Refused::Full { waiting, tokens, most: 1, most_tokens: 20 });
    assert_eq!(ask(&mut s, 1, 100), full(2, 20), "too many tokens");
    run(&mut s);
    assert_eq!((s.running(), s.waiting()), (2, 0));
    let id = ask(&mut s, 99, 100).unwrap();
    assert_eq!(id.0, 2, "one alone may have more, and who was refused left nothing behind");
    assert_eq!((s.waiting(), s.waiting_tokens()), (1, 99));
    assert_eq!(ask(&mut s, 1, 100), full(1, 99));
    assert!(s.cancel(Id(0)));
    assert_eq!(ask(&mut s, 1, 100), full(1, 99), "there is a place, but the tokens wait still");
    run(&mut s);
    ask(&mut s, 1, 100).unwrap();
    assert_eq!(ask(&mut s, 1, 100), full(1, 1));
}

#[test]
fn a_group_leaves_room_for_others() {
    let limits = Limits { tokens: 8, running: 2, pages: 9, waiting: 8, waiting_tokens: 1000, ..Limits::default() };
    let flood = |s: &mut Scheduler, group, tokens| {
        let ask = || Ask { tokens: vec![0; tokens], longest: 100, group, ..Ask::default() };
        (0..20).find_map(|n| s.admit(ask()).err().map(|e| (n, e))).unwrap()
    };
    let mut s = Scheduler::new(limits);
    assert_eq!(flood(&mut s, 1, 1), (6, Refused::Share { waiting: 6, tokens: 6 }), "two run at once, four wait");
    run(&mut s);
    assert_eq!(flood(&mut s, 1, 1).0, 0, "those that run do not wait");
    assert_eq!(flood(&mut s, 2, 1), (2, Refused::Share { waiting: 2, tokens: 2 }));
    assert_eq!(flood(&mut s, 3, 1).0, 1, "the third finds room too");
    assert!(matches!(flood(&mut s, 0, 1), (1, Refused::Full { waiting: 8, .. })), "who has no name may take the rest");
    let mut s = Scheduler::new(limits);
    assert_eq!(flood(&mut s, 1, 99), (5, Refused::Share { waiting: 5, tokens: 495 }), "tokens likewise");
    assert_eq!(flood(&mut s, 2, 99).0, 3);
}

#[test]
fn newcomers_leave_a_page_to_each_that_runs() {
    let mut s = scheduler(1000, 9, 3);
    ask(&mut s, 1, 10).unwrap();
    ask(&mut s, 2 * PAGE, 2 * PAGE).unwrap();
    ask(&mut s, 1, 10).unwrap();
    assert_eq!(run(&mut s), [(0, 0, 1, true)], "two pages are free but one is kept, and nobody overtakes");
    assert_eq!((s.running(), s.waiting()), (1, 2));
}

#[test]
fn a_forgotten_step_is_decided_again() {
    let mut s = scheduler(8, 9, 9);
    ask(&mut s, 20, 30).unwrap();
    ask(&mut s, 5, 30).unwrap();
    run(&mut s);
    let first: Vec<_> = s.step().shares().map(|x| (x.id, x.start, x.len)).collect();
    let again: Vec<_> = s.step().shares().map(|x| (x.id, x.start, x.len)).collect();
    assert_eq!(first, again);
    assert_eq!(first, [(Id(0), 4, 7), (Id(1), 4, 1)]);
}

#[test]
fn a_restart_computes_everything_again() {
    let mut s = scheduler(8, 9, 9);
    let id = ask(&mut s, 3, 30).unwrap();
    run(&mut s);
    s.restart(id, vec![]);
    assert_eq!(run(&mut s), [(0, 0, 4, true)]);
    assert_eq!(run(&mut s), [(0, 4, 1, true)]);
    s.restart(Id(7), vec![]);
    s.restart(id, vec![]);
    assert!(s.cancel(id));
    assert_eq!((s.pages().free(), s.slots.len()), (9, 1));
}

#[test]
#[should_panic(expected = "grew past")]
fn growth_past_the_promise_is_a_bug() {
    let mut s = scheduler(8, 9, 9);
    let id = ask(&mut s, 1, 2).unwrap();
    run(&mut s);
    grow(&mut s, id, 1);
}

#[test]
fn what_was_computed_is_found() {
    let mut s = sharing(1000, 4, 20);
    let first = ask(&mut s, 200, 300).unwrap();
    assert_eq!(run(&mut s), [(0, 0, 200, true)]);
    let second = ask(&mut s, 200, 300).unwrap();
    assert_eq!(run(&mut s), [(0, 200, 1, true), (1, 192, 8, true)]);
    assert_eq!((s.found(first), s.found(second)), (0, 192));
    assert_eq!(s.table(first)[..3], s.table(second)[..3]);
    assert_ne!(s.table(first)[3], s.table(second)[3]);
    assert!(s.cancel(first) && s.cancel(second));
    assert_eq!((s.pages().free(), s.pages().cached()), (20, 3));
    let whole = ask(&mut s, 192, 300).unwrap();
    assert_eq!(run(&mut s), [(2, 128, 64, true)], "the last token is always computed");
    let other = Ask { tokens: (0..200).collect(), longest: 300, kind: vec![7], ..Ask::default() };
    let other = s.admit(other).unwrap();
    assert_eq!(run(&mut s)[1], (3, 0, 200, true), "of another kind");
    assert!(s.cancel(whole) && s.cancel(other));
    let counters = Counters { prompt_tokens: 792, cached_tokens: 320, evictions: 0, preemptions: 0 };
    assert_eq!(s.counters(), counters);
    assert_eq!((s.pages().free(), s.pages().cached()), (20, 6));
    ask(&mut s, 1100, 1280).unwrap();
    assert_eq!(run(&mut s), [(4, 192, 908, true)]);
    assert_eq!((s.counters().evictions, s.pages().cached()), (1, 2), "it needed one more page than had no content");
}

#[test]
fn requests_that_come_together_compute_once() {
    let mut s = sharing(512, 16, 200);
    for _ in 0..10 {
        ask(&mut s, 640, 700).unwrap();
    }
    let rows: usize = std::iter::from_fn(|| Some(run(&mut s))).take(4).flatten().map(|x| x.2).sum();
    assert!(s.running.iter().all(|e| e.tokens.len() > 640));
    assert!(rows < 640 + 10 * 64 + 4 * 10, "{rows} rows: the last page is computed by each, as its last token must be");
    let tables: BTreeSet<u32> = s.running.iter().flat_map(|e| e.table.iter().copied()).collect();
    assert!(tables.len() <= 10 + 10, "ten pages that all have, and one of its own for each");
}

#[test]
fn who_gave_way_finds_its_own_pages() {
    let mut s = sharing(1000, 4, 8);
    ask(&mut s, 3 * PAGE, 8 * PAGE).unwrap();
    s.admit(Ask { tokens: vec![9; 3 * PAGE], longest: 4 * PAGE, ..Ask::default() }).unwrap();
    run(&mut s);
    grow(&mut s, Id(0), 2 * PAGE);
    assert_eq!(run(&mut s), [(0, 192, 129, true)]);
    assert_eq!(
        (s.waiting(), s.counters().preemptions, s.counters().evictions),
        (1, 1, 1),
        "a page of the preempted went"
    );
    assert!(s.cancel(Id(0)));
    assert_eq!(run(&mut s), [(1, 128, 65, true)]);
    assert_eq!(s.counters().prompt_tokens, 384);
    assert_eq!((s.found(Id(1)), s.counters().cached_tokens), (0, 0), "its own are not counted");
}

#[test]
fn what_is_out_of_sight_is_given_back() {
    for share in [None, Some(0)] {
        let limits = Limits { tokens: 100, running: 2, pages: 9, window: Some(70), share, ..Limits::default() };
        let mut s = Scheduler::new(limits);
        let id = ask(&mut s, 400, 500).unwrap();
        let held = |s: &Scheduler| s.table(id).iter().map(|p| usize::from(*p != HOLE)).collect::<Vec<_>>();
        run(&mut s);
        assert_eq!(held(&s), [1; 7]);
        for _ in 0..3 {
            run(&mut s);
        }
        // The token at 400 sees those from 331 on, in the page from 320 on.
        assert_eq!(run(&mut s), [(0, 400, 1, true)]);
        assert_eq!(held(&s), [0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((s.pages().free(), s.pages().cached()), (7, if share.is_some() { 5 } else { 0 }));
        // What was given back is found as long as it is there.
        let other = ask(&mut s, 390, 500).unwrap();
        run(&mut s);
        assert_eq!(s.found(other), if share.is_some() { 384 } else { 0 });
        assert!(s.cancel(id) && s.cancel(other));
        assert_eq!(s.pages().free(), 9);
    }
}

#[test]
fn priorities_come_first() {
    let mut s = scheduler(100, 2, 4);
    let admit = |s: &mut Scheduler, priority, tokens| {
        s.admit(Ask { tokens: vec![1; tokens], longest: 200, priority, ..Ask::default() }).unwrap().0
    };
    let (a, b) = (admit(&mut s, 0, 10), admit(&mut s, -1, 10));
    run(&mut s);
    let (c, d, e) = (admit(&mut s, 0, 5), admit(&mut s, 1, 5), admit(&mut s, 1, 150));
    let order = |s: &mut Scheduler| run(s).iter().map(|x| x.0).collect::<Vec<_>>();
    assert_eq!(order(&mut s), [d, a], "the lowest gives way to the first, and nobody to who would not fit");
    assert!(s.cancel(Id(d)));
    assert_eq!(order(&mut s), [e]);
    assert!(s.cancel(Id(e)));
    assert_eq!(order(&mut s), [a, c]);
    assert!(s.cancel(Id(a)));
    assert_eq!(order(&mut s), [c, b]);
}

#[test]
fn groups_are_served_in_turn() {
    let mut s = scheduler(1000, 1, 100);
    let admit = |s: &mut Scheduler, group, tokens| {
        s.admit(Ask { tokens: vec![1; tokens], longest: 500, group, ..Ask::default() }).unwrap()
    };
    // One asks for much at once, the other for one thing at a time.
    for _ in 0..6 {
        admit(&mut s, 1, 100);
    }
    let mut order = Vec::new();
    for _ in 0..4 {
        admit(&mut s, 2, 100);
        for _ in 0..2 {
            let id = Id(run(&mut s)[0].0);
            order.push(s.entry(id).unwrap().group);
            assert!(s.cancel(id));
        }
    }
    assert_eq!(order, [1, 2, 1, 2, 1, 2, 1, 2]);
}

/// Others of smaller counters come without end, and of all sizes: the one that waits is served.
#[test]
fn a_group_that_had_much_is_not_forgotten() {
    let mut s = scheduler(64, 2, 40);
    let admit = |s: &mut Scheduler, group, tokens| {
        s.admit(Ask { tokens: vec![1; tokens], longest: 640, group, ..Ask::default() }).unwrap()
    };
    let glutton = admit(&mut s, 0, 600);
    while run(&mut s)[0].3 as usize == 0 {}
    s.cancel(glutton);
    admit(&mut s, 1, 10);
    admit(&mut s, 2, 10);
    run(&mut s);
    let waits = admit(&mut s, 0, 600);
    let came = (0..200usize).find(|&step| {
        for group in 1..5 {
            admit(&mut s, group, 1 + step % 60);
        }
        run(&mut s);
        let done: Vec<Id> = s.running.iter().filter(|e| e.id != waits && e.rest() < 2).map(|e| e.id).collect();
        done.into_iter().for_each(|id| assert!(s.cancel(id)));
        s.running.iter().any(|e| e.id == waits)
    });
    assert!(came.is_some());
}

/// What a bystander knows about one request.
struct Watch {
    tokens: Vec<u32>,
    kind: u32,
    priority: i32,
    goal: usize,
    computed: usize,
    guesses: usize,
    /// That it had in its last share.
    slot: Option<u32>,
    /// Where the positions go on whose logits are wanted, and where they end.
    asked: (usize, usize),
}

/// Everything as it is seen from outside.
struct World {
    s: Scheduler,
    budget: usize,
    running: usize,
    share: Option<usize>,
    checkpoints: Option<usize>,
    window: Option<usize>,
    /// What the states in each slot and each checkpoint are of.
    states: [BTreeMap<u32, Vec<u32>>; 2],
    seen: BTreeMap<Id, Watch>,
    /// What was written to each place of the cache: the kind, and all tokens that it depends on.
    memory: Vec<Vec<u32>>,
}

impl Watch {
    /// What its place `p` depends on, if that has so many tokens after it.
    fn content(&self, p: usize, ahead: usize) -> Vec<u32> {
        [self.kind].iter().chain(&self.tokens[..(p + 1 + ahead).min(self.tokens.len())]).copied().collect()
    }
}

impl World {
    /// Checks a step against what is known from outside, and commits it.
    fn watch(&mut self) -> usize {
        let (ahead, preemptions) = (self.share.unwrap_or(0), self.s.counters().preemptions);
        let was_running: Vec<Id> = self.s.running.iter().map(|e| e.id).collect();
        let step = self.s.step();
        let (mut total, mut outputs, mut held, mut shares, mut slots) =
            (0, 0, BTreeMap::new(), Vec::new(), BTreeSet::new());
        for share in step.shares() {
            let w = &self.seen[&share.id];
            assert_eq!(share.tokens, w.tokens);
            assert!(share.len >= 1);
            let goes_on = share.start == w.computed || share.start == 0;
            assert!(goes_on || self.share.is_some() && share.start % PAGE == 0, "begins where nothing stands");
            assert!(share.start + share.len <= w.tokens.len());
            assert_eq!(share.ends, share.start + share.len == w.tokens.len());
            let all = share.len + share.tried;
            assert!(
                share.tried == 0 || share.ends && share.tried <= w.guesses && w.tokens.len() + share.tried <= w.goal
            );
            assert!(share.pages.len() >= pages_for(share.start + all));
            let seen = self.window.map_or(0, |w| (share.start + 1).saturating_sub(w));
            assert!(share.pages[seen / PAGE..].iter().all(|p| *p != HOLE));
            for (at, &page) in share.pages.iter().enumerate().filter(|(_, p)| **p != HOLE) {
                let others = held.insert(page, at);
                assert!(others.is_none_or(|o| o == at && self.share.is_some()), "a page in two places");
            }
            assert!((share.slot as usize) < self.running && slots.insert(share.slot), "a slot of two who run");
            assert!(w.slot.is_none() || share.start == 0 || self.share.is_some() || w.slot == Some(share.slot));
            if self.checkpoints.is_some() {
                if let Some(number) = share.resume {
                    let kept = self.states[1][&number].clone();
                    self.states[0].insert(share.slot, kept);
                }
                let want = if share.start > 0 { w.content(share.start - 1, 0) } else { vec![] };
                assert!(share.start == 0 || self.states[0][&share.slot] == want, "a slot holds another sequence");
                self.states[0].insert(share.slot, w.content(share.start + share.len - 1, 0));
            }
            assert!(share.resume.is_none() || self.checkpoints.is_some());
            let place = |p: usize| share.pages[p / PAGE] as usize * PAGE + p % PAGE;
            for p in seen..share.start {
                assert_eq!(self.memory[place(p)], w.content(p, ahead), "the page of {p} is not what its holder thinks");
            }
            total += all;
            outputs += if share.ends { 1 + share.tried } else { 0 } + share.asked.1 - share.asked.0;
            let pages = share.pages.to_vec();
            let due = w.asked.0.max(share.start)..w.asked.1.min(share.start + share.len);
            assert_eq!(due.len(), share.asked.1 - share.asked.0);
            assert!(due.is_empty() || due.start == w.asked.0 && share.asked.0 == w.asked.0, "each once, in order");
            shares.push((share.id, share.start, share.len, share.ends, share.tried, share.slot, pages));
        }
        assert!(total <= self.budget && shares.len() <= self.running);
        assert!(outputs <= self.s.limits.outputs);
        let rank = |id: &Id| (Reverse(self.seen[id].priority), *id);
        assert!(shares.iter().map(|x| rank(&x.0)).is_sorted(), "by priority, then in order of arrival");
        let gave_way = (self.s.counters().preemptions - preemptions) as usize;
        let moved = was_running.len().saturating_sub(gave_way);
        assert!(was_running[..moved].iter().all(|id| shares.iter().any(|x| x.0 == *id)), "everyone who runs moves on");
        let (free, all) = (self.s.pages().free(), self.s.pages().total());
        assert_eq!(free + held.len(), all, "every page is free or in the table of one that runs");
        assert_eq!(shares.is_empty(), self.seen.is_empty(), "something moves on");
        // Places that this step writes are of one sequence.
        let mut written = BTreeSet::new();
        for (id, start, len, _, tried, _, pages) in &shares {
            for p in *start..start + len + tried {
                let place = pages[p / PAGE] as usize * PAGE + p % PAGE;
                assert!(written.insert(place), "two write one place");
                let w = &self.seen[id];
                self.memory[place] = if p < start + len { w.content(p, ahead) } else { vec![u32::MAX] };
            }
            let begun = |p: &usize| pages[p / PAGE] as usize * PAGE + p % PAGE;
            let seen = self.window.map_or(0, |w| (start + 1).saturating_sub(w));
            assert!((seen..*start).all(|p| !written.contains(&begun(&p))), "somebody writes what another one reads");
        }
        for (id, start, len, ends, tried, slot, pages) in shares {
            // Every other guess is right.
            let w = self.seen.get_mut(&id).unwrap();
            let right = if (start + len) % 2 == 0 { tried } else { 0 };
            let more = if ends { (1 + right).min(w.goal - w.tokens.len()) } else { 0 };
            for _ in 0..more {
                // Few tokens, so that sequences go on alike.
                let token = (w.tokens.len() % 2) as u32;
                w.tokens.push(token);
                self.s.append(id, token);
            }
            (w.computed, w.slot) = (start + len + more.saturating_sub(1), Some(slot));
            w.asked.0 = w.asked.0.max(start + len).min(w.asked.1);
            assert!(!ends || w.asked.0 == w.asked.1, "none was left out");
            self.s.commit(id);
            let w = &self.seen[&id];
            // A page that depends on what follows is complete now.
            for p in start..w.computed {
                self.memory[pages[p / PAGE] as usize * PAGE + p % PAGE] = w.content(p, ahead);
            }
            self.s.share(id);
            if let Some((of, position, number)) = self.s.checkpoint(id) {
                assert!(of == slot && position == start + len && (number as usize) < self.checkpoints.unwrap());
                let state = self.states[0][&slot].clone();
                self.states[1].insert(number, state);
            }
            let w = self.seen.get_mut(&id).unwrap();
            w.guesses = if self.checkpoints.is_none() { (w.tokens.len() + start) % 4 % 3 } else { 0 };
            w.guesses = self.s.expect(id, w.guesses);
            if ends && more == 0 {
                assert!(self.s.cancel(id));
                self.seen.remove(&id);
            } else if ends && w.tokens.len().is_multiple_of(31) {
                w.kind += 1;
                self.s.restart(id, vec![w.kind]);
                (w.computed, w.guesses) = (0, 0);
            }
        }
        for (id, w) in &mut self.seen {
            if !self.s.running.iter().any(|e| e.id == *id) {
                (w.computed, w.guesses) = (0, 0);
            }
        }
        total
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    /// Random arrivals, cancellations and steps: budget kept, no page lost, none shared that is not what its holders
    /// think, everyone finishes.
    #[test]
    fn every_request_finishes(
        (budget, running, total) in (1..100usize, 1..8usize, 1..10usize),
        share in prop::option::of(0..2usize), checkpoints in prop::option::of(0..4usize),
        window in prop::option::of(1..200usize), outputs in 0..6usize,
        ops in prop::collection::vec((0..6u8, 1..400usize, 1..400usize, 0..3u64, -1..2i32), 1..60),
    ) {
        let limits = Limits { tokens: budget, running, pages: total, outputs, share, checkpoints, window, ..Limits::default() };
        let memory = vec![Vec::new(); total * PAGE];
        let mut world = World {
            s: Scheduler::new(limits),
            budget,
            running,
            share,
            checkpoints,
            window,
            states: [BTreeMap::new(), BTreeMap::new()],
            seen: BTreeMap::new(),
            memory,
        };
        let (mut promised, room) = (0, total * PAGE);
        for (op, a, b, group, priority) in ops {
            match op {
                0 | 1 => {
                    let (known, goal) = (a.min(b), a.max(b));
                    // Some begin alike.
                    let tokens: Vec<u32> = (0..known).map(|i| if i < 100 * (a % 3) { i as u32 % 5 } else { b as u32 }).collect();
                    let (kind, all) = (u32::from(a % 7 == 0), b % 3 == 0);
                    let ask = Ask { tokens: tokens.clone(), longest: goal, group, priority, kind: vec![kind], all };
                    match world.s.admit(ask) {
                        Ok(id) => {
                            prop_assert!(goal <= room);
                            promised += goal;
                            let (computed, guesses, slot) = (0, 0, None);
                            let asked = (0, if all { known - 1 } else { 0 });
                            world.seen.insert(id, Watch { tokens, kind, priority, goal, computed, guesses, slot, asked });
                        }
                        Err(e) => prop_assert_eq!(e, Refused::TooLong { longest: goal, room }),
                    }
                }
                2 => {
                    let pick = world.seen.keys().nth(a % world.seen.len().max(1)).copied();
                    if let Some(id) = pick {
                        let forgotten = world.s.step().shares().count();
                        prop_assert!(forgotten <= running);
                        prop_assert!(world.s.cancel(id));
                        world.seen.remove(&id);
                        for (id, w) in &mut world.seen {
                            w.computed = world.s.entry(*id).unwrap().computed;
                        }
                    }
                }
                _ => { world.watch(); }
            }
            prop_assert_eq!(world.s.running() + world.s.waiting(), world.seen.len());
        }
        // Each step computes something that is not void later, or restarts one, which happens once in 31 tokens.
        for _ in 0..promised * 20 {
            if world.seen.is_empty() { break; }
            prop_assert!(world.watch() > 0);
        }
        prop_assert!(world.seen.is_empty(), "somebody starved");
        let s = &mut world.s;
        prop_assert_eq!(s.pages().free(), total);
        prop_assert_eq!(s.step().shares().count(), 0);
    }
}
