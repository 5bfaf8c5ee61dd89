//! How anything but a watch asks for a reconcile. In: what changed; out: the two streams that the controller follows.

use kube::runtime::reflector::ObjectRef;
use podless_crds::WasmService;
use tokio::sync::mpsc;

/// A service by its uid, and where to find it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceRef {
    /// `metadata.uid`: another object of the same name is another service.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ServiceRef {
    /// No service at all.
    pub fn nobody() -> Self {
        Self { uid: String::new(), namespace: String::new(), name: String::new() }
    }

    /// What the controller calls it.
    pub fn object_ref(&self) -> ObjectRef<WasmService> {
        ObjectRef::new(&self.name).within(&self.namespace)
    }
}

/// Asks for reconciles; never blocks and never loses a request.
#[derive(Clone)]
pub struct Wake {
    one: mpsc::Sender<ObjectRef<WasmService>>,
    all: mpsc::Sender<()>,
}

/// The other ends of [`Wake`].
pub struct Woken {
    /// Services to reconcile.
    pub one: mpsc::Receiver<ObjectRef<WasmService>>,
    /// All of them.
    pub all: mpsc::Receiver<()>,
}

impl Wake {
    /// Both ends.
    pub fn new() -> (Self, Woken) {
        let (one, woken_one) = mpsc::channel(4096);
        // One is enough: who finds it full knows that a full pass is still to come.
        let (all, woken_all) = mpsc::channel(1);
        (Self { one, all }, Woken { one: woken_one, all: woken_all })
    }

    /// Asks for one service. When too many have asked already, for all.
    pub fn one(&self, service: &ServiceRef) {
        if self.one.try_send(service.object_ref()).is_err() {
            self.all();
        }
    }

    /// Asks for every service.
    pub fn all(&self) {
        let _ = self.all.try_send(());
    }
}
