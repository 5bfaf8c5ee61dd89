//! The service that the figures of scaling have in common: as Podless runs it, and as a simulated Knative does. IO, but for
//! the settings.

use std::time::{Duration, Instant};

use anyhow::Result;
use podless_e2e::{Namespace, Target, eventually, get};
use serde_json::{Value, json};

use super::{
    bench::{Bench, is_awake, is_parked},
    client::load,
    kpa::Kpa,
    stats::Sent,
    watch::{Replicas, watching},
};

/// Requests in flight that one replica takes.
pub(crate) const CONCURRENCY: f64 = 10.0;
/// Of these, what it is to have on average: 70 percent, the default of both.
pub(crate) const TARGET: f64 = 7.0;
/// Seconds that a request takes: the guest waits for so long.
pub(crate) const TAKES: f64 = 0.2;
const SLOW: &str = "/slow?ms=200";
const MOST: u32 = 30;

/// How the two are set: the windows are those of the shapes, compressed as they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    /// Seconds of the stable window.
    pub(crate) stable: u32,
    /// Seconds without a request until it is parked.
    pub(crate) parked_after: u32,
}

/// Seconds of the panic window: not less than Knative's time between two decisions.
const PANIC: u32 = 2;

impl Windows {
    fn spec(self, image: &str) -> Value {
        json!({
            "image": image,
            "concurrency": CONCURRENCY as u32,
            "scaling": {
                "maxReplicas": MOST, "metric": {"utilization": (100.0 * TARGET / CONCURRENCY) as u32},
                "windowSeconds": self.stable, "panicWindowSeconds": PANIC,
                "scaleToZeroAfterSeconds": self.parked_after,
            },
        })
    }

    /// The same for a simulated Knative, whose pods start in two seconds.
    pub(crate) fn kpa(self) -> Kpa {
        Kpa {
            concurrency: CONCURRENCY,
            target: TARGET,
            stable: f64::from(self.stable),
            panic: f64::from(PANIC),
            most: MOST,
            pod_start: 2.0,
        }
    }
}

/// What a load saw, and each change of the replicas meanwhile.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) sent: Vec<Sent>,
    pub(crate) replicas: Vec<(f64, Replicas)>,
}

/// A service that is scaled by its load.
pub(crate) struct Scaled {
    namespace: Namespace,
    target: Target,
}

const NAME: &str = "probe";

impl Scaled {
    /// Creates it and waits until it rests; kube-proxy knows it then.
    pub(crate) async fn create(bench: &Bench, namespace: &str, windows: Windows) -> Result<Self> {
        let namespace = bench.cluster.namespace(namespace).await?;
        let image =
            bench.cluster.registry.push_guest("probe", &format!("{}:1", namespace.name.replace('-', "/"))).await?;
        namespace.apply_as_is(NAME, windows.spec(&image)).await?;
        namespace.until(NAME, "it is parked", is_parked).await?;
        let target = namespace.target(NAME).await?;
        eventually("it answers", Duration::from_secs(20), async || get(&target, "/").await).await?;
        namespace.until(NAME, "it is awake", is_awake).await?;
        Ok(Self { namespace, target })
    }

    /// Waits until it is parked, sends a load of so many requests in flight by the seconds since it began, and sees what
    /// becomes of it.
    pub(crate) async fn follow(
        &self,
        seconds: f64,
        in_flight: impl Fn(f64) -> f64 + Send + 'static,
    ) -> Result<Followed> {
        self.namespace.until(NAME, "it is parked", is_parked).await?;
        let start = Instant::now();
        let load = load(vec![self.target.clone()], SLOW, seconds, start, move |at| in_flight(at) / TAKES);
        let (sent, replicas) = watching(&self.namespace, NAME, start, load).await?;
        Ok(Followed { sent, replicas })
    }

    /// Deletes it.
    pub(crate) async fn delete(self) -> Result<()> {
        self.namespace.delete().await
    }
}
