//! Every crash survived: nodes without power, links that are cut, leaders that freeze or die between two writes, an API
//! server that is away, tells half of what happens or has older data than before, keys and engines that change, a store
//! that is lost; what serves goes on serving, and what should be comes to be.

mod engine;
mod etcd;
mod keys;
pub(crate) mod leader;
mod life;
pub(crate) mod nodes;
pub(crate) mod operator;
mod proxy;
mod store;
mod targets;
mod writes;
