//! What a guest finds around it: one file a capability. What is not granted is not linked.

pub mod aside;
mod bucket;
mod http;
mod lines;
pub mod log;
mod logging;
pub mod memory;
pub mod outbound;
mod pressure;
pub mod share;
mod stdio;
pub mod turns;

use std::sync::Arc;

use podless_engine::Flavour;
use tokio::task::yield_now;
use wasmtime::{
    Engine, Store, UpdateDeadline,
    component::{HasData, Linker, ResourceTable},
};
use wasmtime_wasi::{
    WasiCtx, WasiCtxView, WasiView,
    cli::{WasiCli, WasiCliView},
    clocks::{WasiClocks, WasiClocksView},
    filesystem::{WasiFilesystem, WasiFilesystemView},
    p2::bindings as p2,
    random::WasiRandom,
    sockets::{WasiSockets, WasiSocketsView},
};
use wasmtime_wasi_http::{WasiHttp, WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use self::{
    http::Hooks,
    log::{ServiceLog, Stream},
    memory::{Limits, ServiceMemory},
    outbound::Outbound,
    stdio::Output,
};

/// Most handles (requests, bodies, streams, …) that a guest may hold at once.
const HANDLES: usize = 1024;
/// Most random bytes of one call.
const RANDOM: u64 = 64 << 10;
/// Most bytes that one call may hand to the shim.
const CALL_BYTES: usize = 2 << 20;

/// What the shim keeps for one instance.
pub struct Guest {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Hooks,
    table: ResourceTable,
    limits: Limits,
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

/// What the instances of one generation of a service find around them.
pub struct Surroundings {
    /// The environment. Its values may be secrets: never logged.
    pub env: Vec<(String, String)>,
    /// Most linear memory of one instance, in bytes.
    pub instance_memory: usize,
    /// What all instances of the service have.
    pub memory: Arc<ServiceMemory>,
    /// Where the service logs.
    pub log: Arc<ServiceLog>,
    /// The way to other servers, when it is granted.
    pub outbound: Option<Arc<Outbound>>,
}

/// A store for one fresh instance: its environment and its limits are set, nothing has run in it.
pub fn store(engine: &Engine, surroundings: &Surroundings) -> Store<Guest> {
    let Surroundings { env, instance_memory, memory, log, outbound } = surroundings;
    let wasi = WasiCtx::builder()
        .envs(env)
        .stdout(Output::new(log.clone(), Stream::Stdout))
        .stderr(Output::new(log.clone(), Stream::Stderr))
        .max_random_size(RANDOM)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .build();
    let mut table = ResourceTable::new();
    table.set_max_capacity(HANDLES);
    let limits = Limits::new(*instance_memory, memory.clone());
    let guest = Guest { wasi, http: http::context(), hooks: Hooks(outbound.clone()), table, limits, log: log.clone() };
    let mut store = Store::new(engine, guest);
    store.limiter_async(|guest| &mut guest.limits);
    store.set_hostcall_fuel(CALL_BYTES);
    // Each tick of the epoch a running guest gives its thread away: none can keep a core. Tokio's own way of yielding
    // lets every other task, and what waits on sockets, go first; Wasmtime's would only go to the end of the queue.
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(yield_now()))));
    store.set_epoch_deadline(1);
    store
}

/// What a component may be granted beyond answering requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// `wasi:logging`.
    pub logging: bool,
    /// Requests to other servers.
    pub outbound: bool,
}

/// Everything that may be linked on one engine, once for each set of grants.
pub struct Linkers {
    plain: Linker<Guest>,
    logging: Linker<Guest>,
    outbound: Linker<Guest>,
    both: Linker<Guest>,
}

impl Linkers {
    /// Makes the linkers for the engine of this flavour. That of WASI 0.2 has nothing of 0.3.
    pub fn new(engine: &Engine, flavour: Flavour) -> wasmtime::Result<Self> {
        let mut plain = Linker::new(engine);
        add_p2(&mut plain)?;
        let mut outbound = plain.clone();
        add_outbound_p2(&mut outbound)?;
        if flavour == Flavour::P3 {
            add_p3(&mut plain)?;
            add_p3(&mut outbound)?;
            add_outbound_p3(&mut outbound)?;
        }
        let (mut logging, mut both) = (plain.clone(), outbound.clone());
        logging::add(&mut logging)?;
        logging::add(&mut both)?;
        Ok(Self { plain, logging, outbound, both })
    }

    /// The linker that has what is granted.
    pub fn granted(&self, granted: Granted) -> &Linker<Guest> {
        match granted {
            Granted { logging: false, outbound: false } => &self.plain,
            Granted { logging: true, outbound: false } => &self.logging,
            Granted { logging: false, outbound: true } => &self.outbound,
            Granted { logging: true, outbound: true } => &self.both,
        }
    }
}

struct Io;

impl HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

/// WASI 0.2 without outgoing requests. The filesystem is there, and empty.
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
    http::http::types::add_to_linker::<_, WasiHttp>(l, &http::LinkOptions::default().into(), Guest::http)?;
    add_inert_sockets(l)
}

/// Sockets, because Python imports them unasked: the guest's context allows no protocol and no look-up of names, so that
/// none can be made.
fn add_inert_sockets(l: &mut Linker<Guest>) -> wasmtime::Result<()> {
    use p2::sockets;

    let options = sockets::network::LinkOptions::default();
    sockets::network::add_to_linker::<_, WasiSockets>(l, &options, Guest::sockets)?;
    sockets::instance_network::add_to_linker::<_, WasiSockets>(l, Guest::sockets)?;
    sockets::ip_name_lookup::add_to_linker::<_, WasiSockets>(l, Guest::sockets)?;
    sockets::tcp::add_to_linker::<_, WasiSockets>(l, Guest::sockets)?;
    sockets::tcp_create_socket::add_to_linker::<_, WasiSockets>(l, Guest::sockets)?;
    sockets::udp::add_to_linker::<_, WasiSockets>(l, Guest::sockets)?;
    sockets::udp_create_socket::add_to_linker::<_, WasiSockets>(l, Guest::sockets)
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

/// Requests to other servers, by WASI 0.2.
fn add_outbound_p2(l: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::bindings::http::outgoing_handler::add_to_linker::<_, WasiHttp>(l, Guest::http)
}

/// The same by WASI 0.3.
fn add_outbound_p3(l: &mut Linker<Guest>) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p3::bindings::http::client::add_to_linker::<_, WasiHttp>(l, Guest::http)
}
