//! Writes one shard.
//!
//! ```text
//! batches of any size ─► cast to the stored schema ─► digest, lengths, statistics
//!                                   └─► re-batch to block_rows ─► row group ─► xxh3 ─► multi-part upload
//! ```
//! The bytes depend on the rows, their order, the schema and the options alone: not on how the rows came in batches,
//! nor on the time, the machine or the path.

use std::sync::Arc;

use arrow::array::Scalar;
use arrow::compute::concat_batches;
use arrow::compute::kernels::cmp::distinct;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use xxhash_rust::xxh3::Xxh3;

use super::partition::partition_array;
use super::statistics::StatisticsBuilder;
use super::{BLOCK_ROWS, Block, ShardFile};
use crate::column::{stored_schema, to_stored};
use crate::digest::{Checksum, RowDigest};
use crate::error::{CorpusError, Result};
use crate::lengths::{LengthsWriter, list_columns};
use crate::store::object_path;

/// Readers take this apart as "application version x.y.z" to work around old writers' faults, so it has that form;
/// it changes only together with the bytes that a shard has.
pub(crate) const CREATED_BY: &str = "corpusmill version 1.0.0 (build corpusmill)";

/// How a shard is encoded; part of what its bytes depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardOptions {
    /// Rows of a block, at least 1.
    pub block_rows: usize,
    /// Level of ZSTD for all but lists of numbers, 1 to 22.
    pub zstd_level: i32,
}

impl Default for ShardOptions {
    fn default() -> Self {
        Self {
            block_rows: BLOCK_ROWS,
            zstd_level: 3,
        }
    }
}

/// Where a shard goes and which rows it stands for.
#[derive(Clone, Debug)]
pub struct ShardPlace {
    /// Folder of the corpus in the store (`warehouse/mod_text`).
    pub root: Path,
    /// Key of the shard's object below it, see [`shard_path`](super::shard_path).
    pub path: String,
    /// Partition columns with their values.
    pub partition: Vec<(String, Option<String>)>,
    /// Generation of the shard.
    pub generation: u32,
    /// Number of the shard in its partition.
    pub shard: u32,
}

/// Writes the rows of one shard, in the order in which they come (sorted by hash and key before).
///
/// Holds at most one block of rows, one encoded block and the parts that are being uploaded (about 30 MB). The
/// object appears with [`finish`](Self::finish); a writer that is dropped leaves at most an unfinished upload.
pub struct ShardWriter {
    place: ShardPlace,
    options: ShardOptions,
    store: Arc<dyn ObjectStore>,
    /// All columns as stored, partition columns included: what the digest is over.
    schema: SchemaRef,
    /// Indices of the columns that are in the file.
    data_columns: Vec<usize>,
    encoder: ArrowWriter<Vec<u8>>,
    upload: BufWriter,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    lengths: LengthsWriter,
    statistics: StatisticsBuilder,
    digest: RowDigest,
    file_hash: Xxh3,
    bytes: u64,
    blocks: Vec<Block>,
}

impl ShardWriter {
    /// Begins a shard.
    ///
    /// `schema` holds the columns of the corpus in their order, partition columns included; it is brought to what a
    /// corpus stores ([`stored_schema`]), and so are the batches.
    ///
    /// # Errors
    /// [`CorpusError::Column`] for a type that cannot be stored or a partition column that does not exist,
    /// [`CorpusError::Argument`] for a path or option that is not usable.
    pub fn new(store: Arc<dyn ObjectStore>, place: ShardPlace, schema: &Schema, options: ShardOptions) -> Result<Self> {
        let schema = stored_schema(schema)?;
        for (column, value) in &place.partition {
            let field = schema
                .field_with_name(column)
                .map_err(|_| CorpusError::column(column, "is a partition column and not in the corpus"))?;
            // Fails here rather than at each batch.
            partition_array(column, value.as_deref(), field.data_type(), 1)?;
        }
        let is_data = |i: &usize| !place.partition.iter().any(|(p, _)| p == schema.field(*i).name());
        let data_columns: Vec<usize> = (0..schema.fields().len()).filter(is_data).collect();
        if data_columns.is_empty() {
            return Err(CorpusError::argument(
                "shard",
                &place.path,
                "a corpus needs a column that is not a partition column",
            ));
        }
        let data_schema = Arc::new(
            schema
                .project(&data_columns)
                .map_err(CorpusError::arrow("choosing columns"))?,
        );
        let properties = properties(&data_schema, options)?;
        let encoder = ArrowWriter::try_new(Vec::new(), data_schema.clone(), Some(properties))
            .map_err(CorpusError::parquet(&place.path))?;
        let object = object_path(&place.root, &place.path)?;
        // Parts are at least 5 MiB on S3; until the first is full nothing but memory is used.
        let upload = BufWriter::with_capacity(store.clone(), object, 8 << 20);
        let lengths = LengthsWriter::new(list_columns(&data_schema));
        Ok(Self {
            place,
            options,
            store,
            schema,
            data_columns,
            encoder,
            upload,
            lengths,
            bytes: 0,
            pending: Vec::new(),
            pending_rows: 0,
            statistics: StatisticsBuilder::default(),
            digest: RowDigest::default(),
            file_hash: Xxh3::new(),
            blocks: Vec::new(),
        })
    }

