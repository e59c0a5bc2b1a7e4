//! Weeks of schedules, with time as an argument.

use super::*;
use crate::home::Home;
use crate::options::CoordinatorOptions;

struct Bench {
    _folder: tempfile::TempDir,
    workspace: Arc<Workspace>,
    now: DateTime<Utc>,
    schedules: Schedules,
}

impl Bench {
    /// One corpus `c` that is made at the beginning of 2026, with a schedule and options.
    async fn new(schedule: &str, with: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = CoordinatorOptions::new(folder.path());
        let home = Home::open(&options).await.unwrap();
        let workspace = Arc::new(Workspace::new(&home, &options));
        let now = DateTime::parse_from_rfc3339("2026-01-01T00:00:00Z").unwrap().to_utc();
        let object = ObjectRow {
            name: "c".to_owned(),
            kind: ObjectKind::Corpus.words().to_owned(),
            sql: format!("CREATE CORPUS c (PRIMARY KEY (id)) WITH (shards = 1{with}) {schedule} AS SELECT 1 AS id"),
            origin: "c.sql".to_owned(),
            base_dir: "/".to_owned(),
            settings: "{}".to_owned(),
            updated_ms: now.timestamp_millis(),
        };
        workspace.catalog.put_object(Space::Relation, &object).await.unwrap();
        Self {
            _folder: folder,
            schedules: Schedules::new(Arc::clone(&workspace), now),
            workspace,
            now,
        }
    }

    fn pass(&mut self, minutes: i64) {
        self.now += TimeDelta::minutes(minutes);
    }

    /// Another process leads from now on.
    async fn another_leads(&mut self) {
        self.workspace.catalog.requeue_runs().await.unwrap();
        self.schedules = Schedules::new(Arc::clone(&self.workspace), self.now);
    }

    /// Starts what is due; gives the runs.
    async fn start(&mut self) -> Vec<RunRow> {
        let due = self.schedules.due(self.now).await.unwrap();
        let mut started = vec![];
        for run in due.start {
            started.push(self.schedules.started(&run, self.now).await.unwrap());
        }
        started
    }

    async fn end(&self, run: &RunRow, end: RunEnd) {
        self.schedules.ended(run, end, self.now).await.unwrap();
    }

    /// States and logical times, `MM-DD HH:MM`, the oldest first.
    async fn runs(&self) -> Vec<(RunState, String)> {
        let runs = self.workspace.catalog.runs_of("c").await.unwrap();
        let shown = |run: &RunRow| (run.state, moment(run.logical_ms).format("%m-%d %H:%M").to_string());
        runs.iter().rev().map(shown).collect()
    }

    async fn note(&self) -> String {
        let newest = self.workspace.catalog.newest_run("c").await.unwrap();
        newest.and_then(|run| run.note).unwrap_or_default()
    }
}

fn failed(transient: bool) -> RunEnd {
    RunEnd::Failed {
        error: "it broke".to_owned(),
        transient,
    }
}

#[tokio::test]
async fn four_weeks_of_hours_run_once_each_over_changes_of_leader() {
    let mut bench = Bench::new("SCHEDULE EVERY 1 HOURS", "").await;
    let mut ran = vec![];
    for tick in 0..4 * 7 * 24 * 6 {
        bench.pass(10);
        if tick % 500 == 499 {
            bench.another_leads().await;
        }
        for run in bench.start().await {
            ran.push(run.logical_ms);
            // Some are under way when the leader dies, and go on under the next.
            if tick % 7 != 0 {
                bench.end(&run, RunEnd::Succeeded).await;
            } else {
                bench.another_leads().await;
            }
        }
    }
    ran.dedup();
    let hours: Vec<i64> = ran.windows(2).map(|pair| (pair[1] - pair[0]) / 3_600_000).collect();
    assert!(hours.iter().all(|hours| *hours == 1), "{hours:?}");
    let runs = bench.runs().await;
    assert_eq!(runs.len(), 4 * 7 * 24);
    let open = runs.iter().filter(|(state, _)| *state != RunState::Succeeded).count();
    assert!(open <= 1, "{open}");
}

#[tokio::test]
async fn moments_that_passed_while_nobody_led() {
    for (catchup, expected) in [
        ("none", vec![(RunState::Skipped, "01-02 23:00")]),
        ("latest", vec![(RunState::Queued, "01-02 23:00")]),
        (
            "all",
            vec![(RunState::Queued, "01-01 23:00"), (RunState::Queued, "01-02 23:00")],
        ),
    ] {
        let mut bench = Bench::new("SCHEDULE CRON '0 23 * * *'", &format!(", catchup = '{catchup}'")).await;
        bench.pass(48 * 60 - 30);
        bench.another_leads().await;
        bench.schedules.due(bench.now).await.unwrap();
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(state, time)| (state, time.to_owned()))
            .collect();
        assert_eq!(bench.runs().await, expected, "{catchup}");
        let note = bench.note().await;
        assert!(
            match catchup {
                "none" => note.contains("catchup is none"),
                "latest" => note == "1 earlier times were missed",
                _ => note.is_empty(),
            },
            "{note}"
        );
        // They run one after the other, the oldest first; from then on all is as ever.
        let mut order = vec![];
        for _ in 0..30 {
            for run in bench.start().await {
                order.push(moment(run.logical_ms).format("%m-%d").to_string());
                bench.end(&run, RunEnd::Succeeded).await;
            }
            bench.pass(60);
        }
        let caught_up = expected.iter().filter(|(state, _)| *state == RunState::Queued).count();
        assert_eq!(order.len(), caught_up + 1, "{order:?}");
        assert!(order.is_sorted());
    }
}

