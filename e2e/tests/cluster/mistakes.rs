//! A user's mistakes: each has its own reason, a sentence that says what to do and an Event; mending the object mends
//! the service, and what served goes on serving.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use podless_crds::ConditionType::{self, Audited, Available, Placed, Precompiled, Ready, Resolved};
use podless_e2e::{COMPONENT, Cluster, Guest, Namespace, Plan, Traffic, all_serve, condition, eventually, is};
use serde_json::{Value, json};

use crate::components;

/// A core module with nothing in it.
const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";
/// What precompiled code looks like from outside: an ELF file.
const PRECOMPILED: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\x3e\0";

/// What WAMR keeps its machine code in.
const FOREIGN: &[u8] = b"\0aot\x04\0\0\0";
/// What a packed file looks like from outside.
const PACKED: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03";

/// More than the largest component that is taken.
const LARGE: usize = (64 << 20) + 1;

fn from(source: Value) -> Value {
    json!([{"name": "A", "valueFrom": source}])
}

/// kube-proxy hears of the first endpoint a moment after status does.
async fn serves(namespace: &Namespace, name: &str) -> Result<()> {
    all_serve(&[namespace.target(name).await?], Duration::from_secs(60)).await
}

/// A good service under load: what others do wrong must not be felt there.
async fn bystander(namespace: &Namespace, image: &str, most: Duration) -> Result<Traffic> {
    namespace.apply("bystander", json!({"image": image})).await?;
    namespace.ready("bystander").await?;
    let plan = Plan { guest: Guest::Any, most, ..Plan::default() };
    let traffic = Traffic::with(&namespace.target("bystander").await?, plan)?;
    traffic.flows().await?;
    Ok(traffic)
}

