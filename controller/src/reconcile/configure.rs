//! Step 7 (client): the leader gets the values of the spec, without a restart.

use super::leader_client::{Configured, LeaderSeen};
use super::validate::Validated;
use crate::context::Context;

/// Sends the leader the values that it does not have yet. Afterwards `leader` has the configuration that it answered.
pub async fn configure(
    leader: &mut LeaderSeen,
    cluster: &Validated,
    tokens: &[String],
    context: &Context,
) -> Configured {
    let LeaderSeen::Answered(leader) = leader else { return Configured::Unchanged };
    let configured =
        context.leaders.of(&cluster.namespace, &cluster.name).configure(leader, &cluster.live, tokens).await;
    if let Configured::Accepted(config) = &configured {
        leader.status.config = config.clone();
    }
    configured
}
