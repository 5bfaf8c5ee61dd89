//! What policies allow, by tables; and that one more never allows more, whatever it says.

use std::collections::BTreeMap;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use podless_crds::{Reason, WasmPolicy, WasmPolicySpec, WasmServiceSpec};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    judge::{Judgement, Policies},
    read::{Policy, Secrets, secrets_of},
    status::status_of,
};

/// The public half of a key that was made for this.
pub(crate) const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
    MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEGbzrracJOLTkMEvbbKOi4PmR73Gl\n\
    3khKk3kjsmVBnltpM8Nc4F0oNUIwkGNKgd7AChuh1YrQt9c+dc/bKcGfFg==\n\
    -----END PUBLIC KEY-----\n";

fn policy(name: &str, spec: Value) -> WasmPolicy {
    WasmPolicy::new(name, serde_json::from_value::<WasmPolicySpec>(spec).expect("a spec"))
}

fn policies(all: &[(&str, Value)], secrets: &Secrets) -> Policies {
    let read =
        |(name, spec): &(&str, Value)| ((*name).to_owned(), Policy::read(&policy(name, spec.clone()), secrets).0);
    let labels = |team: &str| BTreeMap::from([("team".to_owned(), team.to_owned())]);
    Policies {
        policies: all.iter().map(read).collect(),
        namespaces: [("a".to_owned(), labels("a")), ("b".to_owned(), labels("b"))].into(),
    }
}

fn service(mut fields: Value) -> WasmServiceSpec {
    if fields.get("image").is_none() {
        fields["image"] = "registry.local/team/hello:1".into();
    }
    serde_json::from_value(fields).expect("a spec")
}

fn judge(policy: Value, fields: Value) -> Judgement {
    policies(&[("p", policy)], &Secrets::new()).judge("a", &service(fields))
}

fn violations(policy: Value, fields: Value) -> Vec<String> {
    judge(policy, fields).violations
}

#[test]
fn who_is_held_to_what() {
    let deny = |selector: Value| json!({"namespaceSelector": selector, "defaultDeny": true});
    let expression = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "team", "operator": operator, "values": values}]});
    for (selector, in_a, in_b) in [
        (Value::Null, true, true),
        (json!({}), true, true),
        (json!({"matchLabels": {"team": "a"}}), true, false),
        (json!({"matchLabels": {"team": "a", "more": "x"}}), false, false),
        (expression("In", json!(["b", "c"])), false, true),
        (expression("NotIn", json!(["b"])), true, false),
        (expression("Exists", Value::Null), true, true),
        (expression("DoesNotExist", Value::Null), false, false),
    ] {
        let policies = policies(&[("p", deny(selector.clone()))], &Secrets::new());
        let held = |namespace| !policies.judge(namespace, &service(json!({}))).violations.is_empty();
        assert_eq!((held("a"), held("b")), (in_a, in_b), "{selector}");
    }
    let selects = policies(&[("p", deny(json!({"matchLabels": {"team": "a"}})))], &Secrets::new());
    assert!(selects.judge("new", &service(json!({}))).unknown, "its labels are not known yet");
    let all = policies(&[("p", deny(Value::Null))], &Secrets::new());
    assert!(!all.judge("new", &service(json!({}))).unknown, "and do not matter");
}

#[test]
fn which_hosts_may_be_asked_for() {
    let of = |policies: &Policies, hosts: &[&str]| {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let beyond = policies.beyond_hosts("a", &hosts)?;
        Some(beyond.into_iter().map(|(host, why)| (host.to_owned(), why)).collect::<Vec<_>>())
    };
    let own = json!({"hosts": ["*.a.test", "b.test"]});
    let one = policies(&[("p", own.clone())], &Secrets::new());
    let allowed = ["x.a.test", "*.a.test", "y.x.a.test/path", "b.test", "b.test/path"];
    assert_eq!(of(&one, &allowed), Some(vec![]));
    let beyond = of(&one, &["a.test", "x.b.test/path", "*.test"]).expect("known");
    assert_eq!(beyond.len(), 3);
    assert_eq!(
        beyond[2].1,
        "WasmPolicy \"p\" does not allow the host x.b.test (spec.hosts): it allows *.a.test, b.test"
    );
    let both = policies(&[("p", own), ("q", json!({"hosts": ["b.test"]}))], &Secrets::new());
    assert_eq!(of(&both, &["b.test", "x.a.test"]).expect("known").len(), 1, "one more allows no more");
    let none = policies(&[("p", json!({"hosts": []}))], &Secrets::new());
    assert_eq!(of(&none, &["b.test"]).expect("known").len(), 1);
    let silent = policies(&[("p", json!({}))], &Secrets::new());
    assert_eq!(of(&silent, &["b.test"]), Some(vec![]));
    let selects = json!({"namespaceSelector": {"matchLabels": {"team": "a"}}, "hosts": []});
    let selects = policies(&[("p", selects)], &Secrets::new());
    assert!(selects.beyond_hosts("new", &[]).is_none(), "its labels are not known yet");
    assert_eq!(selects.beyond_hosts("b", &["b.test".to_owned()]), Some(BTreeMap::new()));
    let served = judge(json!({"hosts": []}), json!({"hosts": ["b.test"]}));
    assert!(served.violations.is_empty(), "it serves without its hosts");
}

