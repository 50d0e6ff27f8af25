//! Other work on the machine: threads that take processors, and files that are written and synced.

use std::{
    fs::File,
    hint,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

/// Size of the file that is written and synced. It is written in place, so that it needs no more than that.
const FILE_BYTES: usize = 8 << 20;
/// The pause after each sync. Without it an hour would write some hundred gigabytes.
const PAUSE: Duration = Duration::from_millis(400);

/// Work that goes on until it is stopped or dropped.
#[derive(Debug)]
pub(super) struct Strain {
    stop: Arc<AtomicBool>,
    busy: Vec<JoinHandle<()>>,
    disk: Option<JoinHandle<Result<Duration>>>,
}

impl Strain {
    /// Starts threads that take processors, and one that writes a file in `disk` and syncs it.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub(super) fn start(busy_threads: usize, disk: Option<PathBuf>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let busy = (0..busy_threads).map(|_| {
            let stop = stop.clone();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            })
        });
        let busy = busy.collect();
        let disk = disk.map(|directory| {
            let path = directory.join("other-work");
            let file = File::create(&path).with_context(|| format!("failed to create {}", path.display()))?;
            let stop = stop.clone();
            anyhow::Ok(thread::spawn(move || write_and_sync(&file, &path, &stop)))
        });
        Ok(Self { stop, busy, disk: disk.transpose()? })
    }

    /// Ends it. Returns how long the slowest sync took.
    ///
    /// # Errors
    /// When the file could not be written.
    pub(super) fn stop(mut self) -> Result<Option<Duration>> {
        self.stop.store(true, Ordering::Relaxed);
        let slowest =
            self.disk.take().map(|disk| disk.join().map_err(|_| anyhow!("a thread panicked"))?).transpose()?;
        for busy in self.busy.drain(..) {
            busy.join().map_err(|_| anyhow!("a thread panicked"))?;
        }
        Ok(slowest)
    }
}

impl Drop for Strain {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Returns how long the slowest sync took.
fn write_and_sync(file: &File, path: &Path, stop: &AtomicBool) -> Result<Duration> {
    let bytes = vec![7; FILE_BYTES];
    let mut slowest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        file.write_all_at(&bytes, 0)
            .and_then(|()| file.sync_data())
            .context(format!("failed to write {}", path.display()))?;
        slowest = slowest.max(begun.elapsed());
        thread::sleep(PAUSE);
    }
    Ok(slowest)
}
