//! An operator that serves named namespaces, with the rights that the chart gives it there, and no others.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{Namespace, Secret, Service, ServiceAccount},
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    config::AuthInfo,
};
use podless_crds::{ConditionType, WasmService};
use podless_operator::namespaces::Namespaces;
use serde_json::{Value, json};

use crate::operator::{Operator, connect, make_namespace, told};

const HOME: &str = "op-named";
const SERVED: &str = "op-named-a";
const LATE: &str = "op-named-late";
const OTHER: &str = "op-named-other";

const CLUSTER_RULES: &str = include_str!("../../../charts/podless/rights/cluster.yaml");
const RELEASE_RULES: &str = include_str!("../../../charts/podless/rights/release.yaml");
const SERVICE_RULES: &str = include_str!("../../../charts/podless/rights/services.yaml");

/// Gives the operator's account these rules: in a namespace, or where none is.
async fn grant(kube: &Client, namespace: Option<&str>, rules: &str) -> Result<()> {
    let rules: Value = serde_yaml_ng::from_str(rules)?;
    let role = if namespace.is_some() { "Role" } else { "ClusterRole" };
    let group = "rbac.authorization.k8s.io";
    let account = json!({"kind": "ServiceAccount", "name": "podless-operator", "namespace": HOME});
    let binding = json!({"roleRef": {"apiGroup": group, "kind": role, "name": HOME}, "subjects": [account]});
    for (kind, mut object) in [(role.to_owned(), json!({"rules": rules})), (format!("{role}Binding"), binding)] {
        (object["apiVersion"], object["kind"]) = (json!(format!("{group}/v1")), json!(kind));
        object["metadata"] = json!({"name": HOME});
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", &kind));
        let api = match namespace {
            Some(namespace) => Api::<DynamicObject>::namespaced_with(kube.clone(), namespace, &kind),
            None => Api::all_with(kube.clone(), &kind),
        };
        api.patch(HOME, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await?;
    }
    Ok(())
}

/// Who may do what the operator's account may, by a token of its own.
async fn account(kube: &Client) -> Result<Client> {
    let accounts = Api::<ServiceAccount>::namespaced(kube.clone(), HOME);
    let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "podless-operator"}});
    accounts.patch("podless-operator", &PatchParams::apply("test"), &Patch::Apply(&object)).await?;
    let request = TokenRequest::default();
    let answer = accounts.create_token_request("podless-operator", &PostParams::default(), &request).await?;
    let token = answer.status.context("a token")?.token;
    let mut config = Config::infer().await?;
    config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
    Ok(Client::try_from(config)?)
}

async fn remove(kube: &Client, namespace: &str) -> Result<()> {
    Api::<Namespace>::all(kube.clone()).delete(namespace, &DeleteParams::background()).await?;
    Ok(())
}

#[tokio::test]
async fn named_namespaces_are_served_with_rights_there_alone() -> Result<()> {
    let kube = connect().await?;
    for namespace in [HOME, SERVED, LATE, OTHER] {
        make_namespace(&kube, namespace).await?;
    }
    grant(&kube, None, CLUSTER_RULES).await?;
    grant(&kube, Some(HOME), RELEASE_RULES).await?;
    grant(&kube, Some(SERVED), SERVICE_RULES).await?;
    let spec = json!({"image": "good:1", "replicas": 1});
    let object = json!({
        "apiVersion": "podless.dev/v1alpha1", "kind": "WasmService", "metadata": {"name": "hello"}, "spec": spec,
    });
    let others = Api::<WasmService>::namespaced(kube.clone(), OTHER);
    others.patch("hello", &PatchParams::apply("test").force(), &Patch::Apply(&object)).await?;

    // One of the two may not be read yet: it holds up nothing.
    let namespaces = Namespaces::named([SERVED, LATE].map(str::to_owned));
    let mut operator = Operator::of(kube.clone(), account(&kube).await?, HOME, &namespaces).await?;
    operator.namespace = SERVED.to_owned();
    let shim = operator.connect_shim("n1", &[("unseen", 1)]);
    let from = json!([{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}}]);
    operator.apply("hello", json!({"image": "good:1", "env": from})).await?;
    operator.says("hello", ConditionType::Placed, "False EnvInvalid").await?;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"token": "t"}});
    operator.api::<Secret>().patch("s", &PatchParams::apply("test"), &Patch::Apply(&secret)).await?;
    operator.serving("hello").await?;

    // It is watched there: what somebody takes away comes again.
    let children = operator.api::<Service>();
    let before = children.get("hello").await?.uid();
    children.delete("hello", &DeleteParams::default()).await?;
    let anew = async || {
        let uid = children.get_opt("hello").await?.context("no Service")?.uid();
        ensure!(uid != before, "the old one");
        Ok(())
    };
    operator.until("the Service is made anew", anew).await?;

    // What is gone where it can be read is withdrawn; what may be where nothing can be read is not.
    operator.apply("brief", json!({"image": "good:1"})).await?;
    let brief = operator.serving("brief").await?.uid().context("a uid")?;
    operator.api::<WasmService>().delete("brief", &DeleteParams::default()).await?;
    let withdrawn = async || {
        ensure!(told(&shim).contains(&format!("withdraw {brief}")), "{:?}", told(&shim));
        Ok(())
    };
    operator.until("what is gone is withdrawn", withdrawn).await?;
    ensure!(!told(&shim).contains(&"withdraw unseen".to_owned()), "{:?}", told(&shim));

    grant(&kube, Some(LATE), SERVICE_RULES).await?;
    operator.namespace = LATE.to_owned();
    operator.apply("late", json!({"image": "good:1"})).await?;
    let late = operator.serving("late").await?.uid().context("a uid")?;

    // Nobody has looked at what is elsewhere.
    ensure!(others.get("hello").await?.status.is_none(), "it was touched");
    let theirs = Api::<Service>::namespaced(kube.clone(), OTHER).get_opt("hello").await?;
    ensure!(theirs.is_none(), "it was given a Service");

    // With a namespace its Role goes; that the service is gone is certain all the same.
    remove(&kube, LATE).await?;
    let withdrawn = async || {
        ensure!(told(&shim).contains(&format!("withdraw {late}")), "{:?}", told(&shim));
        Ok(())
    };
    operator.until("what was there is withdrawn", withdrawn).await?;
    for namespace in [SERVED, OTHER] {
        remove(&kube, namespace).await?;
    }
    operator.namespace = HOME.to_owned();
    operator.end().await
}