#[test]
fn the_longest_prefix_counts_and_ends_with_a_part() {
    let refused = |prefixes: &[&str], image: &str| {
        let images: Vec<_> = prefixes.iter().map(|prefix| json!({"prefix": prefix})).collect();
        !violations(json!({"images": images, "defaultDeny": true}), json!({"image": image})).is_empty()
    };
    for (prefix, image, want) in [
        ("registry.local/team", "registry.local/team/hello:1", false),
        ("registry.local/team", "registry.local/team:1", false),
        ("registry.local/team", "registry.local/teams/hello:1", true),
        ("registry.local/team", "registry.local/other/team/hello:1", true),
        ("registry.local", "registry.local/hello", false),
        ("registry.local", "REGISTRY.LOCAL/hello", false),
        ("registry.local", "registry.local:5000/hello", true),
        ("registry.local", "registry.local.evil.example/hello", true),
        (
            "registry.local:5000/a",
            "registry.local:5000/a/b@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            false,
        ),
        ("docker.io/library", "hello", false),
        ("index.docker.io/library", "docker.io/library/hello:1", false),
        ("docker.io/library", "other/hello", true),
        ("", "anything.example/at/all", false),
    ] {
        assert_eq!(refused(&[prefix], image), want, "{image} by {prefix:?}");
    }
    assert!(refused(&[], "registry.local/hello"), "nothing is listed");
    assert!(violations(json!({"images": [{"prefix": "other.local"}]}), json!({})).is_empty(), "nothing is denied");

    let signed = json!([{"keys": [{"inline": KEY}]}]);
    let required =
        |images: Value, image: &str| judge(json!({"images": images}), json!({"image": image})).signatures.len();
    let images = json!([
        {"prefix": "", "signatures": signed},
        {"prefix": "r.local/free"},
        {"prefix": "r.local/free/not", "signatures": [signed[0], signed[0]]},
    ]);
    for (image, want) in [("x.local/y", 1), ("r.local/free/x", 0), ("r.local/freedom/x", 1), ("r.local/free/not/x", 2)]
    {
        assert_eq!(required(images.clone(), image), want, "{image}");
    }
}

#[test]
fn what_is_asked_for_beyond_the_ceiling_is_named_with_its_field() {
    let outbound = |hosts: Value| json!({"outboundHttp": {"allowedHosts": hosts}});
    let ceiling = |capabilities: Value| json!({"capabilities": capabilities});
    for (policy, fields, want) in [
        (json!({}), json!({"capabilities": {"logging": {}}}), None),
        (ceiling(json!({})), json!({}), None),
        (ceiling(json!({})), json!({"capabilities": {"logging": {}}}), Some("spec.capabilities.logging")),
        (ceiling(json!({"logging": true})), json!({"capabilities": {"logging": {}}}), None),
        (ceiling(json!({})), json!({"capabilities": outbound(json!([]))}), Some("spec.capabilities.outboundHttp)")),
        (
            ceiling(outbound(json!(["https://*.example.com"]))),
            json!({"capabilities": outbound(json!(["https://api.example.com", "https://evil.example"]))}),
            Some(
                "requests to https://evil.example (spec.capabilities.outboundHttp.allowedHosts): it allows https://*.",
            ),
        ),
        (
            ceiling(outbound(json!(["https://*.example.com"]))),
            json!({"capabilities": outbound(json!(["https://api.example.com"]))}),
            None,
        ),
        (json!({"limits": {"memory": "64Mi"}}), json!({}), None),
        (json!({"limits": {"memory": "32Mi"}}), json!({}), Some("at most 32Mi of memory (spec.instance.memory): 64Mi")),
        (json!({"limits": {"memory": "0.5"}}), json!({}), Some("spec.instance.memory")),
        (json!({"limits": {"timeoutSeconds": 10}}), json!({}), Some("10 seconds for a request (spec.timeoutSeconds)")),
        (json!({"limits": {"concurrency": 99}}), json!({}), Some("at most 99 requests in flight")),
        (json!({"limits": {"concurrency": 100, "timeoutSeconds": 30}}), json!({}), None),
    ] {
        let found = violations(policy.clone(), fields.clone());
        match want {
            None => assert!(found.is_empty(), "{policy} {fields}: {found:?}"),
            Some(want) => {
                assert_eq!(found.len(), 1, "{policy} {fields}: {found:?}");
                assert!(found[0].starts_with("WasmPolicy \"p\" ") && found[0].contains(want), "{found:?}");
            }
        }
    }
}

