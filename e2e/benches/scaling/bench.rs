//! What all figures need: the cluster, how much to do, and a line that says what goes on. IO.

use std::{borrow::Cow, collections::HashSet, pin::pin, time::Duration};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use podless_crds::{ConditionType, WasmService};
use podless_e2e::{Cluster, Namespace, Target, condition};
use serde_json::Value;

/// Applies that are under way at once.
const AT_ONCE: usize = 16;

/// A run.
pub(crate) struct Bench {
    pub(crate) cluster: Cluster,
    /// Only as much as shows that it works: no figures to publish.
    pub(crate) quick: bool,
    bar: ProgressBar,
}

impl Bench {
    /// Connects to the cluster; `figures` are to come.
    pub(crate) async fn new(quick: bool, figures: u64) -> Result<Self> {
        let style = ProgressStyle::with_template("{spinner} {elapsed} {pos}/{len} {wide_bar} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(figures).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Ok(Self { cluster: Cluster::connect().await?, quick, bar })
    }

    /// The first number, or the second in a quick run.
    pub(crate) fn times<T>(&self, whole: T, quick: T) -> T {
        if self.quick { quick } else { whole }
    }

    /// Says what goes on.
    pub(crate) fn doing(&self, what: impl Into<Cow<'static, str>>) {
        self.bar.set_message(what);
    }

    /// Says what a figure came to.
    pub(crate) fn done(&self, what: &str) {
        self.bar.suspend(|| eprintln!("{what}"));
        self.bar.inc(1);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Applies services of these names, each with its spec; answers where they are.
pub(crate) async fn register(namespace: &Namespace, names: &[String], spec: impl Fn(usize) -> Value) -> Result<()> {
    let applied = names.iter().enumerate().map(|(number, name)| namespace.apply_as_is(name, spec(number)));
    stream::iter(applied).buffer_unordered(AT_ONCE).try_for_each(async |_| Ok(())).await
}

/// Where services of these names answer.
pub(crate) async fn targets(namespace: &Namespace, names: &[String]) -> Result<Vec<Target>> {
    stream::iter(names.iter().map(|name| namespace.target(name))).buffered(AT_ONCE).try_collect().await
}

/// Waits until so many services of a namespace have been as they should be, each at some time since this began. By a
/// watch: asking again and again would be a load.
pub(crate) async fn until(
    namespace: &Namespace,
    what: &str,
    count: usize,
    within: Duration,
    holds: impl Fn(&WasmService) -> bool,
) -> Result<()> {
    let mut good = HashSet::new();
    let watched = async {
        let mut changes = pin!(changes(namespace.services(), watcher::Config::default()));
        while good.len() < count {
            let service = changes.try_next().await?.context("the watch has ended")?;
            if holds(&service) {
                good.insert(service.metadata.name.unwrap_or_default());
            }
        }
        anyhow::Ok(())
    };
    let waited = tokio::time::timeout(within, watched).await;
    waited.with_context(|| format!("{what}: {} of {count} within {within:?}", good.len()))?
}

/// Services as they are and as they become.
pub(crate) fn changes(
    services: Api<WasmService>,
    config: watcher::Config,
) -> impl futures::Stream<Item = Result<WasmService, watcher::Error>> {
    watcher(services, config).default_backoff().applied_objects()
}

/// Whether a service waits for its first request.
pub(crate) fn is_parked(service: &WasmService) -> bool {
    let parked = condition(service, ConditionType::Ready).is_some_and(|c| c.status == "True" && c.reason == "Parked");
    parked && service.status.as_ref().is_some_and(|status| status.replicas == 0)
}

/// Whether a service has replicas that serve.
pub(crate) fn is_awake(service: &WasmService) -> bool {
    service.status.as_ref().is_some_and(|status| status.ready_replicas > 0)
}

/// So many names.
pub(crate) fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("crud-{number:04}")).collect()
}
