//! A version in the formats of other trainers.
//!
//! ```text
//! CorpusReader ─► blocks in slot order, masked rows left out ─► a FormatWriter ─► pieces of files ─► object store
//! ```
//! To add a format: one file here with a [`FormatWriter`], one variant of [`ExportFormat`], one arm in `writer`.

mod mds;
mod megatron;
mod parquet;
mod value;
mod webdataset;

use std::collections::BTreeMap;
use std::sync::Arc;

use ::bytes::Bytes;
use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::Serialize;

use crate::error::{CorpusError, Result};
use crate::manifest::Manifest;
use crate::read::CorpusReader;
use crate::store::complete;
use crate::store::{StoreOptions, open_store};

/// Blocks that are read ahead of the one that is written.
const BLOCKS_AHEAD: usize = 2;

/// The formats that a version can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// Tar shards, a sample per row: numbers and text in `.json`, lists of numbers in `.npy`, bytes in files of their
    /// own (WebDataset).
    WebDataset,
    /// MosaicML Streaming: `index.json` and `shard.00000.mds`, version 2.
    Mds,
    /// Megatron-LM's indexed data set of one token column, `int32`, a document per row: `PREFIX.bin`, `PREFIX.idx`.
    Megatron,
    /// Parquet files with all columns, partition columns among them.
    Parquet,
}

/// What to export, and how.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// Columns in their order; all for `None`. For Megatron the token column, which may be left out if there is one
    /// list of integers only.
    pub columns: Option<Vec<String>>,
    /// Size after which a file is closed and the next begun, bytes. MDS files stay below 4 GiB in any case.
    pub file_bytes: u64,
    /// Options of the store that is written to.
    pub store: StoreOptions,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            columns: None,
            file_bytes: 64 << 20,
            store: StoreOptions::new(),
        }
    }
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// Files with their sizes in bytes, keys in the store, in the order in which they were completed.
    pub files: Vec<(String, u64)>,
    /// Rows written.
    pub rows: u64,
    /// Rows left out because they are masked (erased or taken down).
    pub masked: u64,
    /// Rows left out because their tokens are NULL or empty, which Megatron cannot hold.
    pub empty: u64,
}