#[test]
fn replicas_are_capped_by_the_lowest_ceiling() {
    let limit = |replicas: i32| json!({"limits": {"replicas": replicas}});
    let policies = policies(&[("high", limit(10)), ("low", limit(4)), ("none", json!({}))], &Secrets::new());
    for (fields, replicas, scaled, over) in [
        (json!({"replicas": 3}), Some(3), None, false),
        (json!({"replicas": 50}), Some(4), None, true),
        (json!({}), None, Some((0, 4)), false),
        (json!({"scaling": {"minReplicas": 6, "maxReplicas": 30}}), None, Some((4, 4)), false),
        (json!({"scaling": {"maxReplicas": 2}}), None, Some((0, 2)), false),
    ] {
        let spec = service(fields.clone());
        let judgement = policies.judge("a", &spec);
        let capped = judgement.capped(&spec);
        assert_eq!(capped.replicas, replicas, "{fields}");
        assert_eq!(capped.scaling().map(|s| (s.min_replicas, s.max_replicas)), scaled, "{fields}");
        assert_eq!(judgement.over(&spec).is_some(), over, "{fields}");
        assert!(judgement.violations.is_empty(), "fewer are placed; nothing is refused");
    }
    let told = policies.judge("a", &service(json!({"replicas": 50}))).over(&service(json!({"replicas": 50})));
    let want = "WasmPolicy \"low\" allows at most 4 replicas (spec.replicas): 50 are asked for, 4 are placed";
    assert_eq!(told.as_deref(), Some(want));
}

#[test]
fn what_is_revoked_is_found_by_its_digest() {
    let digest = |c: &str| format!("sha256:{}", c.repeat(64));
    let judgement = judge(json!({"revokedDigests": [digest("a"), digest("b")]}), json!({}));
    let (a, c) = (digest("a"), digest("c"));
    assert_eq!(judgement.revokes([c.as_str()]), None);
    let revoked = judgement.revokes([c.as_str(), a.as_str()]).expect("revoked");
    assert_eq!((revoked.reason, revoked.transient), (Reason::Revoked, false));
    assert!(revoked.message.contains(&a) && revoked.message.contains("\"p\""), "{}", revoked.message);
}

#[test]
fn what_cannot_be_read_is_refused_to_whom_it_concerns_and_told() {
    let from_secret = json!({"secretRef": {"name": "keys", "key": "cosign.pub"}});
    let rules = json!([{"prefix": "registry.local/team", "signatures": [{"keys": [from_secret]}]}]);
    let spec = json!({"images": rules});
    let written = policy("p", spec.clone());
    assert_eq!(secrets_of(&written).into_iter().collect::<Vec<_>>(), ["keys"]);
    let secret = |key: &str, value: &str| {
        let data = BTreeMap::from([(key.to_owned(), value.as_bytes().to_vec())]);
        Secrets::from([("keys".to_owned(), data)])
    };
    for (secrets, want) in [
        (Secrets::new(), Some("Secret \"keys\" is not in the namespace")),
        (secret("other", KEY), Some("has no key \"cosign.pub\"")),
        (secret("cosign.pub", "no PEM"), Some("PEM")),
        (secret("cosign.pub", KEY), None),
    ] {
        let (_, mistakes) = Policy::read(&written, &secrets);
        let all = policies(&[("p", spec.clone())], &secrets);
        let concerned = all.judge("a", &service(json!({})));
        let other = all.judge("a", &service(json!({"image": "registry.local/other/hello"})));
        assert!(other.violations.is_empty(), "it concerns others only: {other:?}");
        let status = status_of(&written, &mistakes, &Time(Timestamp::UNIX_EPOCH)).expect("news");
        let ready = &status.conditions[0];
        match want {
            None => {
                assert!(mistakes.is_empty() && concerned.violations.is_empty(), "{mistakes:?}");
                assert_eq!((concerned.signatures.len(), ready.status.as_str()), (1, "True"));
            }
            Some(want) => {
                assert!(mistakes[0].starts_with("spec.images[0].signatures[0].keys[0]"), "{mistakes:?}");
                assert!(mistakes[0].contains(want) && concerned.violations[0].contains(want), "{concerned:?}");
                assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "PolicyInvalid"));
            }
        }
        let told = WasmPolicy { status: Some(status), ..written.clone() };
        assert!(status_of(&told, &mistakes, &Time(Timestamp::UNIX_EPOCH)).is_none(), "it is told once");
    }
}

