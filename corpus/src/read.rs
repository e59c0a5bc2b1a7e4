//! Reads a version: any block with one request, its checksum first, its columns as the manifest says.

mod block;
mod integer_lists;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use object_store::path::Path;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use tokio::sync::OnceCell;

use crate::digest::Checksum;
use crate::error::{CorpusError, RESTORE, Result};
use crate::lengths::LengthsReader;
use crate::manifest::{Manifest, SlotMap};
use crate::shard::{Block, ShardFile};
use crate::store::{object_path, read_range};
use crate::warehouse::{Warehouse, nearest};

/// A version of a corpus that is open for reading. Shared behind an `Arc`, all methods take `&self`.
///
/// ```text
/// read_block(shard, block) ─► footer of the shard (once, kept) ─┐
///                        └──► bytes of the block ─► xxh3 ───────┴─► decode ─► + partition columns ─► RecordBatch
/// ```
#[derive(Debug)]
pub struct CorpusReader {
    warehouse: Warehouse,
    root: Path,
    manifest: Manifest,
    schema: SchemaRef,
    slots: SlotMap,
    footers: Vec<OnceCell<ArrowReaderMetadata>>,
}

impl CorpusReader {
    /// Opens a version: two requests, for the commit and the manifest.
    ///
    /// # Errors
    /// As [`Warehouse::manifest`].
    pub async fn open(warehouse: &Warehouse, name: &str, version: u64) -> Result<Self> {
        let manifest = warehouse.manifest(name, version).await?;
        Self::over(warehouse, name, manifest)
    }