/// Waits for the Event of a reason about a service.
async fn told(cluster: &Cluster, namespace: &Namespace, name: &str, reason: &str) -> Result<()> {
    eventually(&format!("an Event for {name}"), Duration::from_secs(60), async || {
        let events = cluster.events(&namespace.name, name).await?;
        ensure!(events.iter().any(|(r, note)| r == reason && !note.is_empty()), "{events:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn each_mistake_is_answered_and_mended() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-mistakes").await?;
    let registry = &cluster.registry;
    let good = registry.push_guest("hello", "e2e/mistakes:good").await?;
    let image = async |tag: &str, layer: &[u8], media_type: &str| -> Result<serde_json::Value> {
        Ok(json!({"image": registry.push(layer, media_type, &format!("e2e/mistakes:{tag}")).await?}))
    };
    let (corrupt, digest) = (cluster.gate("corrupt").await?, registry.digest(&good).await?);
    let (unsupported, needs_memory) = (components::unsupported(), components::needs_memory());
    let cases: Vec<(&str, serde_json::Value, ConditionType, &str)> = vec![
        ("no-reference", json!({"image": "Not A Reference"}), Resolved, "InvalidReference"),
        ("no-image", json!({"image": registry.reference("e2e/nothing:1")}), Resolved, "ImageNotFound"),
        ("no-secret", json!({"image": good, "imagePullSecrets": [{"name": "none"}]}), Resolved, "PullSecretInvalid"),
        ("text", image("text", b"good evening", "text/plain").await?, Resolved, "UnsupportedLayer"),
        ("garbage", image("garbage", b"good evening", COMPONENT).await?, Audited, "NotWebAssembly"),
        ("module", image("module", CORE_MODULE, COMPONENT).await?, Audited, "CoreModule"),
        ("native", image("native", PRECOMPILED, COMPONENT).await?, Audited, "PrecompiledLayer"),
        ("foreign", image("foreign", FOREIGN, COMPONENT).await?, Audited, "PrecompiledLayer"),
        ("packed", image("packed", PACKED, COMPONENT).await?, Audited, "NotWebAssembly"),
        ("imports", image("imports", &components::imports(10_000), COMPONENT).await?, Audited, "ImportDenied"),
        ("doubling", image("doubling", &components::doubling(40), COMPONENT).await?, Audited, "NotWebAssembly"),
        ("no-http", image("no-http", &registry.guest("no-http")?, COMPONENT).await?, Audited, "NoHttpExport"),
        ("small", json!({"image": good, "instance": {"memory": "1Mi"}}), Ready, "LoadFailed"),
        ("other-bytes", json!({"image": format!("{corrupt}/e2e/mistakes:good")}), Resolved, "DigestMismatch"),
        ("other-manifest", json!({"image": format!("{corrupt}/e2e/mistakes@{digest}")}), Resolved, "DigestMismatch"),
        ("unsupported", image("unsupported", &unsupported, COMPONENT).await?, Precompiled, "CompileFailed"),
        ("needs-memory", image("memory", &needs_memory, COMPONENT).await?, Precompiled, "CompileLimit"),
        ("import", image("import", &registry.guest("logger")?, COMPONENT).await?, Audited, "ImportDenied"),
        ("unreachable", json!({"image": "127.0.0.1:9/nothing:1"}), Resolved, "RegistryUnreachable"),
        ("large", image("large", &vec![0; LARGE], COMPONENT).await?, Resolved, "TooLarge"),
        ("fetch", image("fetch", &registry.guest("fetch")?, COMPONENT).await?, Audited, "ImportDenied"),
        ("no-node", json!({"image": good, "nodeSelector": {"no": "such"}}), Placed, "NoNode"),
        (
            "no-map",
            json!({"image": good, "env": from(json!({"configMapKeyRef": {"name": "m", "key": "k"}}))}),
            Placed,
            "EnvInvalid",
        ),
        (
            "no-key",
            json!({"image": good, "env": from(json!({"secretKeyRef": {"name": "s", "key": "k"}}))}),
            Placed,
            "EnvInvalid",
        ),
    ];
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"other": "v"}});
    let secrets = Api::<Secret>::namespaced(cluster.kube.clone(), &namespace.name);
    secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    let traffic = bystander(&namespace, &good, Duration::from_secs(280)).await?;
    for (name, spec, ..) in &cases {
        namespace.apply(name, spec.clone()).await?;
    }
    for (name, _, kind, reason) in &cases {
        let message = namespace.until_condition(name, *kind, "False", reason).await?;
        assert!(message.split_whitespace().count() >= 5, "{name}: a sentence, not {message:?}");
        let service = namespace.services().get(name).await?;
        assert!(is(&service, Ready, "False") && is(&service, Available, "False"), "{name}: {:?}", service.status);
        assert_eq!(condition(&service, Ready).map(|c| c.reason.as_str()), Some(*reason), "Ready repeats the reason");
        told(&cluster, &namespace, name, reason).await?;
    }

    for (name, ..) in &cases {
        let mended = match *name {
            // The image stays as it is: the grant is what was missing.
            "import" => json!({"image": registry.reference("e2e/mistakes:import"), "capabilities": {"logging": {}}}),
            // The same for an empty list of hosts: what is asked for is refused, and the rest works.
            "fetch" => {
                let image = registry.reference("e2e/mistakes:fetch");
                json!({"image": image, "capabilities": {"outboundHttp": {"allowedHosts": []}}})
            }
            _ => json!({"image": good, "imagePullSecrets": [], "env": [], "nodeSelector": {}}),
        };
        namespace.apply(name, mended).await?;
    }
    for (name, ..) in &cases {
        namespace.ready(name).await?;
        if *name != "fetch" {
            serves(&namespace, name).await?;
        }
    }
    let seen = traffic.stop().await?;
    eprintln!("beside {} mistakes: {seen}", cases.len());
    seen.none_lost(100)?;
    namespace.delete().await
}

