//! What a guest finds around it: one file a capability. What is not granted is not linked.

mod bucket;
mod http;
mod lines;
pub(crate) mod log;
mod logging;
mod stdio;

use std::sync::Arc;

use podless_engine::{MAX_PARTS, MAX_TABLE_ELEMENTS};
use tokio::task::yield_now;
use wasmtime::{
    Engine, Store, StoreLimits, StoreLimitsBuilder, UpdateDeadline,
    component::{HasData, Linker, ResourceTable},
};
use wasmtime_wasi::{
    WasiCtx, WasiCtxView, WasiView,
    cli::{WasiCli, WasiCliView},
    clocks::{WasiClocks, WasiClocksView},
    filesystem::{WasiFilesystem, WasiFilesystemView},
    p2::bindings as p2,
    random::WasiRandom,
};
use wasmtime_wasi_http::{WasiHttp, WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use self::{
    http::NoWayOut,
    log::{ServiceLog, Stream},
    stdio::Output,
};

/// Most handles (requests, bodies, streams, …) that a guest may hold at once.
const HANDLES: usize = 1024;
/// Most random bytes of one call.
const RANDOM: u64 = 64 << 10;
/// Most bytes that one call may hand to the shim.
const CALL_BYTES: usize = 2 << 20;

/// What the shim keeps for one instance.
pub(crate) struct Guest {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: NoWayOut,
    table: ResourceTable,
    limits: StoreLimits,
    log: Arc<ServiceLog>,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

/// A store for one fresh instance: its environment and its limits are set, nothing has run in it.
pub(crate) fn store(engine: &Engine, log: &Arc<ServiceLog>, env: &[(String, String)], memory: usize) -> Store<Guest> {
    let wasi = WasiCtx::builder()
        .envs(env)
        .stdout(Output::new(log.clone(), Stream::Stdout))
        .stderr(Output::new(log.clone(), Stream::Stderr))
        .max_random_size(RANDOM)
        .allow_tcp(false)
        .allow_udp(false)
        .build();
    let mut table = ResourceTable::new();
    table.set_max_capacity(HANDLES);
    let limits = StoreLimitsBuilder::new()
        .memory_size(memory)
        .instances(MAX_PARTS.instances)
        .tables(MAX_PARTS.tables)
        .memories(MAX_PARTS.memories)
        .table_elements(MAX_TABLE_ELEMENTS)
        .build();
    let guest = Guest { wasi, http: http::context(), hooks: NoWayOut, table, limits, log: log.clone() };
    let mut store = Store::new(engine, guest);
    store.limiter(|guest| &mut guest.limits);
    store.set_hostcall_fuel(CALL_BYTES);
    // Each tick of the epoch a running guest gives its thread away: none can keep a core. Tokio's own way of yielding
    // lets every other task, and what waits on sockets, go first; Wasmtime's would only go to the end of the queue.
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(yield_now()))));
    store.set_epoch_deadline(1);
    store
}

/// Everything that may be linked, once for each set of grants.
pub(crate) struct Linkers {
    plain: Linker<Guest>,
    logging: Linker<Guest>,
}

impl Linkers {
    /// Makes the linkers.
    pub(crate) fn new(engine: &Engine) -> wasmtime::Result<Self> {
        let mut plain = Linker::new(engine);
        add_p2(&mut plain)?;
        add_p3(&mut plain)?;
        let mut logging = plain.clone();
        logging::add(&mut logging)?;
        Ok(Self { plain, logging })
    }

    /// The linker that has what is granted.
    pub(crate) fn granted(&self, logging: bool) -> &Linker<Guest> {
        if logging { &self.logging } else { &self.plain }
    }
}

struct Io;

impl HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

/// WASI 0.2 without sockets and without outgoing requests. The filesystem is there, and empty.
fn add_p2(l: &mut Linker<Guest>) -> wasmtime::Result<()> {
    use wasmtime_wasi_http::p2::bindings as http;

    p2::io::error::add_to_linker::<_, Io>(l, |g| &mut g.table)?;
    p2::io::poll::add_to_linker::<_, Io>(l, |g| &mut g.table)?;
    p2::io::streams::add_to_linker::<_, Io>(l, |g| &mut g.table)?;
    p2::clocks::wall_clock::add_to_linker::<_, WasiClocks>(l, Guest::clocks)?;
    p2::clocks::monotonic_clock::add_to_linker::<_, WasiClocks>(l, Guest::clocks)?;
    p2::random::random::add_to_linker::<_, WasiRandom>(l, |g| g.wasi.random())?;
    p2::random::insecure::add_to_linker::<_, WasiRandom>(l, |g| g.wasi.random())?;
    p2::random::insecure_seed::add_to_linker::<_, WasiRandom>(l, |g| g.wasi.random())?;
    p2::filesystem::preopens::add_to_linker::<_, WasiFilesystem>(l, Guest::filesystem)?;
    p2::filesystem::types::add_to_linker::<_, WasiFilesystem>(l, Guest::filesystem)?;
    p2::cli::exit::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    p2::cli::environment::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    p2::cli::stdin::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    p2::cli::stdout::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    p2::cli::stderr::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    p2::cli::terminal_input::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    p2::cli::terminal_output::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    p2::cli::terminal_stdin::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    p2::cli::terminal_stdout::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    p2::cli::terminal_stderr::add_to_linker::<_, WasiCli>(l, Guest::cli)?;
    http::http::types::add_to_linker::<_, WasiHttp>(l, &http::LinkOptions::default().into(), Guest::http)
}

/// The same of WASI 0.3.
fn add_p3(l: &mut Linker<Guest>) -> wasmtime::Result<()> {
    use wasmtime_wasi::p3;

    p3::cli::add_to_linker(l)?;
    p3::clocks::add_to_linker(l)?;
    p3::filesystem::add_to_linker(l)?;
    p3::random::add_to_linker(l)?;
    wasmtime_wasi_http::p3::bindings::http::types::add_to_linker::<_, WasiHttp>(l, Guest::http)
}