    /// Opens a version whose manifest is at hand.
    ///
    /// # Errors
    /// [`CorpusError::Argument`] if `name` is not the name of a corpus.
    pub fn over(warehouse: &Warehouse, name: &str, manifest: Manifest) -> Result<Self> {
        let root = warehouse.corpus_root(name)?;
        let footers = manifest.shard_files.iter().map(|_| OnceCell::new()).collect();
        let (schema, slots) = (manifest.schema(), SlotMap::new(&manifest));
        Ok(Self {
            warehouse: warehouse.clone(),
            root,
            manifest,
            schema,
            slots,
            footers,
        })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The columns, partition columns among them, in the order of the query.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Number of rows (slots), masked ones included.
    pub fn rows(&self) -> u64 {
        self.manifest.rows
    }

    /// Where the rows of slots are.
    pub fn slots(&self) -> &SlotMap {
        &self.slots
    }

    /// Opens the row lengths of the list columns.
    ///
    /// # Errors
    /// [`CorpusError::NotFound`] if the version has none, else as [`LengthsReader::open`].
    pub async fn lengths(&self) -> Result<LengthsReader> {
        let file = self.manifest.lengths.as_ref().ok_or_else(|| CorpusError::NotFound {
            what: "row lengths",
            name: format!("{}@{}", self.manifest.corpus, self.manifest.version),
            hint: "; they are kept for list columns, and this version has none".into(),
        })?;
        LengthsReader::open(self.warehouse.store().clone(), &self.root, file).await
    }

    /// Reads columns of a block, in the order given; all columns for `None`.
    ///
    /// `shard` is an index into the manifest's files, `block` into the shard's blocks. Partition columns are filled
    /// in, columns that were added after the shard was written are NULL. Masked rows are read like others: a masked
    /// slot is the caller's to leave out.
    ///
    /// # Errors
    /// [`CorpusError::Corrupt`], naming file and block, if the bytes are not what was written;
    /// [`CorpusError::NotFound`] for an unknown column; [`CorpusError::Store`] if they cannot be read.
    pub async fn read_block(&self, shard: usize, block: usize, columns: Option<&[&str]>) -> Result<RecordBatch> {
        let wanted = self.projection(columns)?;
        let (file, place) = self.place(shard, block)?;
        let footer = self.footer(shard).await?;
        let bytes = self.block_bytes(shard, block).await?;
        let task = block::Decode {
            path: file.path.clone(),
            file_bytes: file.bytes,
            block,
            place,
            footer,
            bytes,
            wanted,
        };
        let partition = file.partition.clone();
        // Decoding takes milliseconds: longer than an executor's thread may be held.
        let decoded = tokio::task::spawn_blocking(move || task.run(&partition)).await;
        decoded.unwrap_or_else(|panic| Err(self.damaged(file, &self.block_name(file, block), panic.to_string())))
    }

    /// Reads the bytes of a block as they are stored, and checks them.
    ///
    /// # Errors
    /// As [`CorpusReader::read_block`].
    pub async fn block_bytes(&self, shard: usize, block: usize) -> Result<Bytes> {
        let (file, place) = self.place(shard, block)?;
        self.checked(file, place, &self.block_name(file, block)).await
    }

    /// Reads columns of all blocks in slot order, `ahead` of them at a time, each with its first slot.
    ///
    /// # Errors
    /// Each item as [`CorpusReader::read_block`].
    pub fn scan<'a>(
        &'a self,
        columns: Option<&'a [&'a str]>,
        ahead: usize,
    ) -> impl Stream<Item = Result<(u64, RecordBatch)>> + 'a {
        let read = move |(slot, shard, block)| async move { Ok((slot, self.read_block(shard, block, columns).await?)) };
        futures::stream::iter(self.slots.blocks())
            .map(read)
            .buffered(ahead.max(1))
    }

    pub(crate) fn warehouse(&self) -> &Warehouse {
        &self.warehouse
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The footer of a shard, read once.
    pub(crate) async fn footer(&self, shard: usize) -> Result<ArrowReaderMetadata> {
        let cell = self.footers.get(shard).ok_or_else(|| self.no_block(shard, 0))?;
        let file = &self.manifest.shard_files[shard];
        let load = async || {
            let bytes = self.checked(file, file.footer, "footer").await?;
            block::parse_footer(file, &bytes).map_err(|found| self.damaged(file, "footer", found))
        };
        cell.get_or_try_init(load).await.cloned()
    }

    async fn checked(&self, file: &ShardFile, place: Block, name: &str) -> Result<Bytes> {
        let path = object_path(&self.root, &file.path)?;
        let bytes = read_range(&**self.warehouse.store(), &path, place.range())
            .await
            .map_err(|e| match e {
                CorpusError::Corrupt { found, .. } => self.damaged(file, name, found),
                other => other,
            })?;
        let found = Checksum::of(&bytes);
        if found == place.xxh3 {
            Ok(bytes)
        } else {
            Err(self.damaged(file, name, format!("checksum {found} instead of {}", place.xxh3)))
        }
    }

    fn place(&self, shard: usize, block: usize) -> Result<(&ShardFile, Block)> {
        let file = self.manifest.shard_files.get(shard);
        let place = file.and_then(|f| Some((f, *f.blocks.get(block)?)));
        place.ok_or_else(|| self.no_block(shard, block))
    }

    fn no_block(&self, shard: usize, block: usize) -> CorpusError {
        let detail = format!("{}@{} has no such block", self.manifest.corpus, self.manifest.version);
        CorpusError::argument("block", format!("{shard}/{block}"), detail)
    }

    fn block_name(&self, file: &ShardFile, block: usize) -> String {
        let range = file.blocks.get(block).map(Block::range).unwrap_or_default();
        format!(
            "block {block} of {}, bytes {}..{}",
            file.blocks.len(),
            range.start,
            range.end
        )
    }

    fn damaged(&self, file: &ShardFile, place: &str, found: String) -> CorpusError {
        CorpusError::Corrupt {
            path: format!("{}/{}", self.root, file.path),
            place: place.to_owned(),
            found,
            fix: RESTORE,
        }
    }

    /// The fields of the columns that are asked for.
    pub(crate) fn projection(&self, columns: Option<&[&str]>) -> Result<SchemaRef> {
        let Some(columns) = columns else {
            return Ok(self.schema.clone());
        };
        let field = |name: &&str| {
            self.schema.field_with_name(name).cloned().map_err(|_| {
                let names: Vec<String> = self.schema.fields().iter().map(|f| f.name().clone()).collect();
                let hint = match nearest(name, &names) {
                    Some(near) => format!("; did you mean `{near}`?"),
                    None => format!("; {} has {}", self.manifest.corpus, names.join(", ")),
                };
                CorpusError::NotFound {
                    what: "column",
                    name: (*name).to_owned(),
                    hint,
                }
            })
        };
        Ok(Arc::new(Schema::new(
            columns.iter().map(field).collect::<Result<Vec<_>>>()?,
        )))
    }
}
