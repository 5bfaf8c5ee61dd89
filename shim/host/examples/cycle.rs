//! The cycle of one request inside the process: an instance is made, answers, and is dropped. In: machine code of a
//! component of WASI 0.2; out: microseconds as JSON on stdout. IO: reads and copies files. `make bench` runs it on a core
//! of its own.
//!
//! `cycle CODE SERVICES CYCLES ROUNDS`: the shim's pool, Wasmtime's default pool and no pool, with the same code and the same
//! host around it, in turns; then the shim's pool again with so many services, each with code of its own.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use podless_engine::{Flavour, Pool, Target, config, runner};
use podless_host::{
    Granted, Guest, Linkers, Surroundings,
    log::{Lines, ServiceLog},
    memory::{NodeMemory, ServiceMemory},
};
use serde_json::json;
use tokio::sync::oneshot;
use wasmtime::{Engine, InstanceAllocationStrategy, PoolingAllocationConfig, component::Component};
use wasmtime_wasi_http::{
    WasiHttpView,
    p2::bindings::{ProxyPre, http::types::Scheme},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Slots of the shim's pool.
const INSTANCES: u32 = 4000;

/// A component, linked.
struct Service {
    engine: Engine,
    component: ProxyPre<Guest>,
    surroundings: Arc<Surroundings>,
}

impl Service {
    fn load(engine: &Engine, surroundings: &Arc<Surroundings>, code: &Path) -> Result<Self> {
        // SAFETY: `make guests` compiled it a moment ago, and nobody writes to it.
        #[expect(unsafe_code, reason = "Wasmtime cannot know that these bytes are its own compiler's")]
        let component = unsafe { Component::deserialize_file(engine, code) }?;
        let linkers = Linkers::new(engine, Flavour::P2)?;
        let component = ProxyPre::new(linkers.granted(Granted::default()).instantiate_pre(&component)?)?;
        Ok(Self { engine: engine.clone(), component, surroundings: surroundings.clone() })
    }

    /// One request: its answer's bytes.
    async fn cycle(&self) -> Result<usize> {
        let request = Request::builder().uri(Uri::from_static("http://bench/")).body(Empty::new())?;
        let mut store = podless_host::store(&self.engine, &self.surroundings);
        let proxy = self.component.instantiate_async(&mut store).await?;
        let (sender, answer) = oneshot::channel();
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
        let out = store.data_mut().http().new_response_outparam(sender)?;
        let call = async { proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out).await };
        let read = async { Ok::<_, Box<dyn Error>>(answer.await??.into_body().collect().await?.to_bytes().len()) };
        let (called, read) = tokio::join!(call, read);
        called?;
        read
    }
}

/// Microseconds of so many cycles, each with one of these services.
async fn cycles<'a>(services: impl Fn(usize) -> &'a Service, count: usize) -> Result<Vec<f64>> {
    let mut took = Vec::with_capacity(count);
    for number in 0..count {
        let (service, started) = (services(number), Instant::now());
        if service.cycle().await? == 0 {
            return Err("an empty answer".into());
        }
        took.push(started.elapsed().as_secs_f64() * 1e6);
    }
    took.sort_by(f64::total_cmp);
    Ok(took)
}

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [code, services, count, rounds] = arguments.as_slice() else {
        return Err("usage: cycle CODE SERVICES CYCLES ROUNDS".into());
    };
    let (code, services, count, rounds) = (PathBuf::from(code), services.parse()?, count.parse()?, rounds.parse()?);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(&code, services, count, rounds))
}

async fn run(code: &Path, services: usize, count: usize, rounds: usize) -> Result<()> {
    let (target, flavour) = (Target::default(), Flavour::P2);
    let swap = fs::read_to_string("/proc/meminfo")?
        .lines()
        .any(|line| line.strip_prefix("SwapTotal:").is_some_and(|total| total.trim() != "0 kB"));
    let with = |strategy| Engine::new(config(target, flavour).allocation_strategy(strategy));
    let engines = [
        ("shim", runner(target, flavour, Pool { instances: INSTANCES, warm: INSTANCES, pagemap_scan: !swap })?),
        ("defaultPool", with(InstanceAllocationStrategy::Pooling(PoolingAllocationConfig::new()))?),
        ("onDemand", with(InstanceAllocationStrategy::OnDemand)?),
    ];
    let surroundings = Arc::new(surroundings()?);
    let load = |engine: &Engine, code: &Path| Service::load(engine, &surroundings, code);
    let hot = engines.iter().map(|(_, engine)| load(engine, code)).collect::<Result<Vec<_>>>()?;
    let folder = tempfile::tempdir()?;
    let bytes = fs::read(code)?;
    let many: Vec<_> = (0..services)
        .map(|number: usize| {
            let path = folder.path().join(number.to_string());
            fs::write(&path, [bytes.as_slice(), &number.to_le_bytes()].concat())?;
            load(&engines[0].1, &path)
        })
        .collect::<Result<_>>()?;
    for service in hot.iter().chain(&many) {
        service.cycle().await?;
    }
    let random = |number: usize| &many[(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24) % many.len()];
    for _ in 0..rounds {
        for ((name, _), service) in engines.iter().zip(&hot) {
            tell(name, &cycles(|_| service, count).await?);
        }
        tell("spread", &cycles(random, count).await?);
    }
    Ok(())
}

fn surroundings() -> Result<Surroundings> {
    let log = Arc::new(ServiceLog::new(Lines::start(std::io::sink())?, "bench", "bench"));
    let memory = Arc::new(ServiceMemory::new(NodeMemory::new(8 << 30), "bench", Arc::default()));
    Ok(Surroundings { env: vec![], instance_memory: 64 << 20, memory, log, outbound: None })
}

/// A line for each kind and round.
#[expect(clippy::print_stdout, reason = "its output")]
fn tell(name: &str, sorted: &[f64]) {
    let at = |share: f64| sorted[((sorted.len() as f64 * share) as usize).min(sorted.len() - 1)];
    let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
    println!("{}", json!({"kind": name, "p50": at(0.5), "p99": at(0.99), "mean": mean}));
}
