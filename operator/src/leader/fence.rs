//! The fence: a lease says who should lead, not who still writes. In: the answers to the lease's requests; out: a client
//! whose writes are refused, or given up on their way, once the last renewal is too old. IO.
//!
//! A replica that was frozen wakes with work in its hands; by its own clock, which went on, its time is over. What
//! had left it before is caught by the preconditions that writes carry.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use http::{Method, Request, Response};
use kube::{Client, client::Body};
use tokio::time::{Instant, sleep_until};
use tower::{BoxError, service_fn};

use super::RENEW_DEADLINE;
use crate::metrics::Metrics;

/// A write that came too late.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this replica's lease was not renewed in time: it writes no more")]
pub struct Fenced;

#[derive(Clone, Copy, Debug)]
enum State {
    /// The lease was not held yet.
    Waiting,
    Until(Instant),
    /// It never opens again.
    Shut,
}

/// What keeps a replica from writing when it leads no more. Clones are the same fence.
#[derive(Clone)]
pub struct Fence {
    state: Arc<Mutex<State>>,
    metrics: Metrics,
}

impl Fence {
    /// A fence that is closed until the lease is held.
    pub fn new(metrics: Metrics) -> Self {
        Self { state: Arc::new(Mutex::new(State::Waiting)), metrics }
    }

    /// The client for the election: each of its writes that succeeds opens the fence for a while, counted from before
    /// it was sent.
    pub fn renewed_by(&self, client: Client) -> Client {
        let (fence, namespace) = (self.clone(), client.default_namespace().to_owned());
        let service = service_fn(move |request: Request<Body>| {
            let (fence, client) = (fence.clone(), client.clone());
            async move {
                let (sent, writes) = (Instant::now(), !reads(request.method()));
                let answer = client.send(request).await?;
                if writes && answer.status().is_success() {
                    fence.open(sent + RENEW_DEADLINE);
                }
                Ok::<_, BoxError>(answer)
            }
        });
        Client::new(service, namespace)
    }

    /// The client for the leader's work.
    pub fn guarding(&self, client: Client) -> Client {
        let (fence, namespace) = (self.clone(), client.default_namespace().to_owned());
        let service = service_fn(move |request: Request<Body>| {
            let (fence, client) = (fence.clone(), client.clone());
            async move {
                if reads(request.method()) {
                    return Ok::<Response<Body>, BoxError>(client.send(request).await?);
                }
                let answer = fence.within(client.send(request)).await.inspect_err(|_| fence.metrics.write_fenced());
                Ok(answer??)
            }
        });
        Client::new(service, namespace)
    }

    /// Nothing is written any more.
    pub fn shut(&self) {
        *self.lock() = State::Shut;
    }

    fn open(&self, until: Instant) {
        let mut state = self.lock();
        *state = match *state {
            State::Waiting => State::Until(until),
            State::Until(before) => State::Until(before.max(until)),
            State::Shut => State::Shut,
        };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until when it is open.
    fn until(&self) -> Result<Instant, Fenced> {
        match *self.lock() {
            State::Until(until) if Instant::now() < until => Ok(until),
            _ => Err(Fenced),
        }
    }

    /// Runs something that is given up when the fence closes.
    async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, Fenced> {
        let mut work = pin!(work);
        loop {
            let until = self.until()?;
            tokio::select! {
                biased;
                // It may have been renewed meanwhile.
                () = sleep_until(until) => {}
                done = &mut work => return Ok(done),
            }
        }
    }
}

fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    /// A client whose requests take this long, and a count of those that were answered.
    fn server(takes: Duration) -> (Client, Arc<AtomicUsize>) {
        let landed = Arc::new(AtomicUsize::new(0));
        let count = landed.clone();
        let service = service_fn(move |_: Request<Body>| {
            let count = count.clone();
            async move {
                tokio::time::sleep(takes).await;
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, BoxError>(Response::new(Body::empty()))
            }
        });
        (Client::new(service, "default"), landed)
    }

    async fn send(client: &Client, method: Method) -> Result<(), kube::Error> {
        let request = Request::builder().method(method).uri("/x").body(Body::empty()).expect("a request");
        client.send(request).await.map(|_| ())
    }

    #[tokio::test(start_paused = true)]
    async fn writes_pass_while_the_lease_is_renewed_and_reads_always() {
        let fence = Fence::new(Metrics::default());
        let (client, landed) = server(Duration::from_millis(1));
        let (election, work) = (fence.renewed_by(client.clone()), fence.guarding(client));
        assert!(send(&work, Method::PATCH).await.is_err(), "before the lease is held");
        send(&work, Method::GET).await.expect("a read");
        send(&election, Method::GET).await.expect("looking at the lease renews nothing");
        assert!(send(&work, Method::PATCH).await.is_err());
        for _ in 0..5 {
            send(&election, Method::PUT).await.expect("renewed");
            tokio::time::advance(RENEW_DEADLINE - Duration::from_secs(1)).await;
            send(&work, Method::PATCH).await.expect("a write in time");
        }
        // Frozen: the clock goes on.
        tokio::time::advance(Duration::from_secs(60)).await;
        let before = landed.load(Ordering::Relaxed);
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let error = send(&work, method).await.expect_err("too late").to_string();
            assert!(error.contains("writes no more"), "{error}");
        }
        assert_eq!(landed.load(Ordering::Relaxed), before);
        send(&work, Method::GET).await.expect("a read");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_on_its_way_is_given_up_when_time_is_over_and_goes_on_when_renewed() {
        let fence = Fence::new(Metrics::default());
        let (quick, _) = server(Duration::ZERO);
        let (slow, landed) = server(RENEW_DEADLINE * 2);
        let (election, work) = (fence.renewed_by(quick), fence.guarding(slow));
        send(&election, Method::PUT).await.expect("held");
        assert!(send(&work, Method::PATCH).await.is_err());
        assert_eq!(landed.load(Ordering::Relaxed), 0);
        send(&election, Method::PUT).await.expect("held again");
        let renew = async {
            for _ in 0..4 {
                tokio::time::sleep(RENEW_DEADLINE / 2).await;
                send(&election, Method::PUT).await.expect("renewed");
            }
        };
        let (written, ()) = tokio::join!(send(&work, Method::PATCH), renew);
        written.expect("it took longer than one renewal, and the lease was held all the time");
        fence.shut();
        send(&election, Method::PUT).await.expect("sent");
        assert!(send(&work, Method::PATCH).await.is_err(), "shut for good");
    }
}
