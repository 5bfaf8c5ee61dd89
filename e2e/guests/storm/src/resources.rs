//! Whatever an instance can have more and more of, until it may not.

use std::{hint::black_box, process};

use wasip2::http::types::Fields;

/// Linear memory: every page of it is written to.
pub(crate) fn memory() -> ! {
    let mut all = vec![];
    loop {
        let mut more = Vec::<u8>::new();
        if more.try_reserve_exact(1 << 20).is_err() {
            process::abort();
        }
        more.resize(1 << 20, 1);
        all.push(black_box(more));
    }
}

/// Handles of the shim's.
pub(crate) fn handles() -> ! {
    let mut all = vec![];
    loop {
        all.push(Fields::new());
    }
}

/// The shim's own memory: as much behind each handle as goes there.
pub(crate) fn hoard() -> ! {
    let mut all = vec![];
    loop {
        let fields = Fields::new();
        let value = vec![b'x'; 60 << 10];
        fields.append("hoard", &value).expect("it fits");
        all.push(fields);
    }
}

/// The stack.
#[expect(unconditional_recursion, reason = "that is what it is for")]
pub(crate) fn stack(depth: u64) -> u64 {
    let here = black_box([depth; 16]);
    stack(depth + 1) + black_box(here)[0]
}
