//! The manifest of the version that a build makes.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use corpusmill_corpus::{Function, Input, MANIFEST_FORMAT, Manifest, RowDigest, Step, columns_of, write_lengths};
use corpusmill_operators::{Receipt, RowFile};
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode};

use super::gate::recorded;
use super::{Build, Planned};
use crate::error::{CoordinatorError, Result};
use crate::layout::corpus_folder;
use crate::objects::{HistoryFiles, QUARANTINE_FILES};
use crate::report::{ExpectationReport, StepReport};

/// Puts together what is known of the next version.
pub(super) fn assemble(
    build: &Build<'_>,
    planned: &Planned,
    id: &str,
    receipts: &[Receipt],
    steps: &[StepReport],
    expectations: Vec<ExpectationReport>,
) -> Result<Manifest> {
    let corpus = &planned.plan.corpus;
    let quarantine: Vec<RowFile> = receipts.iter().flat_map(|r| r.quarantine.iter().cloned()).collect();
    let mut more = BTreeMap::new();
    if !quarantine.is_empty() {
        let files = serde_json::to_value(&quarantine)
            .map_err(|e| CoordinatorError::Invalid(format!("quarantine of build {id}: {e}")))?;
        more.insert(QUARANTINE_FILES.to_owned(), files);
    }
    let mut manifest = Manifest {
        format: MANIFEST_FORMAT,
        corpus: corpus.name.clone(),
        version: build.log.version().map_or(0, |newest| newest + 1),
        build: id.to_owned(),
        parent: build.base.as_ref().map(|base| base.version),
        created_at: created_at(),
        logical_time: planned.logical,
        sql: build.statement.text.text.to_string(),
        primary_key: corpus.primary_key.clone(),
        partition_by: corpus.partitioned_by.clone(),
        shards: planned.plan.options.shards,
        columns: columns_of(&planned.plan.schema)?,
        inputs: planned.inputs.sources.iter().map(input).collect(),
        functions: planned
            .functions
            .iter()
            .map(|(name, digest)| Function {
                name: name.clone(),
                digest: digest.clone(),
            })
            .collect(),
        steps: steps.iter().map(step).collect(),
        drops: sum(receipts, |r| &r.drops),
        quarantined: sum(receipts, |r| &r.quarantined),
        quarantine_files: quarantine.into_iter().map(|file| file.path).collect(),
        expectations: expectations.iter().map(recorded).collect(),
        rows: 0,
        bytes: 0,
        digest: RowDigest::default(),
        lengths: None,
        masked: vec![],
        cpu: cpu(),
        shard_files: vec![],
        more,
    };
    let shards = receipts
        .iter()
        .flat_map(|receipt| receipt.shards.iter().cloned())
        .collect();
    manifest.set_shard_files(shards);
    HistoryFiles::keep(&planned.history, &mut manifest)?;
    Ok(manifest)
}

/// Milliseconds are what a manifest keeps.
fn created_at() -> DateTime<Utc> {
    let now = Utc::now();
    DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap_or(now)
}

fn input(source: &crate::inputs::Input) -> Input {
    let name = source
        .location
        .rsplit('/')
        .find(|part| !part.is_empty())
        .unwrap_or("source");
    Input {
        name: name.to_owned(),
        location: source.location.clone(),
        version: format!("{} files, {} bytes, {}", source.files, source.bytes, source.fingerprint),
        rows: None,
    }
}

fn step(report: &StepReport) -> Step {
    Step {
        name: report.name.clone(),
        rows_in: Some(report.rows_in),
        rows_out: report.rows_out,
        splits: report.splits,
        bytes: report.bytes,
    }
}

fn sum(receipts: &[Receipt], of: fn(&Receipt) -> &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut total = BTreeMap::new();
    for (name, rows) in receipts.iter().flat_map(of) {
        *total.entry(name.clone()).or_default() += rows;
    }
    total
}

/// What the bits may depend on: the vector units that compute kernels choose between.
fn cpu() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        let units = [
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ];
        let unit = units.iter().find(|(_, there)| *there).map_or("sse2", |(name, _)| *name);
        format!("x86_64 {unit}")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        std::env::consts::ARCH.to_owned()
    }
}

/// Whether `new` has the rows, the layout and the definition of `base`, so that it is no version of its own.
pub(super) fn same_version(base: &Manifest, new: &Manifest) -> bool {
    let layout = |m: &Manifest| {
        (
            m.columns.clone(),
            m.primary_key.clone(),
            m.partition_by.clone(),
            m.shards,
            m.sql.clone(),
        )
    };
    let checksums = |m: &Manifest| m.shard_files.iter().map(|s| s.xxh3).collect::<Vec<_>>();
    base.digest == new.digest
        && layout(base) == layout(new)
        && checksums(base) == checksums(new)
        && base.quarantined == new.quarantined
        && base.drops == new.drops
}

/// Writes the row lengths and the manifest; gives the manifest's path in the corpus' folder.
///
/// A manifest that the build wrote before it was stopped is kept when it says the same: it may be published already, by
/// the process that leads now.
///
/// # Errors
/// When storage fails, or this process may write no more.
pub(super) async fn write(build: &Build<'_>, id: &str, manifest: &mut Manifest) -> Result<String> {
    let layout = &build.workspace.layout;
    let root = layout.path(&corpus_folder(&manifest.corpus));
    let lengths = format!("_corpusmill/lengths/{id}.bin");
    manifest.lengths = write_lengths(layout.store(), &root, &lengths, &manifest.shard_files).await?;
    let path = format!("_corpusmill/manifests/{id}.json");
    let object = layout.path(&format!("{}/{path}", corpus_folder(&manifest.corpus)));
    let fail = |action| {
        let path = object.to_string();
        move |source| CoordinatorError::Store { action, path, source }
    };
    let body = manifest.to_json()?;
    let put = layout
        .store()
        .put_opts(&object, body.clone().into(), PutMode::Create.into());
    match put.await {
        Ok(_) => return Ok(path),
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {}
        Err(source) => return Err(fail("write")(source)),
    }
    let there = layout.store().get(&object).await.map_err(fail("read"))?;
    let there = there.bytes().await.map_err(fail("read"))?;
    if let Ok(there) = Manifest::from_json(object.as_ref(), &there) {
        let mine = Manifest {
            created_at: there.created_at,
            ..manifest.clone()
        };
        if there == mine {
            *manifest = mine;
            return Ok(path);
        }
    }
    build.workspace.catalog.still_leads().await?;
    layout.store().put(&object, body.into()).await.map_err(fail("write"))?;
    Ok(path)
}

/// Paths in the corpus' folder of the files that a version names; those of its history aside, which later ones name too.
pub(crate) fn files_of(manifest: &Manifest) -> Vec<String> {
    let mut files = Vec::new();
    for shard in &manifest.shard_files {
        files.push(shard.path.clone());
        files.extend(shard.lengths.as_ref().map(|lengths| lengths.path.clone()));
    }
    files.extend(manifest.quarantine_files.iter().cloned());
    files.extend(manifest.lengths.as_ref().map(|lengths| lengths.path.clone()));
    files
}