#[test]
fn a_prefix_that_is_there_twice_is_a_mistake_of_both() {
    let signed = json!([{"keys": [{"inline": KEY}]}]);
    for (one, other, image) in
        [("docker.io/library", "index.docker.io/library", "hello"), ("R.local/x", "r.local/x", "r.local/x/hello")]
    {
        let strict = |prefix: &str| json!({"prefix": prefix, "signatures": signed});
        let free = |prefix: &str| json!({"prefix": prefix});
        for rules in [[strict(one), free("free.local"), free(other)], [free(one), free("free.local"), strict(other)]] {
            let spec = json!({"images": rules});
            let (_, mistakes) = Policy::read(&policy("p", spec.clone()), &Secrets::new());
            assert_eq!(mistakes, ["spec.images[0] and [2] are of the same prefix: make one of them"], "{spec}");
            assert_eq!(violations(spec.clone(), json!({"image": image})).len(), 1, "{spec}");
            assert!(violations(spec, json!({"image": "free.local/hello"})).is_empty(), "it concerns others only");
        }
    }
}

fn any_policy() -> impl Strategy<Value = Value> {
    let prefixes =
        prop::collection::btree_set(prop::sample::select(vec!["", "r.local", "r.local/a", "r.local/a/b"]), 0..3);
    let hosts =
        prop::collection::vec(prop::sample::select(vec!["https://*", "https://*.x.io", "https://a.x.io"]), 0..3);
    let signed = prop::bool::ANY;
    let capabilities = prop::option::of((prop::bool::ANY, prop::option::of(hosts)));
    let limits = (prop::option::of(1..4), prop::option::of(1..4), prop::option::of(1..4));
    let team = prop::option::of(prop::sample::select(vec!["a", "b"]));
    let revoked = prop::bool::ANY;
    (prefixes, signed, prop::bool::ANY, capabilities, limits, team, revoked).prop_map(
        |(prefixes, signed, deny, capabilities, (timeout, concurrency, replicas), team, revoked)| {
            let signatures = if signed { json!([{"keys": [{"inline": KEY}]}]) } else { json!([]) };
            let images = prefixes.into_iter().map(|prefix| json!({"prefix": prefix, "signatures": signatures}));
            let capabilities = capabilities.map(|(logging, hosts)| {
                let outbound = hosts.map(|hosts| json!({"allowedHosts": hosts}));
                json!({"logging": logging, "outboundHttp": outbound})
            });
            json!({
                "namespaceSelector": team.map(|team| json!({"matchLabels": {"team": team}})),
                "images": images.collect::<Vec<_>>(),
                "defaultDeny": deny,
                "capabilities": capabilities,
                "limits": {"timeoutSeconds": timeout, "concurrency": concurrency, "replicas": replicas},
                "revokedDigests": if revoked { vec![format!("sha256:{}", "0".repeat(64))] } else { vec![] },
            })
        },
    )
}

fn any_service() -> impl Strategy<Value = Value> {
    let image = prop::sample::select(vec!["r.local/a:1", "r.local/a/b:1", "r.local/ab:1", "other.local/a:1"]);
    let hosts = prop::sample::select(vec!["https://*", "https://*.x.io", "https://a.x.io", "https://y.io"]);
    (image, prop::bool::ANY, prop::option::of(hosts), 1..4, 1..4, 1..6).prop_map(
        |(image, logging, host, timeout, concurrency, replicas)| {
            json!({
                "image": image,
                "capabilities": {
                    "logging": logging.then(|| json!({})),
                    "outboundHttp": host.map(|host| json!({"allowedHosts": [host]})),
                },
                "timeoutSeconds": timeout, "concurrency": concurrency, "replicas": replicas,
            })
        },
    )
}

proptest! {
    #[test]
    fn one_more_policy_never_allows_more(
        some in prop::collection::vec(any_policy(), 0..3),
        more in any_policy(),
        fields in any_service(),
    ) {
        const NAMES: [&str; 3] = ["p0", "p1", "p2"];
        let before: Vec<_> = NAMES.into_iter().zip(some).collect();
        let after: Vec<_> = before.iter().cloned().chain([("more", more)]).collect();
        let spec = service(fields);
        for namespace in ["a", "b"] {
            let judge = |all: &[(&str, Value)]| policies(all, &Secrets::new()).judge(namespace, &spec);
            let (before, after) = (judge(&before), judge(&after));
            prop_assert!(before.violations.iter().all(|violation| after.violations.contains(violation)));
            prop_assert!(before.signatures.iter().all(|required| after.signatures.contains(required)));
            prop_assert!(before.revoked.iter().all(|revoked| after.revoked.contains(revoked)));
            let most = |judgement: &Judgement| judgement.capped(&spec).replicas;
            prop_assert!(most(&after) <= most(&before));
        }
    }
}