    /// The columns as they are stored, partition columns included.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Memory held, bytes: for the caller's reservation.
    pub fn memory_bytes(&self) -> usize {
        let pending: usize = self.pending.iter().map(RecordBatch::get_array_memory_size).sum();
        // The upload keeps what it has until a part is full.
        let upload = usize::try_from(self.bytes).unwrap_or(usize::MAX).min(8 << 20);
        pending + self.encoder.memory_size() + self.lengths.memory_bytes() + upload
    }

    /// Adds rows. Columns are found by name; partition columns may be left out, and must agree with the place if not.
    ///
    /// # Errors
    /// [`CorpusError::Column`] for a value that does not fit or contradicts the partition, [`CorpusError::Store`] if
    /// an upload fails.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let stored = to_stored(&self.with_partition(batch)?, &self.schema)?;
        self.digest.add(&stored)?;
        let data = stored
            .project(&self.data_columns)
            .map_err(CorpusError::arrow("choosing columns"))?;
        self.statistics.add(&data)?;
        self.lengths.add(&data)?;
        self.pending_rows += data.num_rows();
        self.pending.push(data);
        let block_rows = self.options.block_rows;
        if self.pending_rows < block_rows {
            return Ok(());
        }
        let rows = self.take_pending()?;
        let mut start = 0;
        while rows.num_rows() - start >= block_rows {
            self.write_block(&rows.slice(start, block_rows)).await?;
            start += block_rows;
        }
        if start < rows.num_rows() {
            self.pending_rows = rows.num_rows() - start;
            self.pending.push(rows.slice(start, self.pending_rows));
        }
        Ok(())
    }

    /// Completes the shard: the object exists when this returns, and beside it that of the row lengths.
    ///
    /// # Errors
    /// [`CorpusError::Store`] if an upload fails.
    pub async fn finish(mut self) -> Result<ShardFile> {
        if self.pending_rows > 0 {
            let rest = self.take_pending()?;
            self.write_block(&rest).await?;
        }
        self.encoder.finish().map_err(CorpusError::parquet(&self.place.path))?;
        let footer = self.forward(0).await?;
        let root = &self.place.root;
        crate::store::complete(&mut self.upload, &object_path(root, &self.place.path)?).await?;
        let lengths = self.lengths.finish(&self.store, root, &self.place.path).await?;
        Ok(ShardFile {
            path: self.place.path,
            partition: self.place.partition,
            generation: self.place.generation,
            shard: self.place.shard,
            rows: self.digest.rows,
            bytes: self.bytes,
            xxh3: Checksum(self.file_hash.digest()),
            digest: self.digest,
            blocks: self.blocks,
            footer,
            statistics: self.statistics.finish(),
            lengths,
        })
    }

    /// Gives the shard up and removes what was uploaded.
    ///
    /// # Errors
    /// [`CorpusError::Store`] if the store refuses to.
    pub async fn abort(mut self) -> Result<()> {
        self.upload
            .abort()
            .await
            .map_err(CorpusError::store("abandon", &self.place.path))
    }

    fn with_partition(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = batch.columns().to_vec();
        let mut fields = batch.schema_ref().fields().to_vec();
        for (name, value) in &self.place.partition {
            let field = self
                .schema
                .field_with_name(name)
                .map_err(CorpusError::arrow("a partition column"))?;
            let array = partition_array(name, value.as_deref(), field.data_type(), batch.num_rows())?;
            match batch.schema_ref().index_of(name) {
                Ok(at) => {
                    let given = to_stored(
                        &batch.project(&[at]).map_err(CorpusError::arrow("a partition column"))?,
                        &Arc::new(Schema::new(vec![field.clone()])),
                    )?;
                    let one = Scalar::new(array.slice(0, 1));
                    let differs = distinct(given.column(0), &one).map_err(CorpusError::arrow("a partition column"))?;
                    if let Some(row) = differs.values().set_indices().next() {
                        let detail = format!(
                            "row {row} of a batch is not of partition {value:?}; partition the rows before writing"
                        );
                        return Err(CorpusError::column(name, detail));
                    }
                }
                Err(_) => {
                    fields.push(Arc::new(field.clone()));
                    columns.push(array);
                }
            }
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .map_err(CorpusError::arrow("adding partition columns"))
    }

    fn take_pending(&mut self) -> Result<RecordBatch> {
        let batches = std::mem::take(&mut self.pending);
        self.pending_rows = 0;
        match <[RecordBatch; 1]>::try_from(batches) {
            Ok([one]) => Ok(one),
            Err(many) => concat_batches(&many[0].schema(), &many).map_err(CorpusError::arrow("joining batches")),
        }
    }

    async fn write_block(&mut self, rows: &RecordBatch) -> Result<()> {
        let encode = |encoder: &mut ArrowWriter<Vec<u8>>| {
            encoder.write(rows)?;
            encoder.flush()
        };
        encode(&mut self.encoder).map_err(CorpusError::parquet(&self.place.path))?;
        let block = self.forward(rows.num_rows() as u64).await?;
        self.blocks.push(block);
        Ok(())
    }

    /// Hashes what the encoder has put out since the last call, and hands it to the upload.
    async fn forward(&mut self, rows: u64) -> Result<Block> {
        self.encoder.sync().map_err(io(&self.place.path))?;
        let encoded = std::mem::take(self.encoder.inner_mut());
        self.file_hash.update(&encoded);
        // The file begins with four bytes that belong to no block.
        let magic = if self.bytes == 0 { 4.min(encoded.len()) } else { 0 };
        let block = Block {
            rows,
            offset: self.bytes + magic as u64,
            length: (encoded.len() - magic) as u64,
            xxh3: Checksum::of(&encoded[magic..]),
        };
        self.bytes += encoded.len() as u64;
        self.upload
            .put(Bytes::from(encoded))
            .await
            .map_err(CorpusError::store("write", &self.place.path))?;
        Ok(block)
    }
}

