//! A look at a cluster of which no watch has reported anything since everything was as the spec asks for. The leader alone
//! is asked. Where it answers the same, nothing is built, compared, read or written.

use std::time::{Duration, Instant};

use kube::ResourceExt;
use kube::runtime::controller::Action;
use kvcluster_api::resource::KvCluster;

use super::{jittered, next_calm_look, secrets};
use crate::build::Component;
use crate::context::{Calm, Context};

/// The delay before the next attempt where too many calm clusters are looked at.
const POSTPONED: Duration = Duration::from_millis(200);

/// Looks at a calm cluster. None where it is not calm, so that a complete reconciliation is needed.
pub async fn look(resource: &KvCluster, due: Instant, context: &Context) -> Option<Action> {
    let Calm { leader: before, times } = context.memory.calm(resource)?;
    let read = context.memory.secrets(resource)?;
    let Ok(_place) = context.calm_looks.try_acquire() else {
        context.metrics.postponed.inc();
        context.memory.due(resource, Some(due));
        return Some(Action::requeue(jittered(POSTPONED)));
    };
    context.metrics.late(due.elapsed());
    let read = secrets::look(resource, read, context).await?;
    context.memory.secrets_seen(resource, Some(read));
    let namespace = resource.namespace().unwrap_or_default();
    let pods = context.stores.pods_of(&namespace, &resource.name_any(), Component::Leader);
    let seen = context.leaders.of(&namespace, &resource.name_any()).observe(&pods, false).await;
    if seen.answered().map(|leader| leader.essence()).as_ref() != Some(&before) {
        return None;
    }
    context.metrics.calm.inc();
    let times = times.saturating_add(1);
    context.memory.calm_seen(resource, Some(Calm { leader: before, times }));
    let next = jittered(next_calm_look(times, context.poll_interval));
    context.memory.due(resource, Some(Instant::now() + next));
    Some(Action::requeue(next))
}
