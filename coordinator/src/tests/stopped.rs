//! Builds that a person stops, and builds with too little memory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::{Kept, on_large_stack, pipeline, run_with, shards, write_source};
use crate::{BuildState, Coordinator, CoordinatorError, CoordinatorOptions, Event, Events, Sink as _};

/// Stops the script when so many splits of the shards are done, and keeps what it was told.
#[derive(Debug, Default)]
struct Watcher {
    stop_at: Option<usize>,
    cancel: CancellationToken,
    splits_found: AtomicU64,
    spilled: AtomicU64,
}

impl Events for Watcher {
    fn event(&self, event: Event) {
        match event {
            Event::Progress {
                step,
                splits_done,
                spilled_bytes,
                ..
            } => {
                self.spilled.fetch_max(spilled_bytes, Ordering::Relaxed);
                if step == "shards" && self.stop_at.is_some_and(|stop_at| splits_done >= stop_at) {
                    self.cancel.cancel();
                }
            }
            Event::StepStarted { step, splits_done, .. } if step == "shards" => {
                self.splits_found.store(splits_done as u64, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

fn options(home: &Path, watcher: &Arc<Watcher>) -> CoordinatorOptions {
    CoordinatorOptions {
        events: Arc::<Watcher>::clone(watcher),
        cancel: watcher.cancel.clone(),
        target_partitions: Some(1),
        ..CoordinatorOptions::new(home)
    }
}

#[test]
fn a_cancelled_build_goes_on_from_its_finished_splits() {
    on_large_stack(async {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        write_source(&data, &root.path().join("maker")).await;
        let whole = root.path().join("whole");
        let undisturbed = run_with(CoordinatorOptions::new(&whole), &pipeline(&data))
            .await
            .unwrap();
        let home = root.path().join("home");
        let watcher = Arc::new(Watcher {
            stop_at: Some(1),
            ..Watcher::default()
        });
        let stopped = run_with(options(&home, &watcher), &pipeline(&data)).await;
        assert!(
            matches!(stopped, Err(CoordinatorError::Cancelled)),
            "{:?}",
            stopped.err()
        );
        assert!(
            !home.join("warehouse/c/_delta_log").exists(),
            "half a corpus was published"
        );
        let coordinator = Coordinator::open(CoordinatorOptions::new(&home)).await.unwrap();
        let builds = coordinator.builds().await.unwrap();
        assert_eq!(
            (builds[0].object.as_str(), builds[0].state),
            ("c", BuildState::Cancelled)
        );
        drop(coordinator);
        let again = Arc::new(Watcher::default());
        let kept = run_with(options(&home, &again), &pipeline(&data)).await.unwrap();
        let report = &kept.builds[0];
        assert!(report.resumed && report.build == builds[0].build, "{report:?}");
        assert!(again.splits_found.load(Ordering::Relaxed) >= 1, "no split was kept");
        assert_eq!(report.digest, undisturbed.builds[0].digest);
        assert!(shards(&home) == shards(&whole), "other bytes");
        let coordinator = Coordinator::open(CoordinatorOptions::new(&home)).await.unwrap();
        assert_eq!(coordinator.warehouse().versions("c").await.unwrap(), [0]);
        assert_eq!(coordinator.builds().await.unwrap()[0].state, BuildState::Committed);
    });
}

#[test]
fn a_cancelled_script_runs_nothing_more() {
    on_large_stack(async {
        let root = tempfile::tempdir().unwrap();
        let watcher = Arc::new(Watcher::default());
        watcher.cancel.cancel();
        let coordinator = Coordinator::open(options(root.path(), &watcher)).await.unwrap();
        let mut kept = Kept::default();
        let ended = coordinator
            .run_script("CREATE VIEW v AS SELECT 1 AS one", "a.sql", &mut kept)
            .await;
        assert!(matches!(ended, Err(CoordinatorError::Cancelled)));
        // The sink was never asked to take anything.
        kept.outcome(crate::Outcome::Message("end".into())).await.unwrap();
        assert_eq!(kept.text, "end");
    });
}

/// Rows of 650 bytes, 40 MB in all: more than the limit below.
const LARGE: &str = "CREATE OR REFRESH CORPUS c (PRIMARY KEY (id)) PARTITIONED BY (split) WITH (shards = 3) AS
  SELECT value AS id, 'train' AS split, repeat(md5(CAST(value AS VARCHAR)), 20) AS body
  FROM generate_series(1, 60000);";

#[test]
fn too_little_memory_spills_and_gives_the_same_bytes() {
    on_large_stack(async {
        let root = tempfile::tempdir().unwrap();
        let build = async |name: &str, memory: Option<usize>| {
            let home = root.path().join(name);
            let watcher = Arc::new(Watcher::default());
            let options = CoordinatorOptions {
                memory_limit_bytes: memory,
                batch_size: Some(1024),
                ..options(&home, &watcher)
            };
            let mut kept = run_with(options, LARGE).await.unwrap();
            let spilled = watcher.spilled.load(Ordering::Relaxed);
            (kept.builds.remove(0).digest, shards(&home), spilled)
        };
        let (digest, bytes, none) = build("plenty", Some(1 << 30)).await;
        let (same, same_bytes, spilled) = build("little", Some(24 << 20)).await;
        assert_eq!(none, 0, "with 1 GiB nothing is spilled");
        assert!(spilled > 8 << 20, "only {spilled} bytes were spilled");
        assert_eq!(digest, same);
        assert!(bytes == same_bytes, "other bytes");
    });
}
