//! Reports as people read them: lines of text, and the columns of lists.

use std::fmt::Write;

use chrono::{DateTime, SecondsFormat};
use corpusmill_batches::{RunInfo, Sighting, TakenDown};
use corpusmill_coordinator::{BuildInfo, BuildReport, BuildState, CorpusInfo, ScriptInfo, VacuumReport, WorkerInfo};
use corpusmill_corpus::{ExportReport, Manifest, VerifyReport};

use crate::generate::{Dataset, Written};
use crate::units;

/// Names of columns, and how a record fills them.
type Columns<T> = &'static [(&'static str, fn(&T) -> String)];

fn number(value: Option<u64>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

/// The columns of `corpora`.
pub(crate) const CORPORA: Columns<CorpusInfo> = &[
    ("name", |c| c.name.clone()),
    ("version", |c| c.version.to_string()),
    ("rows", |c| c.rows.to_string()),
    ("bytes", |c| c.bytes.to_string()),
    ("shards", |c| c.shards.to_string()),
    ("created_at", |c| c.created_at.clone()),
    ("digest", |c| c.digest.clone()),
    ("schedule", |c| c.schedule.clone().unwrap_or_default()),
    ("tags", |c| c.tags_text()),
];

/// The columns of `builds`.
pub(crate) const BUILDS: Columns<BuildInfo> = &[
    ("build", |b| b.build.clone()),
    ("object", |b| b.object.clone()),
    ("state", |b| b.state.as_str().to_owned()),
    ("version", |b| number(b.version)),
    ("logical_time", |b| b.logical_time.clone()),
    ("started_at", |b| b.started_at.clone()),
    ("finished_at", |b| b.finished_at.clone().unwrap_or_default()),
    ("rows", |b| number(b.rows)),
    ("error", |b| b.error.clone().unwrap_or_default()),
];

/// The columns of `scripts`.
pub(crate) const SCRIPTS: Columns<ScriptInfo> = &[
    ("script", |s| s.script.clone()),
    ("state", |s| s.state.clone()),
    ("origin", |s| s.origin.clone()),
];

/// The columns of `workers`.
pub(crate) const WORKERS: Columns<WorkerInfo> = &[
    ("name", |w| w.name.clone()),
    ("address", |w| w.address.clone()),
    ("vcores", |w| w.vcores.to_string()),
    ("labels", |w| w.labels.join(",")),
    ("heard_seconds_ago", |w| w.heard_seconds_ago.to_string()),
    ("id", |w| w.id.clone()),
];

/// The columns of `runs`.
pub(crate) const RUNS: Columns<RunInfo> = &[
    ("run", |r| r.run.clone()),
    ("plan", |r| r.plan.clone()),
    ("corpora", |r| r.corpora.join(", ")),
    ("steps", |r| r.steps.to_string()),
    ("log", |r| {
        // A span begins where the one before it ends.
        let begins = std::iter::once(0).chain(r.entered.iter().map(|span| span.steps));
        let spans = begins.zip(&r.entered).filter(|(_, span)| span.entries > 0);
        let told: Vec<String> = spans
            .map(|(step, span)| format!("{} from step {step}", span.entries))
            .collect();
        told.join(", ")
    }),
    ("last_at", |r| moment(r.at_ms)),
];

/// The columns of `runs --saw`.
pub(crate) const SIGHTINGS: Columns<Sighting> = &[
    ("run", |s| s.run.clone()),
    ("plan", |s| s.plan.clone()),
    ("corpus", |s| s.corpus.clone()),
    ("key", |s| s.key.join(",")),
    ("step", |s| s.step.to_string()),
    ("masked", |s| s.is_masked.to_string()),
];

/// The columns of `takedown`.
pub(crate) const TAKEN_DOWN: Columns<TakenDown> = &[
    ("plan", |t| t.plan.clone()),
    ("runs", |t| t.runs.join(", ")),
    ("rows", |t| t.appended.rows.to_string()),
    ("missing", |t| {
        let keys: Vec<String> = t.appended.missing.iter().map(|key| key.join(",")).collect();
        keys.join(" ")
    }),
];

fn moment(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok().and_then(DateTime::from_timestamp_millis);
    at.map_or_else(String::new, |at| at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// The columns of a build that has just ended, for CSV.
pub(crate) const BUILT: Columns<BuildReport> = &[
    ("corpus", |b| b.corpus.clone()),
    ("build", |b| b.build.clone()),
    ("state", |b| b.state.as_str().to_owned()),
    ("version", |b| b.version.to_string()),
    ("rows_in", |b| b.rows_in.to_string()),
    ("rows", |b| b.rows.to_string()),
    ("bytes", |b| b.bytes.to_string()),
    ("digest", |b| b.digest.clone()),
];

/// The columns of a table of a data set that was generated, for CSV.
pub(crate) const TABLES: Columns<(String, Written)> = &[
    ("table", |(name, _)| name.clone()),
    ("rows", |(_, table)| table.rows.to_string()),
    ("bytes", |(_, table)| table.bytes.to_string()),
    ("files", |(_, table)| table.files.to_string()),
];

/// Writing into a `String` cannot fail, so the results of `write!` are dropped here and nowhere else.
struct Lines(String);

impl Lines {
    fn add(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = self.0.write_fmt(line);
        self.0.push('\n');
    }
}

/// What a build did.
pub(crate) fn build(build: &BuildReport) -> String {
    let mut lines = Lines(String::new());
    let verb = match build.state {
        BuildState::Unchanged => "is unchanged at",
        _ => "has",
    };
    lines.add(format_args!(
        "{} {verb} version {}: {} rows in {} shards, {}, digest {}, {}",
        build.corpus,
        build.version,
        units::count(build.rows),
        build.shards,
        units::bytes(build.bytes),
        build.digest,
        units::duration(build.elapsed),
    ));
    lines.add(format_args!(
        "  {:>12} rows came out of the query",
        units::count(build.rows_in)
    ));
    for (reason, rows) in &build.drops {
        lines.add(format_args!("  {:>12} dropped: {reason}", units::count(*rows)));
    }
    for (reason, rows) in &build.quarantined {
        lines.add(format_args!("  {:>12} quarantined: {reason}", units::count(*rows)));
    }
    for expectation in build.expectations.iter().filter(|e| e.scope == "corpus") {
        let outcome = if expectation.passed { "held" } else { "DID NOT HOLD" };
        let saw = expectation
            .observed
            .as_ref()
            .map(|o| format!(", saw {o}"))
            .unwrap_or_default();
        lines.add(format_args!(
            "  {:>12} {}: {}{saw}",
            outcome, expectation.name, expectation.condition
        ));
    }
    if let Some(note) = &build.note {
        lines.add(format_args!("  {note}"));
    }
    lines.0.trim_end().to_owned()
}

/// What `show` says of a version.
pub(crate) fn manifest(m: &Manifest) -> String {
    let mut lines = Lines(String::new());
    lines.add(format_args!("{}@{}", m.corpus, m.version));
    lines.add(format_args!("  rows          {}", units::count(m.rows)));
    lines.add(format_args!(
        "  size          {} in {} shards",
        units::bytes(m.bytes),
        m.shard_files.len()
    ));
    lines.add(format_args!("  digest        {}", m.digest));
    lines.add(format_args!("  created       {}", m.created_at.to_rfc3339()));
    lines.add(format_args!("  logical time  {}", m.logical_time.to_rfc3339()));
    lines.add(format_args!("  build         {} on {}", m.build, m.cpu));
    lines.add(format_args!("  primary key   {}", m.primary_key.join(", ")));
    if !m.partition_by.is_empty() {
        lines.add(format_args!("  partitioned   by {}", m.partition_by.join(", ")));
    }
    lines.add(format_args!("columns"));
    for field in m.schema().fields() {
        let null = if field.is_nullable() { "" } else { " not null" };
        lines.add(format_args!("  {:<24} {}{null}", field.name(), field.data_type()));
    }
    origins(m, &mut lines);
    outcomes(m, &mut lines);
    section(&mut lines, "sql", m.sql.lines().map(str::to_owned));
    lines.0
}

/// What a version was made of.
fn origins(m: &Manifest, lines: &mut Lines) {
    section(
        lines,
        "inputs",
        m.inputs.iter().map(|i| {
            let rows = i
                .rows
                .map(|r| format!(", {} rows", units::count(r)))
                .unwrap_or_default();
            format!("{:<24} {} ({}{rows})", i.name, i.location, i.version)
        }),
    );
    section(
        lines,
        "functions",
        m.functions.iter().map(|f| format!("{:<24} {}", f.name, f.digest)),
    );
    section(
        lines,
        "steps",
        m.steps.iter().map(|s| {
            let rows_in = s
                .rows_in
                .map(|r| format!("{} rows in, ", units::count(r)))
                .unwrap_or_default();
            format!(
                "{:<24} {rows_in}{} out, {}",
                s.name,
                units::count(s.rows_out),
                units::bytes(s.bytes)
            )
        }),
    );
}

/// What its expectations took out, and how they ended.
fn outcomes(m: &Manifest, lines: &mut Lines) {
    section(
        lines,
        "expectations",
        m.expectations.iter().map(|e| {
            let saw = e.observed.as_ref().map(|o| format!(", saw {o}")).unwrap_or_default();
            format!(
                "{:<24} {} on violation {}: {}{saw}",
                e.name, e.condition, e.action, e.outcome
            )
        }),
    );
    section(
        lines,
        "dropped",
        m.drops
            .iter()
            .map(|(why, rows)| format!("{:<24} {}", why, units::count(*rows))),
    );
    section(
        lines,
        "quarantined",
        m.quarantined
            .iter()
            .map(|(why, rows)| format!("{:<24} {}", why, units::count(*rows))),
    );
}

/// A heading with its lines, when there are any.
fn section(lines: &mut Lines, heading: &str, items: impl Iterator<Item = String>) {
    for (i, item) in items.enumerate() {
        if i == 0 {
            lines.add(format_args!("{heading}"));
        }
        lines.add(format_args!("  {item}"));
    }
}

/// What `verify` found.
pub(crate) fn verified(found: &VerifyReport) -> String {
    let mut lines = Lines(String::new());
    let verdict = if found.is_sound() { "sound" } else { "DAMAGED" };
    lines.add(format_args!(
        "{}@{}: {verdict}; read {} rows in {} shards, {}, digest {}",
        found.corpus,
        found.version,
        units::count(found.rows),
        found.shards,
        units::bytes(found.bytes),
        found.digest,
    ));
    for fault in &found.faults {
        lines.add(format_args!("  {fault}"));
    }
    let more = found.fault_count - found.faults.len() as u64;
    if more > 0 {
        lines.add(format_args!("  and {} more", units::count(more)));
    }
    lines.0
}

/// What `vacuum` removed.
pub(crate) fn vacuumed(removed: &VacuumReport) -> String {
    let mut lines = Lines(String::new());
    let verb = if removed.dry_run { "would remove" } else { "removed" };
    lines.add(format_args!(
        "{verb} {} files, {}",
        units::count(removed.files.len() as u64),
        units::bytes(removed.bytes)
    ));
    for file in &removed.files {
        lines.add(format_args!("  {file}"));
    }
    lines.0
}

/// What `export` wrote.
pub(crate) fn exported(written: &ExportReport, to: &str) -> String {
    let mut lines = Lines(String::new());
    let bytes = written.files.iter().map(|(_, bytes)| bytes).sum();
    let (rows, files) = (units::count(written.rows), units::count(written.files.len() as u64));
    lines.add(format_args!(
        "wrote {rows} rows in {files} files, {}, to {to}",
        units::bytes(bytes)
    ));
    if written.masked > 0 {
        lines.add(format_args!(
            "left out {} rows that are masked",
            units::count(written.masked)
        ));
    }
    if written.empty > 0 {
        lines.add(format_args!(
            "left out {} rows without tokens",
            units::count(written.empty)
        ));
    }
    lines.0
}

/// What `generate` wrote.
pub(crate) fn dataset(dataset: &Dataset) -> String {
    let mut lines = Lines(String::new());
    for (name, table) in &dataset.tables {
        let (rows, size) = (units::count(table.rows), units::bytes(table.bytes));
        lines.add(format_args!(
            "{name:<20} {rows:>12} rows {size:>10} in {}",
            units::counted(table.files, "file")
        ));
    }
    if dataset.pictures > 0 {
        lines.add(format_args!(
            "{:<20} {:>12} files",
            "media",
            units::count(dataset.pictures)
        ));
    }
    lines.add(format_args!("tokenizer.json, dataset.json"));
    lines.0
}
