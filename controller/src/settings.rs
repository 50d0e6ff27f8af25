//! The operator's settings: flags, and the same names in upper case as environment variables.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use kvcluster_api::resource::ImagePullPolicy;

/// The settings of `kv-controller run`.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Watch only this namespace, so that a Role is enough. Default: all namespaces.
    #[arg(long, env)]
    pub watch_namespace: Option<String>,

    /// The namespace the operator runs in: where its Lease is, and from where the pods' NetworkPolicies admit it.
    #[arg(long, env, default_value = "kvcluster-system")]
    pub pod_namespace: String,

    /// The name of this replica, its identity as holder of the Lease.
    #[arg(long, env, default_value = "kv-controller")]
    pub pod_name: String,

    /// The name of the Lease that the operator's replicas compete for.
    #[arg(long, env, default_value = "kv-controller")]
    pub lease_name: String,

    /// The image of the nodes, unless a KvCluster names another.
    #[arg(long, env, default_value = "kvcluster:dev")]
    pub node_image: String,

    /// When nodes pull that image: Always, IfNotPresent or Never.
    #[arg(long, env, default_value = "IfNotPresent", value_parser = pull_policy)]
    pub node_image_pull_policy: ImagePullPolicy,

    /// The cluster's DNS domain. Default: taken from the search list in /etc/resolv.conf.
    #[arg(long, env)]
    pub cluster_domain: Option<String>,

    /// Whether pods ask for the user and group of the image, 65532. Set it to false where the platform assigns them, as
    /// OpenShift does.
    #[arg(long, env, default_value_t = true, action = clap::ArgAction::Set)]
    pub fixed_user: bool,

    /// The address of the operator's pod. With an IPv6 address it and the nodes listen on IPv6.
    #[arg(long, env)]
    pub pod_ip: Option<IpAddr>,

    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env, default_value = "0.0.0.0:8080")]
    pub bind_address: SocketAddr,

    /// How often the leader of a settled cluster is asked for its status, in milliseconds (500 to 60000). While nothing
    /// changes, the interval grows to five times that.
    #[arg(long, env, default_value_t = 3000, value_parser = clap::value_parser!(u64).range(500..=60_000))]
    pub poll_interval_ms: u64,

    /// How many KvClusters in which nothing has changed are looked at at once (1 to 256). As many places again are for those
    /// that change.
    #[arg(long, env, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,

    /// How many KvClusters roll out a new pod template at once (1 to 1000).
    #[arg(long, env, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rollouts_max: u16,

    /// /healthz fails when no reconciliation has ended for this long although there are KvClusters, in milliseconds.
    #[arg(long, env, default_value_t = 120_000, value_parser = clap::value_parser!(u64).range(10_000..))]
    pub stuck_after_ms: u64,
}

impl Settings {
    /// The namespace to watch. None: all.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.watch_namespace.as_deref().filter(|namespace| !namespace.is_empty())
    }

    /// Whether pods have IPv6 addresses alone. A pod with both has an IPv4 address first, or hears it all the same.
    #[must_use]
    pub fn ipv6(&self) -> bool {
        self.pod_ip.is_some_and(|address| address.is_ipv6())
    }

    /// Where to serve: on every address, also of IPv6 where there is no other.
    #[must_use]
    pub fn serve_at(&self) -> SocketAddr {
        let mut address = self.bind_address;
        if self.ipv6() && address.ip().is_unspecified() {
            address.set_ip(Ipv6Addr::UNSPECIFIED.into());
        }
        address
    }

    /// How often the leader of a settled cluster is asked.
    #[must_use]
    pub fn poll_interval(&self) -> Duration {
        Duration::from_millis(self.poll_interval_ms)
    }

    /// How long without an ended reconciliation counts as stuck.
    #[must_use]
    pub fn stuck_after(&self) -> Duration {
        Duration::from_millis(self.stuck_after_ms)
    }

    /// The cluster's DNS domain: as set, otherwise from the resolver's search list. None when it is unknown; then the pods'
    /// own search lists complete names.
    #[must_use]
    pub fn domain(&self) -> Option<String> {
        self.cluster_domain
            .clone()
            .filter(|domain| !domain.is_empty())
            .or_else(|| std::fs::read_to_string("/etc/resolv.conf").ok().as_deref().and_then(domain_of_search_list))
    }
}

/// In a pod the search list is `NAMESPACE.svc.DOMAIN svc.DOMAIN DOMAIN …`.
fn domain_of_search_list(resolv_conf: &str) -> Option<String> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("search"))
        .flat_map(str::split_whitespace)
        .find_map(|entry| entry.strip_prefix("svc."))
        .map(|domain| domain.trim_end_matches('.').to_owned())
}

fn pull_policy(text: &str) -> Result<ImagePullPolicy, String> {
    match text {
        "Always" => Ok(ImagePullPolicy::Always),
        "IfNotPresent" => Ok(ImagePullPolicy::IfNotPresent),
        "Never" => Ok(ImagePullPolicy::Never),
        other => Err(format!("'{other}' is none of Always, IfNotPresent, Never")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{Settings, domain_of_search_list};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    #[test]
    fn the_operator_listens_on_ipv6_where_its_pod_has_no_other_address() {
        for (line, ipv6, address) in [
            ("run", false, "0.0.0.0:8080"),
            ("run --pod-ip 10.0.0.7", false, "0.0.0.0:8080"),
            ("run --pod-ip fd00::7", true, "[::]:8080"),
            ("run --pod-ip fd00::7 --bind-address 127.0.0.1:9", true, "127.0.0.1:9"),
        ] {
            let settings = Line::parse_from(line.split(' ')).settings;
            assert_eq!((settings.ipv6(), settings.serve_at().to_string()), (ipv6, address.to_owned()), "{line}");
            assert!(settings.fixed_user);
        }
        assert!(!Line::parse_from(["run", "--fixed-user", "false"]).settings.fixed_user);
    }

    #[test]
    fn the_domain_comes_from_the_search_list_of_a_pod() {
        let pod =
            "nameserver 10.96.0.10\nsearch shop.svc.corp.example svc.corp.example corp.example\noptions ndots:5\n";
        assert_eq!(domain_of_search_list(pod).as_deref(), Some("corp.example"));
        assert_eq!(domain_of_search_list("nameserver 9.9.9.9\nsearch home.example\n"), None);
    }
}
