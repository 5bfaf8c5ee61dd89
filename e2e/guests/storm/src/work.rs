//! Work that never ends, in small steps and in the largest that there are.

use std::hint::black_box;

use wasip2::clocks::monotonic_clock;

/// Loops.
pub(crate) fn spin() -> ! {
    loop {
        black_box(());
    }
}

/// Fills this many MiB again and again, with one instruction each time.
pub(crate) fn fill(mebibytes: usize) -> ! {
    let mut memory = vec![1u8; mebibytes << 20];
    for value in (0..=u8::MAX).cycle() {
        black_box(&mut memory).fill(value);
    }
    unreachable!("it goes round")
}

/// Copies half of this many MiB onto the other half, likewise.
pub(crate) fn copy(mebibytes: usize) -> ! {
    let mut memory = vec![1u8; mebibytes << 20];
    let half = memory.len() / 2;
    loop {
        black_box(&mut memory).copy_within(..half, half);
        black_box(&mut memory).copy_within(half.., 0);
    }
}

/// How long, in microseconds, it takes to fill as much for the first time, which brings the pages; then the longest of some
/// more fills, and of copies. Nothing interrupts one.
pub(crate) fn strokes(mebibytes: usize) -> String {
    let timed = |stroke: &mut dyn FnMut()| {
        let start = monotonic_clock::now();
        stroke();
        (monotonic_clock::now() - start) / 1000
    };
    let mut memory = vec![];
    let first = timed(&mut || memory = black_box(vec![1u8; mebibytes << 20]));
    let half = memory.len() / 2;
    let mut longest =
        |stroke: &dyn Fn(&mut [u8])| (0..5).map(|_| timed(&mut || stroke(black_box(&mut memory)))).max().unwrap_or(0);
    let fill = longest(&|memory| memory.fill(7));
    let copy = longest(&|memory| memory.copy_within(..half, half));
    format!("{first} {fill} {copy}\n")
}
