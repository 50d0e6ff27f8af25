//! Compares the store with embedded databases for one job: group commit by one thread, each batch with one sync.
//!
//! `cargo run --release -p kv-node --features measurements --example store_bench -- [DIRECTORY] [KEYS] [SECONDS]`, on the
//! disk to be measured.
//! Records have 100 bytes, keys are overwritten at random. `docs/storage.md` holds the figures.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use kv_node::protocol::follower::Change;
use kv_node::protocol::types::{Epoch, Record, Version};
use kv_node::store::Store;
use kv_node::store::disk::{self, Opened};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};

type Outcome<T> = Result<T, Box<dyn Error>>;
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

const BATCHES: [usize; 5] = [1, 16, 128, 1024, 4096];
const VALUE_BYTES: usize = 84;
const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("state");

/// What is measured.
trait Engine {
    fn commit(&mut self, batch: &Pairs) -> Outcome<()>;
    /// Reads everything, checked as far as the database can; returns how much was there.
    fn load(&mut self) -> Outcome<usize>;
}

/// What no database can beat: a file that only grows.
struct Append(File);

impl Engine for Append {
    fn commit(&mut self, batch: &Pairs) -> Outcome<()> {
        let bytes: Vec<u8> = batch.iter().flat_map(|(key, value)| key.iter().chain(value)).copied().collect();
        self.0.write_all(&bytes)?;
        Ok(self.0.sync_data()?)
    }

    fn load(&mut self) -> Outcome<usize> {
        Ok(0)
    }
}

/// The store as a follower has it, with everything that it keeps beside the log.
struct Ours {
    store: Store,
    entries: usize,
    seq: u64,
}

impl Engine for Ours {
    fn commit(&mut self, batch: &Pairs) -> Outcome<()> {
        let changes = batch.iter().map(|(key, value)| {
            self.seq += 1;
            let version = Version { epoch: Epoch { term: 1, leader: 1 }, seq: self.seq };
            let value = Some(value.iter().map(|byte| char::from(byte & 0x7f)).collect::<String>().into());
            let key = std::str::from_utf8(key).expect("keys are text");
            Change::Put(key.into(), Record { version, value, marks: None })
        });
        Ok(futures::executor::block_on(self.store.append(changes.collect()).wait())?)
    }

    fn load(&mut self) -> Outcome<usize> {
        Ok(self.entries)
    }
}

struct Fjall(fjall::Database, fjall::Keyspace);

impl Engine for Fjall {
    fn commit(&mut self, pairs: &Pairs) -> Outcome<()> {
        let mut batch = self.0.batch().durability(Some(fjall::PersistMode::SyncData));
        pairs.iter().for_each(|(key, value)| batch.insert(&self.1, key.as_slice(), value.as_slice()));
        Ok(batch.commit()?)
    }

    fn load(&mut self) -> Outcome<usize> {
        let mut entries = 0;
        for entry in self.1.iter() {
            entry.into_inner()?;
            entries += 1;
        }
        Ok(entries)
    }
}

struct Redb(redb::Database);

impl Engine for Redb {
    fn commit(&mut self, pairs: &Pairs) -> Outcome<()> {
        let transaction = self.0.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for (key, value) in pairs {
                table.insert(key.as_slice(), value.as_slice())?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn load(&mut self) -> Outcome<usize> {
        // Nothing else compares checksums when it reads.
        self.0.check_integrity()?;
        let table = self.0.begin_read()?.open_table(TABLE)?;
        let mut entries = 0;
        for entry in table.iter()? {
            entry?;
            entries += 1;
        }
        Ok(entries)
    }
}

fn open(name: &str, path: &Path) -> Outcome<Box<dyn Engine>> {
    Ok(match name {
        "kvcluster" => {
            let Opened { store, kept, .. } = disk::open(path, None)?;
            // Beside the records, a promise comes back.
            Box::new(Ours { store, entries: kept.records.len(), seq: 0 })
        }
        "fjall" => {
            let database = fjall::Database::builder(path)
                .cache_size(8 << 20)
                .worker_threads(1)
                .max_journaling_size(128 << 20)
                .open()?;
            let options = || fjall::KeyspaceCreateOptions::default().max_memtable_size(16 << 20);
            let keyspace = database.keyspace("state", options)?;
            Box::new(Fjall(database, keyspace))
        }
        "redb" => Box::new(Redb(redb::Database::builder().set_cache_size(64 << 20).create(path.join("state.redb"))?)),
        _ => Box::new(Append(File::options().create(true).append(true).open(path.join("log"))?)),
    })
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let base = arguments.next().unwrap_or_else(|| ".".to_owned());
    let keys: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let limit = Duration::from_secs(arguments.next().map_or(Ok(6), |text| text.parse())?);
    for name in ["append", "kvcluster", "fjall", "redb"] {
        let directory = tempfile::tempdir_in(&base)?;
        measure(name, directory.path(), keys, limit)?;
    }
    Ok(())
}

fn measure(name: &str, path: &Path, keys: u64, limit: Duration) -> Outcome<()> {
    let mut engine = open(name, path)?;
    let mut random = StdRng::seed_from_u64(1);
    let (begun, written) = (Instant::now(), written_bytes()?);
    let all: Vec<u64> = (0..keys).collect();
    for part in all.chunks(2000) {
        engine.commit(&part.iter().map(|key| pair(&mut random, *key)).collect())?;
    }
    let (seconds, megabytes) = (begun.elapsed().as_secs_f64(), (written_bytes()? - written) >> 20);
    println!(
        "{name}: {keys} records loaded in {seconds:.1} s, {megabytes} MiB written, {} MiB on disk",
        used(path)? >> 20
    );
    for size in BATCHES {
        let (begun, written, cpu) = (Instant::now(), written_bytes()?, cpu_seconds()?);
        let mut latencies = Vec::new();
        while begun.elapsed() < limit {
            let batch = (0..size).map(|_| random.random_range(0..keys)).collect::<Vec<_>>();
            let batch = batch.into_iter().map(|key| pair(&mut random, key)).collect();
            let commit = Instant::now();
            engine.commit(&batch)?;
            latencies.push(commit.elapsed().as_secs_f64() * 1e3);
        }
        latencies.sort_by(f64::total_cmp);
        let records = (latencies.len() * size) as f64;
        println!(
            "  batches of {size:4}: {:8.0} records/s, commit p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms, {:.0} bytes written and \
             {:.1} us of processor time a record, {} MiB on disk",
            records / begun.elapsed().as_secs_f64(),
            latencies[latencies.len() / 2],
            latencies[latencies.len() * 99 / 100],
            latencies[latencies.len() - 1],
            (written_bytes()? - written) as f64 / records,
            (cpu_seconds()? - cpu) * 1e6 / records,
            used(path)? >> 20,
        );
    }
    drop(engine);
    let begun = Instant::now();
    let entries = open(name, path)?.load()?;
    println!("  opened and {entries} records read in {:.2} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn pair(random: &mut StdRng, key: u64) -> (Vec<u8>, Vec<u8>) {
    let mut value = vec![0; VALUE_BYTES];
    random.fill(&mut value[..]);
    // Neighbours in order are no neighbours on disk.
    let spread = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1_000_000_000_000;
    (format!("key-{spread:012}").into_bytes(), value)
}

fn written_bytes() -> Outcome<u64> {
    let io = fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.ok_or("/proc/self/io has no write_bytes")?.parse()?)
}

fn cpu_seconds() -> Outcome<f64> {
    let mut nanoseconds = 0.0;
    for thread in fs::read_dir("/proc/self/task")? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().unwrap_or_default().parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}

fn used(path: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { used(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}
