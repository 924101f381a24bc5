//! Batches that break a rule: a typed error each, and the plan goes on as if nothing had been asked.

use crate::{LIMITS, POSITIONS, Step, VOCAB, compile, sequence};
use alula_device::{Cpu, DeviceError};
use alula_tensor::DType;

/// What is changed in a right batch, and what the error says.
type Case = (fn(&mut Step), &'static str);

/// The batch: rows 0..40 are tokens 60..100 of a sequence, rows 40..50 the first of another.
const CASES: &[Case] = &[
    (|s| *s = Step::default(), "the number of tokens is 0 or over the plan's limit"),
    (|s| s.tokens.resize(LIMITS.tokens + 1, 0), "the number of tokens is 0 or over the plan's limit"),
    (|s| _ = s.positions.pop(), "one position per token"),
    (|s| s.positions.push(10), "one position per token"),
    (|s| s.outputs = vec![0; LIMITS.outputs + 1], "more outputs than the plan's limit"),
    (|s| s.outputs.push(50), "an output is not a row"),
    (|s| s.outputs[3] = u32::MAX, "an output is not a row"),
    (|s| s.runs.clear(), "sequences must cover all rows"),
    (|s| _ = s.runs.pop(), "sequences must cover all rows"),
    (|s| _ = s.runs.remove(0), "sequences must cover the rows in order"),
    (|s| s.runs.swap(0, 1), "sequences must cover the rows in order"),
    (|s| s.runs[1].start = 39, "sequences must cover the rows in order"),
    (|s| s.runs[1].len = 11, "sequences must cover the rows in order"),
    (|s| s.runs[1].len = usize::MAX, "sequences must cover the rows in order"),
    (|s| s.runs[1].len = 9, "sequences must cover all rows"),
    (|s| s.runs[0].len = 0, "sequences must cover the rows in order"),
    (|s| s.positions[20] = 0, "positions must ascend by one"),
    (|s| s.positions[49] = 8, "positions must ascend by one"),
    (|s| s.positions[39] = 100, "positions must ascend by one"),
    (|s| s.runs[0].length = 99, "longer than its length"),
    (|s| (0..10).for_each(|i| s.positions[40 + i] = 141 + i as u32), "longer than its length"),
    (
        |s| {
            (0..10).for_each(|i| s.positions[40 + i] = 141 + i as u32);
            s.runs[1].length = 151;
        },
        "past the context",
    ),
    (
        |s| {
            (0..10).for_each(|i| s.positions[40 + i] = u32::MAX - 9 + i as u32);
            s.runs[1].length = usize::MAX;
        },
        "past the context",
    ),
    (|s| _ = s.runs[0].pages.pop(), "a page table is too short"),
    (|s| s.runs[1].pages.clear(), "a page table is too short"),
    (|s| s.runs[1].pages[0] = LIMITS.pages as u32, "a page does not exist"),
    (|s| s.runs[1].pages.push(u32::MAX), "a page does not exist"),
    (|s| s.runs[1].pages[0] = s.runs[0].pages[1], "two rows have one place in the cache"),
    (|s| s.tokens[7] = VOCAB as u32, "id 50 is not below 50"),
    (|s| s.tokens[49] = u32::MAX, "id 4294967295 is not below 50"),
    (
        |s| {
            (0..10).for_each(|i| s.positions[40 + i] = (POSITIONS - 9 + i) as u32);
            s.runs[1] = crate::Run { length: 150, pages: vec![1, 2, 3], ..s.runs[1] };
        },
        "id 140 is not below 140",
    ),
];

#[test]
fn every_broken_rule_has_its_error() {
    let (a, b) = (sequence(1, 120), sequence(2, 30));
    let mut plan = compile(Cpu::pick(None).expect("a level"), 2, DType::Q8_0, LIMITS);
    let mut first = Step::default();
    first.add(&a, 0..60, &[4, 6]);
    first.run(&mut *plan).expect("a result");
    let mut right = Step::default();
    right.add(&a, 60..100, &[4, 6]);
    right.add(&b, 0..10, &[1]);
    let want = right.run(&mut *plan).expect("a result");
    for (i, (change, message)) in CASES.iter().enumerate() {
        let mut wrong = right.clone();
        change(&mut wrong);
        match wrong.run(&mut *plan) {
            Err(DeviceError::Batch(why)) => assert!(why.contains(message), "case {i}: {why}"),
            other => panic!("case {i} ({message}): {:?}", other.map(|x| x.len())),
        }
        assert_eq!(right.run(&mut *plan).expect("a result"), want, "after case {i}");
    }
}

#[test]
fn what_looks_odd_but_is_right() {
    let (a, b) = (sequence(1, 130), sequence(2, 30));
    let mut plan = compile(Cpu::pick(None).expect("a level"), 2, DType::BF16, LIMITS);
    let mut whole = Step::default();
    whole.add(&a, 0..130, &[4, 6, 2]);
    let want = whole.run(&mut *plan).expect("a result");
    // Two runs of one sequence in a step; tables longer than needed, with a page that others write.
    let mut two = Step::default();
    two.add(&a, 0..65, &[4, 6, 2, 1]);
    two.add(&b, 0..30, &[1, 4]);
    two.add(&a, 65..130, &[4, 6, 2]);
    assert!(two.outputs.len() == LIMITS.tokens);
    let got = two.run(&mut *plan).expect("a result");
    assert_eq!(got[..65 * VOCAB], want[..65 * VOCAB]);
    assert_eq!(got[95 * VOCAB..], want[65 * VOCAB..]);
    // Outputs in any order, and twice.
    whole.outputs = vec![129, 3, 3];
    let got = whole.run(&mut *plan).expect("a result");
    for (got, row) in got.chunks(VOCAB).zip([129, 3, 3]) {
        assert_eq!(got, &want[row * VOCAB..][..VOCAB]);
    }
    // A sequence may begin in a page that another one filled: the first 64 tokens are shared.
    let mut shared = Step::default();
    shared.add(&a, 64..130, &[4, 0, 3]);
    assert_eq!(shared.run(&mut *plan).expect("a result"), want[64 * VOCAB..]);
}
