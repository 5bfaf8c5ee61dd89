//! A slot of the pool holds nothing of whom it was used by before: a guest looks, and spoils what it finds for the next one.
#![expect(clippy::expect_used, clippy::print_stdout, reason = "a test ends where something is not as it should be")]

use std::{path::PathBuf, time::Instant};

use podless_engine::{Flavour, Pool, Target, runner};
use wasmtime::{
    Engine, Store,
    component::{Component, InstancePre, Linker},
};

/// Instances that there are at once, of which each visit replaces one.
const LIVE: usize = 3;

/// Two components with the same code: to Wasmtime they are strangers, whose memories begin as their own images.
fn tenants(engine: &Engine) -> [InstancePre<()>; 2] {
    let folder = std::env::var("PODLESS_TEST_ARTIFACTS").expect(
        "PODLESS_TEST_ARTIFACTS names the folder that `make guests` fills with machine code: run `make test-unit`",
    );
    let code = PathBuf::from(folder).join("canary.cwasm");
    std::array::from_fn(|_| {
        // SAFETY: `make guests` compiled it, and nobody writes to it.
        #[expect(unsafe_code, reason = "Wasmtime cannot know that these bytes are its own compiler's")]
        let component = unsafe { Component::deserialize_file(engine, &code) }.expect("run `make guests`");
        Linker::new(engine).instantiate_pre(&component).expect("linked")
    })
}

/// Makes this many instances one after another in slots that were spoilt.
fn visit(visits: u32, pagemap_scan: bool) {
    let pool = Pool { instances: LIVE as u32 + 1, warm: LIVE as u32, pagemap_scan };
    let engine = runner(Target::default(), Flavour::P2, pool).expect("an engine");
    let tenants = tenants(&engine);
    let started = Instant::now();
    let mut live = Vec::new();
    for number in 0..visits {
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(u64::MAX / 2);
        // Not in step with the slots.
        let tenant = &tenants[(number / 2 % 2) as usize];
        let instance = tenant.instantiate(&mut store).expect("an instance");
        let visit = instance.get_typed_func::<(u32,), (u32,)>(&mut store, "visit").expect("its function");
        // Small ones after large ones and the other way round: some are beyond what a slot keeps resident.
        let more = if number % 64 == 0 { 24 } else { number % 3 };
        let (left,) = visit.call(&mut store, (more,)).expect("it looks");
        assert_eq!(left, 0, "visit {number} with {more} pages more, pagemap_scan {pagemap_scan}: something was left");
        live.push(store);
        if live.len() > LIVE {
            live.swap_remove((number as usize * 7) % live.len());
        }
    }
    println!("{visits} visits, pagemap_scan {pagemap_scan}: {:?}", started.elapsed());
}

#[test]
fn a_slot_holds_nothing_of_the_last_tenant() {
    for pagemap_scan in [false, true] {
        visit(5_000, pagemap_scan);
    }
}

#[test]
#[ignore = "minutes: for make soak"]
fn a_slot_holds_nothing_of_the_last_tenant_a_million_times() {
    for pagemap_scan in [false, true] {
        visit(1_000_000, pagemap_scan);
    }
}