#[tokio::test]
async fn a_moment_comes_while_a_run_is_under_way() {
    for (overlap, next) in [
        ("skip", RunState::Skipped),
        ("queue", RunState::Queued),
        ("replace", RunState::Queued),
    ] {
        let mut bench = Bench::new("SCHEDULE EVERY 1 HOURS", &format!(", overlap = '{overlap}'")).await;
        bench.pass(60);
        let running = bench.start().await.remove(0);
        bench.pass(60);
        let due = bench.schedules.due(bench.now).await.unwrap();
        assert!(due.start.is_empty(), "one after the other");
        assert_eq!(due.stop.len(), usize::from(overlap == "replace"));
        assert_eq!(bench.runs().await[1].0, next, "{overlap}");
        for run in due.stop {
            bench.end(&run, RunEnd::Replaced).await;
        }
        if overlap != "replace" {
            bench.end(&running, RunEnd::Succeeded).await;
        }
        assert_eq!(bench.start().await.len(), usize::from(overlap != "skip"));
        let states: Vec<RunState> = bench.runs().await.into_iter().map(|(state, _)| state).collect();
        let expected = match overlap {
            "skip" => [RunState::Succeeded, RunState::Skipped],
            "queue" => [RunState::Succeeded, RunState::Running],
            _ => [RunState::Skipped, RunState::Running],
        };
        assert_eq!(states, expected, "{overlap}");
    }
}

#[tokio::test]
async fn what_is_transient_is_tried_again_and_what_fails_on_is_suspended() {
    let with = ", retries = 2, retry_after = '10 minutes', suspend_after = 2, overlap = 'queue'";
    let mut bench = Bench::new("SCHEDULE EVERY 6 HOURS", with).await;
    bench.pass(360);
    // Ten minutes and then twenty behind a failure.
    for (waits, attempts) in [(0, 1), (10, 2), (20, 3)] {
        if waits > 0 {
            bench.pass(waits - 1);
            assert!(bench.start().await.is_empty(), "too early");
            bench.pass(1);
        }
        let run = bench.start().await.remove(0);
        assert_eq!(run.attempts, attempts);
        bench.end(&run, failed(true)).await;
    }
    assert_eq!(bench.runs().await, [(RunState::Failed, "01-01 06:00".to_owned())]);
    bench.pass(360);
    let run = bench.start().await.remove(0);
    bench.end(&run, failed(false)).await;
    assert_eq!(
        bench.runs().await[1].0,
        RunState::Failed,
        "what is not transient is not tried again"
    );
    // Two failed in a row.
    bench.pass(24 * 60);
    assert!(bench.start().await.is_empty());
    assert_eq!(bench.runs().await.len(), 2);
    let mut object = bench
        .workspace
        .catalog
        .object(Space::Relation, "c")
        .await
        .unwrap()
        .unwrap();
    let settings: Settings = serde_json::from_str(&object.settings).unwrap();
    assert!(settings.suspended);
    // Resumed: what passed meanwhile is nobody's business.
    let resumed = Settings {
        suspended: false,
        resumed_ms: Some(bench.now.timestamp_millis()),
        ..settings
    };
    object.settings = serde_json::to_string(&resumed).unwrap();
    object.updated_ms = bench.now.timestamp_millis() + 1;
    bench
        .workspace
        .catalog
        .put_object(Space::Relation, &object)
        .await
        .unwrap();
    assert!(bench.start().await.is_empty());
    bench.pass(360);
    let run = bench.start().await.remove(0);
    bench.end(&run, RunEnd::Succeeded).await;
    assert_eq!(bench.runs().await.len(), 3);
}

#[tokio::test]
async fn a_run_that_is_too_late_is_skipped() {
    let mut bench = Bench::new("SCHEDULE EVERY 1 DAYS", ", start_deadline = '2 hours'").await;
    bench.pass(24 * 60 + 119);
    assert_eq!(bench.start().await.len(), 1);
    let running = bench.workspace.catalog.newest_run("c").await.unwrap().unwrap();
    bench.end(&running, RunEnd::Succeeded).await;
    bench.pass(24 * 60 + 10);
    assert!(bench.start().await.is_empty());
    assert!(
        bench.note().await.contains("start_deadline is 7200 s"),
        "{}",
        bench.note().await
    );
}
