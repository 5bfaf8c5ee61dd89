//! Calls into the shim: more of them, larger ones, and for more than there is.

use std::hint::black_box;

use wasip2::{
    cli::stdout,
    clocks::monotonic_clock,
    http::{
        outgoing_handler,
        types::{Fields, OutgoingRequest, Scheme},
    },
    io, random,
};

/// Most bytes that the shim takes of a stream at once.
const PIECE: usize = 4096;

/// The cheapest call there is, without end.
pub(crate) fn clock() -> ! {
    loop {
        black_box(monotonic_clock::now());
    }
}

/// Makes handles and gives them up, without end.
pub(crate) fn churn() -> ! {
    loop {
        drop(black_box(Fields::new()));
    }
}

/// Waits, without end, for what is there already.
pub(crate) fn ready() -> ! {
    loop {
        monotonic_clock::subscribe_duration(0).block();
    }
}

/// The same for hundreds of things at once.
pub(crate) fn poll() -> ! {
    let all: Vec<_> = (0..400).map(|_| monotonic_clock::subscribe_duration(0)).collect();
    let all: Vec<_> = all.iter().collect();
    loop {
        black_box(io::poll::poll(&all));
    }
}

/// One call with more than a call may hand over.
pub(crate) fn large() {
    let value = vec![b'x'; 3 << 20];
    let _ = black_box(Fields::new().append("large", &value));
}

/// One call for more than there is at once.
pub(crate) fn random() {
    black_box(random::random::get_random_bytes(64 << 20));
}

/// Writes so many lines of this text.
pub(crate) fn log(lines: usize, line: &str) -> String {
    let (out, line) = (stdout::get_stdout(), format!("{line}\n"));
    let piece = line.repeat(PIECE / line.len());
    let mut left = lines * line.len();
    while left > 0 {
        let now = left.min(piece.len());
        out.blocking_write_and_flush(&piece.as_bytes()[..now]).expect("written");
        left -= now;
    }
    format!("{lines} lines\n")
}

/// Sends so many requests, and only then waits for the answers: how many came, and how many did not.
pub(crate) fn connect(requests: usize, to: &str) -> String {
    let sent: Vec<_> = (0..requests)
        .filter_map(|_| {
            let request = OutgoingRequest::new(Fields::new());
            request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
            request.set_authority(Some(to)).expect("a server");
            request.set_path_with_query(Some("/")).expect("a path");
            outgoing_handler::handle(request, None).ok()
        })
        .collect();
    let answered = sent.iter().filter(|answer| {
        answer.subscribe().block();
        matches!(answer.get(), Some(Ok(Ok(_))))
    });
    format!("{} of {requests}\n", answered.count())
}