fn io(path: &str) -> impl FnOnce(std::io::Error) -> CorpusError {
    let path = path.to_owned();
    move |source| CorpusError::Store {
        action: "write",
        path,
        source: object_store::Error::Generic {
            store: "upload",
            source: Box::new(source),
        },
    }
}

/// Token columns are stored for reading fast, the rest for little space.
///
/// Statistics are kept per row group and not per page: a block is read as a whole.
fn properties(schema: &Schema, options: ShardOptions) -> Result<WriterProperties> {
    let refuse = |what, given: String, detail: &str| Err(CorpusError::argument(what, given, detail));
    if options.block_rows == 0 || options.block_rows > 1 << 20 {
        return refuse(
            "block_rows",
            options.block_rows.to_string(),
            "expected 1 to 1,048,576 rows a block",
        );
    }
    let level = ZstdLevel::try_new(options.zstd_level)
        .map_err(|e| CorpusError::argument("zstd_level", options.zstd_level.to_string(), e.to_string()))?;
    let mut builder = WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(options.block_rows))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true);
    for field in schema.fields() {
        if let DataType::List(item) | DataType::FixedSizeList(item, _) = field.data_type()
            && (item.data_type().is_integer() || item.data_type().is_floating())
        {
            let leaf = ColumnPath::new(vec![field.name().clone(), "list".to_owned(), item.name().clone()]);
            builder = numbers(builder, leaf, item.data_type());
        }
    }
    Ok(builder.build())
}

/// Lists of numbers, by what `examples/decode_tokens.rs` measured: integers packed by their differences under a light
/// codec decode as fast as plain ones and take three quarters of their bytes (byte stream split with ZSTD takes half,
/// but readers of Parquet before 2.11, Spark 3 among them, do not know it for integers). Floats do not compress.
fn numbers(builder: WriterPropertiesBuilder, leaf: ColumnPath, item: &DataType) -> WriterPropertiesBuilder {
    let (encoding, compression) = if item.is_integer() {
        (Encoding::DELTA_BINARY_PACKED, Compression::LZ4_RAW)
    } else {
        (Encoding::PLAIN, Compression::UNCOMPRESSED)
    };
    builder
        .set_column_dictionary_enabled(leaf.clone(), false)
        .set_column_encoding(leaf.clone(), encoding)
        .set_column_compression(leaf.clone(), compression)
        .set_column_statistics_enabled(leaf, EnabledStatistics::None)
}
