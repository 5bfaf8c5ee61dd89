//! One stream of one shim, from Hello until either side ends it. In: its messages; out: what it is told. IO.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use podless_link::{ASSIGNMENT_CONTEXT, v1};
use prost::Message;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    Hub,
    auth::Identity,
    sessions::{HIGHEST_BELIEVED, Next, SessionKey},
};
use crate::metrics::Metrics;

/// How long a shim may take to say Hello.
const HELLO: Duration = Duration::from_secs(10);
/// How long a withdrawn service is still answered for: kube-proxy needs a moment to forget its endpoints.
const LINGER: Duration = Duration::from_secs(10);
/// Messages that are encoded ahead of what the shim has taken.
const AHEAD: usize = 16;

/// Waits for Hello, then serves the stream in a task of its own.
pub async fn serve(
    hub: Arc<Hub>,
    metrics: Metrics,
    identity: Identity,
    mut inbound: Streaming<v1::FromShim>,
) -> Result<ReceiverStream<Result<v1::ToShim, Status>>, Status> {
    let first = tokio::time::timeout(HELLO, inbound.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no Hello came: say it first"))??;
    let Some(v1::from_shim::Body::Hello(hello)) = first.and_then(|m| m.body) else {
        return Err(Status::invalid_argument("the first message must be Hello"));
    };
    tracing::info!(node = identity.node, pod = identity.pod_name, known = hello.known.len(), "a shim has connected");
    let beyond = hello.known.iter().filter(|known| known.generation > HIGHEST_BELIEVED).count();
    if beyond > 0 {
        metrics.overclaimed(beyond);
        tracing::warn!(node = identity.node, beyond, "a shim says that it has generations that nobody can have made");
    }
    let services = hub.service_uids();
    let (key, notify) = hub.sessions().open(identity.clone(), hello, services, Instant::now());
    // What it says first on this stream covers all the time since its last one.
    hub.autoscale.cut(&identity.pod_uid);
    hub.membership_changed();

    let (tx, rx) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = receive(&hub, &metrics, &key, inbound) => ended,
            ended = send(&hub, &key, &notify, &tx) => ended,
        };
        hub.sessions().close(&key, Instant::now());
        hub.autoscale.cut(&key.pod_uid);
        tracing::info!(node = identity.node, pod = identity.pod_name, reason = ended, "a shim has disconnected");
        hub.membership_changed();
        // What is to become of its endpoints is decided when the grace is over.
        tokio::time::sleep(crate::reconcile::plan::GRACE + Duration::from_millis(100)).await;
        hub.wake.all();
    });
    Ok(ReceiverStream::new(rx))
}

async fn receive(hub: &Hub, metrics: &Metrics, key: &SessionKey, mut inbound: Streaming<v1::FromShim>) -> String {
    loop {
        let body = match inbound.message().await {
            Ok(Some(message)) => message.body,
            Ok(None) => return "it ended the stream".to_owned(),
            Err(status) => return status.message().to_owned(),
        };
        match body {
            Some(v1::from_shim::Body::Ack(ack)) => {
                if let Some(v1::ack::Outcome::Failed(failed)) = &ack.outcome {
                    tracing::warn!(service = ack.service_uid, reason = failed.reason, "a shim cannot load a service");
                }
                let assigned = hub.sessions().assigned(&ack.service_uid);
                let (service, claimed) = (ack.service_uid.clone(), ack.generation);
                if hub.sessions().ack(key, ack, Instant::now()) {
                    metrics.overclaimed(1);
                    let pod = &key.pod_uid;
                    tracing::warn!(pod, service, claimed, "a shim acknowledges a generation that it was not told");
                }
                if let Some(assigned) = assigned {
                    hub.wake.one(&assigned.service);
                }
            }
            Some(v1::from_shim::Body::Report(report)) => hub.sessions().report(key, report),
            Some(v1::from_shim::Body::ProbeResult(result)) => hub.sessions().answered(key, result),
            Some(v1::from_shim::Body::Load(mut load)) => {
                let now = Instant::now();
                hub.sessions().believe(key, &mut load);
                hub.sessions().paced(key, &load, now);
                hub.autoscale.loaded(&key.pod_uid, &load, now);
            }
            // Said once already, or something that a newer shim has to say.
            Some(v1::from_shim::Body::Hello(_)) | None => {}
        }
    }
}

async fn send(hub: &Hub, key: &SessionKey, notify: &Notify, tx: &mpsc::Sender<Result<v1::ToShim, Status>>) -> String {
    loop {
        loop {
            let next = hub.sessions().next(key);
            let Some(next) = next else { break };
            if tx.send(Ok(encode(hub, next))).await.is_err() {
                return "it hung up".to_owned();
            }
        }
        if !hub.sessions().is_current(key) {
            return "it opened another stream".to_owned();
        }
        tokio::select! {
            () = notify.notified() => {}
            () = tx.closed() => return "it hung up".to_owned(),
        }
    }
}

fn encode(hub: &Hub, next: Next) -> v1::ToShim {
    let body = match next {
        Next::Assign(assigned, share, artifact) => {
            let assignment = assigned.message(share, &artifact).encode_to_vec();
            let signature = hub.signing.key().sign(ASSIGNMENT_CONTEXT, &assignment).to_vec();
            v1::to_shim::Body::Assign(v1::Assign { assignment, signature })
        }
        Next::Withdraw { service, generation, at_once } => v1::to_shim::Body::Withdraw(v1::Withdraw {
            service_uid: service,
            generation,
            linger_millis: if at_once { 0 } else { LINGER.as_millis() as u64 },
        }),
        Next::Synced => v1::to_shim::Body::Synced(v1::Synced {}),
        Next::Probe(probe) => v1::to_shim::Body::Probe(probe),
        Next::Spread(spread) => v1::to_shim::Body::Spread(spread),
        Next::Recall(recall) => v1::to_shim::Body::Recall(recall),
    };
    v1::ToShim { body: Some(body) }
}