/// The compiler may work for three minutes, and does.
#[tokio::test]
#[ignore = "long form: make soak"]
async fn what_takes_too_long_to_compile_is_told_so_and_holds_up_nobody_who_serves() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-slow").await?;
    let good = cluster.registry.push_guest("hello", "e2e/slow:good").await?;
    let slow = cluster.registry.push(&components::needs_time(), COMPONENT, "e2e/slow:bad").await?;
    let traffic = bystander(&namespace, &good, Duration::from_secs(900)).await?;
    let start = Instant::now();
    namespace.apply("slow", json!({"image": slow})).await?;
    namespace.until_condition("slow", Precompiled, "Unknown", "Compiling").await?;
    // What is compiled already does not wait for the compiler.
    namespace.apply("bystander", json!({"image": good, "replicas": 3})).await?;
    namespace.ready("bystander").await?;
    let message = eventually("it is given up", Duration::from_secs(400), async || {
        let service = namespace.services().get("slow").await?;
        let said = condition(&service, Precompiled).filter(|c| c.status == "False").context("it is compiled still")?;
        ensure!(said.reason == "CompileLimit", "{said:?}");
        Ok(said.message.clone())
    })
    .await?;
    eprintln!("given up after {:.0?}: {message}", start.elapsed());
    assert!(message.contains("s of CPU time") && message.contains("make it smaller"), "{message}");
    told(&cluster, &namespace, "slow", "CompileLimit").await?;
    namespace.apply("slow", json!({"image": good})).await?;
    namespace.ready("slow").await?;
    serves(&namespace, "slow").await?;
    let seen = traffic.stop().await?;
    eprintln!("beside a component that takes too long: {seen}");
    seen.none_lost(500)?;
    namespace.delete().await
}

/// With an API server alone it is seen in each run, see `operator/tests/api/many.rs`.
#[tokio::test]
#[ignore = "long form: make soak"]
async fn five_hundred_broken_services_disturb_no_good_one() -> Result<()> {
    const BROKEN: usize = 500;
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-many").await?;
    let registry = &cluster.registry;
    let good = registry.push_guest("hello", "e2e/many:good").await?;
    let module = registry.push(CORE_MODULE, COMPONENT, "e2e/many:module").await?;
    let traffic = bystander(&namespace, &good, Duration::from_secs(900)).await?;
    let broken = |i: usize| match i % 5 {
        0 => json!({"image": registry.reference(&format!("e2e/nothing:{i}"))}),
        1 => json!({"image": module}),
        2 => json!({"image": good, "nodeSelector": {"no": "such"}}),
        3 => json!({"image": good, "env": from(json!({"configMapKeyRef": {"name": "m", "key": "k"}}))}),
        _ => json!({"image": format!("127.0.0.1:9/nothing:{i}")}),
    };
    let start = Instant::now();
    let applied = stream::iter(0..BROKEN).map(async |i| namespace.apply(&format!("broken-{i}"), broken(i)).await);
    applied.buffer_unordered(16).try_for_each(async |_| Ok(())).await?;
    // In the midst of them.
    let between = Instant::now();
    namespace.apply("good", json!({"image": good})).await?;
    namespace.ready("good").await?;
    serves(&namespace, "good").await?;
    eprintln!("a good service among {BROKEN} broken ones serves after {:.1?}", between.elapsed());
    eventually("each of them is told", Duration::from_secs(300), async || {
        let services = namespace.services().list(&ListParams::default()).await?;
        let told = services.iter().filter(|service| is(service, Ready, "False")).count();
        ensure!(told == BROKEN, "{told} of {BROKEN}");
        Ok(())
    })
    .await?;
    eprintln!("{BROKEN} broken services were told so after {:.1?}", start.elapsed());
    let seen = traffic.stop().await?;
    eprintln!("beside them: {seen}");
    seen.none_lost(500)?;
    namespace.delete().await
}

