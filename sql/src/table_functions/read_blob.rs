//! `read_blob('glob')` → `filename`, `content`, `size`, `last_modified`: whole files as rows, as DuckDB has it.
//!
//! Files are read one at a time and become batches of one row, so that memory is bounded by the largest file times
//! the partitions, and not at all when `content` is not asked for. It is a file format to the engine, so files are
//! listed, spread over partitions and cut into tasks like those of any other table.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{
    ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, exec_datafusion_err, exec_err};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, PartitionedFile};
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::datasource::{TableProvider, TableType, provider_as_source};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use datafusion_proto::physical_plan::from_proto::{parse_protobuf_file_scan_config, parse_table_schema_from_proto};
use datafusion_proto::physical_plan::to_proto::serialize_file_scan_config;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::FileScanExecConf;
use futures::{FutureExt, StreamExt};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use prost::Message;
use serde::{Deserialize, Serialize};

use super::arguments::Arguments;
use crate::sources::location;

/// Largest file that fits a `Binary` value, in bytes.
const BYTES_MAX: u64 = i32::MAX as u64;

pub(super) fn plan(mut arguments: Arguments) -> Result<LogicalPlan> {
    let pattern = arguments.positional("read_blob('path/*.jpg')")?;
    arguments.finish(&[])?;
    let table = BlobTable::new(&pattern)?;
    LogicalPlanBuilder::scan("read_blob", provider_as_source(Arc::new(table)), None)?.build()
}

/// Columns of the result.
fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("filename", DataType::Utf8, false),
        Field::new("content", DataType::Binary, false),
        Field::new("size", DataType::Int64, false),
        Field::new(
            "last_modified",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            false,
        ),
    ]))
}

/// The engine's listing table, which an empty result is an error for.
#[derive(Debug)]
struct BlobTable {
    listing: ListingTable,
    pattern: String,
}

impl BlobTable {
    fn new(pattern: &str) -> Result<BlobTable> {
        let url = location::parse(pattern)?;
        let format = BlobFormat {
            written: written_folder(pattern),
            prefix: url.prefix().to_string(),
        };
        let options = ListingOptions::new(Arc::new(format)).with_file_extension("");
        let config = ListingTableConfig::new(url)
            .with_listing_options(options)
            .with_schema(schema());
        Ok(BlobTable {
            listing: ListingTable::try_new(config)?,
            pattern: pattern.to_string(),
        })
    }
}

/// The part of a pattern that names a folder, as it was written: file names begin with it.
fn written_folder(pattern: &str) -> String {
    let fixed = pattern.find(['*', '?', '[']).map_or(pattern, |glob| &pattern[..glob]);
    match fixed.rfind('/') {
        Some(slash) => fixed[..=slash].to_string(),
        None => String::new(),
    }
}

#[async_trait]
impl TableProvider for BlobTable {
    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = self.listing.scan(state, projection, filters, limit).await?;
        if (plan.as_ref() as &dyn std::any::Any).is::<EmptyExec>() {
            return exec_err!("read_blob: there is no file at '{}'", self.pattern);
        }
        Ok(plan)
    }
}

/// How file names are shown: the folder as it was written, then what is below it in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobFormat {
    written: String,
    prefix: String,
}

#[async_trait]
impl FileFormat for BlobFormat {
    fn get_ext(&self) -> String {
        String::new()
    }

    fn get_ext_with_compression(&self, _compression: &FileCompressionType) -> Result<String> {
        Ok(String::new())
    }

    fn compression_type(&self) -> Option<FileCompressionType> {
        None
    }

    async fn infer_schema(
        &self,
        _state: &dyn Session,
        _store: &Arc<dyn ObjectStore>,
        _objects: &[ObjectMeta],
    ) -> Result<SchemaRef> {
        Ok(schema())
    }

    async fn infer_stats(
        &self,
        _state: &dyn Session,
        _store: &Arc<dyn ObjectStore>,
        table_schema: SchemaRef,
        _object: &ObjectMeta,
    ) -> Result<Statistics> {
        Ok(Statistics::new_unknown(&table_schema))
    }

    async fn create_physical_plan(&self, _state: &dyn Session, conf: FileScanConfig) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(DataSourceExec::from_data_source(conf))
    }

    fn file_source(&self, table_schema: TableSchema) -> Arc<dyn FileSource> {
        Arc::new(BlobSource {
            format: self.clone(),
            projection: SplitProjection::unprojected(&table_schema),
            table_schema,
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }
}

/// Reads whole files.
#[derive(Clone)]
pub(crate) struct BlobSource {
    format: BlobFormat,
    projection: SplitProjection,
    table_schema: TableSchema,
    metrics: ExecutionPlanMetricsSet,
}

impl FileSource for BlobSource {
    fn create_file_opener(
        &self,
        object_store: Arc<dyn ObjectStore>,
        _base_config: &FileScanConfig,
        _partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let opener = Arc::new(BlobOpener {
            store: object_store,
            format: self.format.clone(),
            columns: self.projection.file_indices.clone(),
        });
        ProjectionOpener::try_new(self.projection.clone(), opener, self.table_schema.file_schema())
    }

    fn table_schema(&self) -> &TableSchema {
        &self.table_schema
    }

    fn with_batch_size(&self, _batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(self.clone())
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        &self.metrics
    }

    fn file_type(&self) -> &str {
        "blob"
    }

    fn supports_repartitioning(&self) -> bool {
        false
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        Some(&self.projection.source)
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        let mut source = self.clone();
        source.projection = SplitProjection::new(
            self.table_schema.file_schema(),
            &source.projection.source.try_merge(projection)?,
        );
        Ok(Some(Arc::new(source)))
    }

    fn fmt_extra(&self, _t: datafusion::physical_plan::DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ", whole files")
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        datafusion::physical_plan::apply_expression_roots(self.projection.source.iter(), f)
    }
}

