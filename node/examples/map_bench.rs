//! What one key more costs at worst, and what each key takes, in the map of this release and in those that it replaced:
//!
//!     cargo run --release -p kv-node --features measurements --example map_bench -- [KEYS]
//!
//! The keys are put in one after the other, each with a value of 100 bytes beside the map, as the nodes have it. A map that
//! grows at once shows in its longest insertion. Memory is what Linux counts for this process, so that each map gets a
//! process of its own.

use std::collections::HashMap;
use std::error::Error;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use indexmap::IndexMap;
use kv_node::protocol::keymap::KeyMap;
use kv_node::protocol::types::Key;

/// The nodes' own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As large as what a leader, a follower and a follower's store have for a key.
type OfLeader = [u64; 10];
type OfFollower = [u64; 7];
type OfStore = [u64; 2];

const MAPS: [&str; 6] =
    ["leader, IndexMap", "leader, KeyMap", "follower, IndexMap", "follower, KeyMap", "store, HashMap", "store, KeyMap"];
const LOOK_UPS: u64 = 1_000_000;

/// A map, as far as it is measured.
trait Map {
    fn put(&mut self, key: Key);
    fn has(&self, key: &str) -> bool;
}

impl<const N: usize> Map for IndexMap<Key, [u64; N], RandomState> {
    fn put(&mut self, key: Key) {
        self.insert(key, [1; N]);
    }
    fn has(&self, key: &str) -> bool {
        self.contains_key(key)
    }
}

impl<const N: usize> Map for KeyMap<[u64; N]> {
    fn put(&mut self, key: Key) {
        self.insert(key, [1; N]);
    }
    fn has(&self, key: &str) -> bool {
        self.contains(key)
    }
}

impl<const N: usize> Map for HashMap<Key, [u64; N], RandomState> {
    fn put(&mut self, key: Key) {
        self.insert(key, [1; N]);
    }
    fn has(&self, key: &str) -> bool {
        self.contains_key(key)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let keys = arguments.first().map_or(Ok(10_000_000), |keys| keys.parse::<u64>())?;
    if let Some(name) = arguments.get(1) {
        return measure(name, keys);
    }
    println!("{:<20} {:>22} {:>12} {:>14}", "map", "longest insertion, ms", "bytes a key", "look-up, ns");
    for name in MAPS {
        let status = Command::new(std::env::current_exe()?).args([&keys.to_string(), name]).status()?;
        if !status.success() {
            return Err(format!("{name} ended with {status}").into());
        }
    }
    Ok(())
}

fn measure(name: &str, keys: u64) -> Result<(), Box<dyn Error>> {
    let mut map: Box<dyn Map> = match name {
        "leader, IndexMap" => Box::new(IndexMap::<Key, OfLeader, RandomState>::default()),
        "leader, KeyMap" => Box::new(KeyMap::<OfLeader>::default()),
        "follower, IndexMap" => Box::new(IndexMap::<Key, OfFollower, RandomState>::default()),
        "follower, KeyMap" => Box::new(KeyMap::<OfFollower>::default()),
        "store, HashMap" => Box::new(HashMap::<Key, OfStore, RandomState>::default()),
        "store, KeyMap" => Box::new(KeyMap::<OfStore>::default()),
        _ => return Err(format!("{name:?} is none of {MAPS:?}").into()),
    };
    let name_of = |number: u64| format!("key-{number:09}");
    let (before, mut longest) = (resident_bytes()?, Duration::ZERO);
    for number in 0..keys {
        let key: Key = name_of(number).into();
        // Beside the map, as in a node; nothing here looks at it again.
        std::mem::forget(Arc::<str>::from("v".repeat(100)));
        let begun = Instant::now();
        map.put(key);
        longest = longest.max(begun.elapsed());
    }
    let each = (resident_bytes()? - before) as f64 / keys as f64;
    let begun = Instant::now();
    let found = (0..LOOK_UPS).filter(|number| map.has(&name_of(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys)));
    assert_eq!(black_box(found.count()) as u64, LOOK_UPS, "each key is there");
    let look_up_ns = begun.elapsed().as_secs_f64() * 1e9 / LOOK_UPS as f64;
    println!("{name:<20} {:>22.1} {each:>12.0} {look_up_ns:>14.0}", longest.as_secs_f64() * 1e3);
    Ok(())
}

fn resident_bytes() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("VmRSS is missing")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