/// A registry that wants a login, by password and by token: what is wrong with the login is told, and a secret that
/// comes or changes is noticed without a change of the object.
#[tokio::test]
async fn logins_are_asked_for_and_mended_by_the_secret_alone() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-logins").await?;
    cluster.registry.push_guest("hello", "e2e/logins:1").await?;
    let secrets = Api::<Secret>::namespaced(cluster.kube.clone(), &namespace.name);
    let login = async |name: &str, config: String| -> Result<()> {
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": config},
        });
        let _ = secrets.delete(name, &DeleteParams::default()).await;
        secrets.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        Ok(())
    };
    for kind in ["basic", "bearer"] {
        let address = cluster.gate(kind).await?;
        let spec = json!({"image": format!("{address}/e2e/logins:1"), "imagePullSecrets": [{"name": kind}]});
        let good = cluster.login(&address).await?;
        let wrong = json!({"auths": {&address: {"username": "nobody", "password": "wrong"}}}).to_string();
        let elsewhere = cluster.login("registry.example").await?;

        let mut open = spec.clone();
        open["imagePullSecrets"] = json!([]);
        namespace.apply(kind, open).await?;
        namespace.until_condition(kind, Resolved, "False", "Unauthorized").await?;
        namespace.apply(kind, spec.clone()).await?;
        let message = namespace.until_condition(kind, Resolved, "False", "PullSecretInvalid").await?;
        assert!(message.contains(kind), "{message}");
        for (config, says) in [(wrong, "check the credentials"), (elsewhere, "are for other registries")] {
            login(kind, config).await?;
            let what = format!("{kind}: {says}");
            namespace
                .until(kind, &what, |s| {
                    condition(s, Resolved).is_some_and(|c| c.reason == "Unauthorized" && c.message.contains(says))
                })
                .await?;
        }
        login(kind, good).await?;
        namespace.ready(kind).await?;
        serves(&namespace, kind).await?;
    }
    namespace.delete().await
}

/// The name of a service is at most 63 characters: what is made from it must fit, too.
#[tokio::test]
async fn the_longest_name_serves() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-longest").await?;
    let good = cluster.registry.push_guest("hello", "e2e/longest:1").await?;
    let name = "n".repeat(63);
    namespace.apply(&name, json!({"image": good})).await?;
    namespace.ready(&name).await?;
    serves(&namespace, &name).await?;
    namespace.delete().await
}

#[tokio::test]
async fn a_broken_new_image_leaves_the_old_one_serving() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-broken").await?;
    let good = cluster.registry.push_guest("hello", "e2e/broken:good").await?;
    let bad = cluster.registry.push(CORE_MODULE, COMPONENT, "e2e/broken:bad").await?;
    namespace.apply("hello", json!({"image": good, "replicas": 2})).await?;
    let digest = namespace.ready("hello").await?.status.and_then(|s| s.image).map(|i| i.digest);
    let target = namespace.target("hello").await?;
    let traffic = Traffic::start(&target)?;
    traffic.flows().await?;

    namespace.apply("hello", json!({"image": bad, "replicas": 2})).await?;
    namespace.until_condition("hello", Audited, "False", "CoreModule").await?;
    let service =
        namespace.until("hello", "the old image serves", |s| is(s, Available, "True") && is(s, Ready, "False")).await?;
    assert_eq!(service.status.and_then(|s| s.image).map(|i| i.digest), digest, "status names the image that serves");

    namespace.apply("hello", json!({"image": good, "replicas": 2})).await?;
    namespace.ready("hello").await?;
    let seen = traffic.stop().await?;
    seen.none_lost(10)?;
    namespace.delete().await
}

#[tokio::test]
async fn a_service_of_that_name_that_is_not_ours_is_left_alone() -> Result<()> {
    use k8s_openapi::api::core::v1::Service;
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-conflict").await?;
    let good = cluster.registry.push_guest("hello", "e2e/conflict:1").await?;
    let theirs: Service = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken"},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"name": "web", "port": 8080}]}
    }))?;
    let before = namespace.kube_services().create(&Default::default(), &theirs).await?;
    namespace.apply("taken", json!({"image": good})).await?;
    namespace.until_condition("taken", Ready, "False", "ServiceConflict").await?;
    let after = namespace.kube_services().get("taken").await?;
    assert_eq!(before.metadata.resource_version, after.metadata.resource_version, "theirs is untouched");

    namespace.kube_services().delete("taken", &Default::default()).await?;
    namespace.ready("taken").await?;
    namespace.delete().await
}