struct BlobOpener {
    store: Arc<dyn ObjectStore>,
    format: BlobFormat,
    columns: Vec<usize>,
}

impl FileOpener for BlobOpener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let store = Arc::clone(&self.store);
        let format = self.format.clone();
        let columns = self.columns.clone();
        Ok(Box::pin(async move {
            // The file is read when its batch is polled, so that opening ahead holds no content.
            let batch = async move { read(store.as_ref(), &format, &file.object_meta, &columns).await };
            Ok(batch.into_stream().boxed())
        }))
    }
}

async fn read(
    store: &dyn ObjectStore,
    format: &BlobFormat,
    meta: &ObjectMeta,
    columns: &[usize],
) -> Result<RecordBatch> {
    let below = meta
        .location
        .as_ref()
        .strip_prefix(&format.prefix)
        .unwrap_or(meta.location.as_ref())
        .trim_start_matches('/');
    let filename = match below {
        // The pattern named one file: what was written before its last slash, and its name.
        "" => format!("{}{}", format.written, meta.location.filename().unwrap_or_default()),
        below => format!("{}{below}", format.written),
    };
    let schema = schema();
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.len());
    for column in columns {
        arrays.push(match column {
            0 => Arc::new(StringArray::from(vec![filename.as_str()])),
            1 => {
                if meta.size > BYTES_MAX {
                    return exec_err!(
                        "read_blob: '{filename}' has {} bytes; a value holds at most {BYTES_MAX}",
                        meta.size
                    );
                }
                let bytes = store.get(&meta.location).await?.bytes().await?;
                Arc::new(BinaryArray::from(vec![bytes.as_ref()]))
            }
            2 => Arc::new(Int64Array::from(vec![i64::try_from(meta.size).unwrap_or(i64::MAX)])),
            _ => Arc::new(
                TimestampMicrosecondArray::from(vec![meta.last_modified.timestamp_micros()]).with_timezone("UTC"),
            ),
        });
    }
    let options = datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(1));
    Ok(RecordBatch::try_new_with_options(
        Arc::new(schema.project(columns)?),
        arrays,
        &options,
    )?)
}

/// Writes a scan of whole files: how file names are shown, then the scan.
pub(crate) fn encode(
    scan: &DataSourceExec,
    buf: &mut Vec<u8>,
    codec: &dyn PhysicalExtensionCodec,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<()> {
    let Some((config, source)) = scan.downcast_to_file_source::<BlobSource>() else {
        return exec_err!("a source of the plan has no codec: it cannot be read on a worker");
    };
    let format = serde_json::to_vec(&source.format).map_err(|e| exec_datafusion_err!("read_blob: {e}"))?;
    let length = u32::try_from(format.len()).map_err(|_| exec_datafusion_err!("read_blob: the pattern is too long"))?;
    buf.extend_from_slice(&length.to_le_bytes());
    buf.extend_from_slice(&format);
    buf.extend(serialize_file_scan_config(config, codec, converter)?.encode_to_vec());
    Ok(())
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode(
    buf: &[u8],
    context: &TaskContext,
    codec: &dyn PhysicalExtensionCodec,
    converter: &dyn PhysicalProtoConverterExtension,
) -> Result<Arc<dyn ExecutionPlan>> {
    let damaged = |why: String| exec_datafusion_err!("a scan of read_blob cannot be read: {why}");
    let parts = buf.split_first_chunk::<4>();
    let parts = parts.and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(*length) as usize));
    let (format, scan) = parts.ok_or_else(|| damaged("it is cut off".into()))?;
    let format: BlobFormat = serde_json::from_slice(format).map_err(|e| damaged(e.to_string()))?;
    let scan = FileScanExecConf::decode(scan).map_err(|e| damaged(e.to_string()))?;
    let source = format.file_source(parse_table_schema_from_proto(&scan)?);
    let context = PhysicalPlanDecodeContext::new(context, codec);
    let config = parse_protobuf_file_scan_config(&scan, &context, converter, source)?;
    Ok(DataSourceExec::from_data_source(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_begin_as_the_pattern_was_written() {
        assert_eq!(written_folder("data/images/*.jpg"), "data/images/");
        assert_eq!(written_folder("s3://lake/media/a*/x?.png"), "s3://lake/media/");
        assert_eq!(written_folder("one.png"), "");
    }
}
