//! Where the cluster under test comes from: processes on this machine ([`LocalCluster`]), compose, a KvCluster, or whatever
//! runs at a URL. All but the first end in a [`RunningCluster`], which a local cluster can become, too.

pub mod control;
#[cfg(feature = "kubernetes")]
mod kvcluster;
mod local;
mod ports;
mod running;
#[cfg(feature = "kubernetes")]
mod tunnel;

#[cfg(feature = "kubernetes")]
pub(crate) use self::kvcluster::Way;
#[cfg(feature = "kubernetes")]
pub use self::kvcluster::kube;
pub(crate) use self::ports::{Ports, free_ports};
pub use self::{
    local::{LocalCluster, LocalClusterOptions, Program},
    running::{RunningCluster, compose, local, remote, remote_over_tls},
};
