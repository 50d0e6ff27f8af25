//! The state that a leader gives out, while it changes.

use kv_node::protocol::leader::Saved;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::with;
use crate::sim::clients::key_name;
use crate::sim::history::Act;
use crate::sim::{Plan, World};

const KEYS: usize = 40;

fn write(world: &mut World, random: &mut StdRng) {
    let op = world.history.ops.len();
    let value = (random.random_range(0..5) > 0).then(|| world.value(op));
    let op = world.begin(None, random.random_range(0..KEYS), Act::Write(value), random.random_bool(0.3));
    world.attempt(op, 0);
}

/// What is committed, key by key.
fn committed(world: &World) -> Vec<Saved> {
    let leader = &world.leads[0].leader;
    let of = |key: String| {
        let record = leader.committed(&key)?.clone();
        Some(Saved { key: key.into(), seq: record.version.seq, value: record.value, marks: record.marks })
    };
    (0..KEYS).filter_map(|key| of(key_name(key))).collect()
}

// Goal: a backup that is taken in parts is of the moment when it was begun. Method: random writes of a few keys are under
// way before it, between its parts and after it; what comes is compared with what was committed at that moment.
#[test]
fn a_backup_in_parts_is_of_one_moment() {
    let (mut changed, mut new) = (0, 0);
    for seed in 0..60 {
        let mut world = with(Plan { delay_us: 3_000, keys: KEYS, ..Plan::quiet(2, 3) });
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..random.random_range(0..60) {
            write(&mut world, &mut random);
            world.run_for(random.random_range(0..400));
        }
        let told = world.leads[0].leader.begin_saving();
        let (mut then, mut saved) = (committed(&world), Vec::new());
        loop {
            for _ in 0..random.random_range(0..6) {
                write(&mut world, &mut random);
                world.run_for(random.random_range(0..1_000));
            }
            let (keys, bytes) = (random.random_range(1..8), random.random_range(1..400));
            let Some(part) = world.leads[0].leader.saved_part(keys, bytes) else { break };
            let length = |saved: &Saved| saved.key.len() + saved.value.as_ref().map_or(0, |value| value.len());
            let but_the_last: usize = part.iter().rev().skip(1).map(length).sum();
            assert!(part.len() <= keys && but_the_last < bytes, "seed {seed}: {but_the_last} of {bytes} bytes");
            saved.extend(part);
        }
        let now = committed(&world);
        changed += then.iter().filter(|key| !now.contains(key)).count();
        new += now.len() - then.len();
        let by_name = |a: &Saved, b: &Saved| a.key.cmp(&b.key);
        then.sort_by(by_name);
        saved.sort_by(by_name);
        assert_eq!(saved, then, "seed {seed}");
        assert_eq!(told, then.len(), "seed {seed}");
        assert!(world.leads[0].leader.saved_part(1, 1).is_none(), "it is over");
        world.settle();
    }
    assert!(changed > 60 && new > 60, "writes were committed meanwhile: {changed} of keys before, {new} of new keys");
}