/// Writes a version at `to`: a folder (local path or URL) that is empty or absent, for Megatron the prefix of the two
/// files. The files are the same, to the byte, for the same version and options.
///
/// `progress` is called with rows and bytes written so far. Holds two blocks and one file (`file_bytes`; Megatron: 20
/// bytes per row).
///
/// # Errors
/// [`CorpusError::Argument`] if something is there already or the options do not fit, [`CorpusError::Column`] for
/// values that the format cannot hold, and those of reading and of the store. What was completed before stays.
pub async fn export(
    reader: &CorpusReader,
    format: ExportFormat,
    to: &str,
    options: &ExportOptions,
    mut progress: impl FnMut(u64, u64),
) -> Result<ExportReport> {
    let (store, root) = open_store(to, &options.store)?;
    let columns = columns(reader, format, options)?;
    let names: Vec<&str> = columns.iter().map(String::as_str).collect();
    let fields = names.iter().map(|n| reader.schema().field_with_name(n).cloned());
    let fields = fields
        .collect::<Result<Vec<_>, _>>()
        .map_err(CorpusError::arrow("choosing columns"))?;
    let schema: SchemaRef = Arc::new(arrow::datatypes::Schema::new(fields));
    let prefix = match format {
        ExportFormat::Megatron => root.filename().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    let mut writer = writer(format, &schema, reader.manifest(), options, &prefix)?;
    let folder = if prefix.is_empty() { root } else { parent(&root) };
    refuse_overwriting(&store, &folder, &prefix, to).await?;
    let mut output = Output::default();
    let mut uploads = Uploads {
        store,
        folder,
        open: BTreeMap::new(),
        report: ExportReport::default(),
        bytes: 0,
    };
    let mut blocks = std::pin::pin!(reader.scan(Some(&names), BLOCKS_AHEAD));
    while let Some((slot, batch)) = blocks.try_next().await? {
        let kept = unmasked(reader.manifest(), slot, &batch)?;
        uploads.report.masked += (batch.num_rows() - kept.num_rows()) as u64;
        writer.write(&kept, &mut output)?;
        uploads.report.rows += kept.num_rows() as u64;
        uploads.put(&mut output).await?;
        progress(uploads.report.rows, uploads.bytes);
    }
    writer.finish(&mut output)?;
    uploads.report.rows -= output.empty;
    uploads.report.empty = output.empty;
    uploads.put(&mut output).await?;
    Ok(uploads.report)
}

/// Turns rows into files. Never waits: what is ready is put into the output.
trait FormatWriter: Send {
    fn write(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()>;
    fn finish(&mut self, output: &mut Output) -> Result<()>;
}

fn writer(
    format: ExportFormat,
    schema: &SchemaRef,
    manifest: &Manifest,
    options: &ExportOptions,
    prefix: &str,
) -> Result<Box<dyn FormatWriter>> {
    Ok(match format {
        ExportFormat::WebDataset => Box::new(webdataset::WebDataset::new(
            schema,
            &manifest.corpus,
            options.file_bytes,
        )),
        ExportFormat::Mds => Box::new(mds::Mds::new(schema, manifest, options.file_bytes)?),
        ExportFormat::Megatron => Box::new(megatron::Megatron::new(schema, prefix)?),
        ExportFormat::Parquet => Box::new(parquet::PlainParquet::new(schema, options.file_bytes)),
    })
}

/// What a writer has ready.
#[derive(Default)]
struct Output {
    pieces: Vec<Piece>,
    empty: u64,
}

struct Piece {
    name: String,
    bytes: Vec<u8>,
    last: bool,
}

impl Output {
    /// Adds bytes to the end of a file.
    fn append(&mut self, name: &str, bytes: Vec<u8>) {
        self.pieces.push(Piece {
            name: name.to_owned(),
            bytes,
            last: false,
        });
    }

    /// Adds the last bytes of a file.
    fn close(&mut self, name: &str, bytes: Vec<u8>) {
        self.pieces.push(Piece {
            name: name.to_owned(),
            bytes,
            last: true,
        });
    }
}

struct Uploads {
    store: Arc<dyn ObjectStore>,
    folder: Path,
    open: BTreeMap<String, (BufWriter, u64)>,
    report: ExportReport,
    bytes: u64,
}

impl Uploads {
    async fn put(&mut self, output: &mut Output) -> Result<()> {
        for piece in output.pieces.drain(..) {
            let path = self.folder.clone().join(piece.name.as_str());
            let begin = || (BufWriter::new(self.store.clone(), path.clone()), 0);
            let (upload, bytes) = self.open.entry(piece.name.clone()).or_insert_with(begin);
            *bytes += piece.bytes.len() as u64;
            self.bytes += piece.bytes.len() as u64;
            upload
                .put(Bytes::from(piece.bytes))
                .await
                .map_err(CorpusError::store("write", &path))?;
            if piece.last {
                complete(upload, &path).await?;
                self.report.files.push((path.to_string(), *bytes));
                self.open.remove(&piece.name);
            }
        }
        Ok(())
    }
}

fn parent(path: &Path) -> Path {
    let parts: Vec<_> = path.parts().collect();
    parts[..parts.len().saturating_sub(1)].iter().cloned().collect()
}

async fn refuse_overwriting(store: &Arc<dyn ObjectStore>, folder: &Path, prefix: &str, to: &str) -> Result<()> {
    let occupied = if prefix.is_empty() {
        let mut listed = store.list(Some(folder));
        listed
            .try_next()
            .await
            .map_err(CorpusError::store("list", folder))?
            .map(|o| o.location)
    } else {
        let mut found = None;
        for name in [format!("{prefix}.bin"), format!("{prefix}.idx")] {
            let path = folder.clone().join(name);
            found = found.or(store.head(&path).await.ok().map(|o| o.location));
        }
        found
    };
    match occupied {
        None => Ok(()),
        Some(there) => {
            let detail = format!("{there} is there already; name an empty folder or a new prefix, or remove it");
            Err(CorpusError::argument("export to", to, detail))
        }
    }
}

fn unmasked(manifest: &Manifest, first_slot: u64, batch: &RecordBatch) -> Result<RecordBatch> {
    if manifest.masked.is_empty() {
        return Ok(batch.clone());
    }
    let keep = (0..batch.num_rows() as u64).map(|row| Some(!manifest.is_masked(first_slot + row)));
    filter_record_batch(batch, &keep.collect::<BooleanArray>()).map_err(CorpusError::arrow("leaving out masked rows"))
}

fn columns(reader: &CorpusReader, format: ExportFormat, options: &ExportOptions) -> Result<Vec<String>> {
    let schema = reader.schema();
    let all = || schema.fields().iter().map(|f| f.name().clone()).collect();
    if let Some(columns) = &options.columns {
        // Says which column is unknown, and which is nearest, before anything is written.
        reader.projection(Some(&columns.iter().map(String::as_str).collect::<Vec<_>>()))?;
    }
    if format != ExportFormat::Megatron {
        return Ok(options.columns.clone().unwrap_or_else(all));
    }
    let tokens =
        |f: &&arrow::datatypes::FieldRef| matches!(f.data_type(), DataType::List(i) if i.data_type().is_integer());
    let candidates: Vec<String> = schema
        .fields()
        .iter()
        .filter(tokens)
        .map(|f| f.name().clone())
        .collect();
    match options.columns.as_deref() {
        Some([one]) if candidates.contains(one) => Ok(vec![one.clone()]),
        None if candidates.len() == 1 => Ok(candidates),
        given => {
            let given = given.map_or_else(|| "none".to_owned(), |g| g.join(", "));
            let detail = format!(
                "name the one column of tokens (a list of integers): {}",
                candidates.join(" or ")
            );
            Err(CorpusError::argument("columns for Megatron", given, detail))
        }
    }
}
