//! A fixed list of Parquet files as a relation: a corpus version, a Delta snapshot, a materialised view.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::{DataFusionError, Result, ScalarValue, Statistics};
use datafusion::datasource::listing::{ListingTableUrl, PartitionedFile};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::datasource::{TableProvider, TableType};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;

/// A fixed list of Parquet files with one schema.
///
/// It is lowered to the engine's own Parquet scan, so that a plan over it can be sent to a worker as it is.
#[derive(Debug, Clone)]
pub struct FileTable {
    /// All columns in order, partition columns among them.
    pub schema: SchemaRef,
    /// Columns whose values are not stored in the files.
    pub partition_columns: Vec<String>,
    /// URL or path of the folder that the files' paths are relative to.
    pub root: String,
    /// The files, in the order in which they are read.
    pub files: Vec<DataFile>,
}

/// One Parquet file of a [`FileTable`].
#[derive(Debug, Clone, PartialEq)]
pub struct DataFile {
    /// Path relative to the table's root, with `/`.
    pub path: String,
    /// Size in bytes, as the object store reports it.
    pub bytes: u64,
    /// Rows, if known.
    pub rows: Option<u64>,
    /// Values of the partition columns, in their order, as text; `None` is NULL.
    pub partition_values: Vec<Option<String>>,
}

impl FileTable {
    /// A relation with this schema and no rows.
    pub fn empty(schema: SchemaRef) -> FileTable {
        FileTable {
            schema,
            partition_columns: Vec::new(),
            root: String::new(),
            files: Vec::new(),
        }
    }

    /// Column order in which the engine's scan delivers: file columns first, then partition columns.
    fn scan_schema(&self) -> Result<TableSchema> {
        let mut partition_fields = Vec::new();
        for name in &self.partition_columns {
            partition_fields.push(Arc::new(self.schema.field_with_name(name)?.clone()));
        }
        let file_fields: Vec<_> = self
            .schema
            .fields()
            .iter()
            .filter(|field| !self.partition_columns.contains(field.name()))
            .cloned()
            .collect();
        Ok(TableSchema::builder(Arc::new(Schema::new(file_fields)))
            .with_table_partition_cols(partition_fields)
            .build())
    }

    fn partitioned_file(&self, prefix: &str, file: &DataFile) -> Result<PartitionedFile> {
        let path = match prefix {
            "" => file.path.clone(),
            prefix => format!("{prefix}/{}", file.path),
        };
        let mut scanned = PartitionedFile::new(String::new(), file.bytes);
        // The path is as it stands in the store, percent signs and all: it must not be encoded again.
        scanned.object_meta.location = object_store::path::Path::parse(path)?;
        for (name, value) in self.partition_columns.iter().zip(&file.partition_values) {
            let data_type = self.schema.field_with_name(name)?.data_type();
            scanned
                .partition_values
                .push(partition_value(data_type, value.as_deref())?);
        }
        Ok(scanned)
    }
}

/// Parses a partition value that a log keeps as text.
fn partition_value(data_type: &DataType, value: Option<&str>) -> Result<ScalarValue> {
    match value {
        None => ScalarValue::try_from(data_type),
        Some(value) => ScalarValue::try_from_string(value.to_string(), data_type),
    }
}

#[async_trait]
impl TableProvider for FileTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    fn statistics(&self) -> Option<Statistics> {
        let mut statistics = Statistics::new_unknown(&self.schema);
        let rows: Option<u64> = self.files.iter().map(|file| file.rows).sum();
        if let Some(rows) = rows.and_then(|rows| usize::try_from(rows).ok()) {
            statistics.num_rows = Precision::Exact(rows);
        }
        Some(statistics)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.files.is_empty() {
            let schema = match projection {
                Some(indices) => Arc::new(self.schema.project(indices)?),
                None => Arc::clone(&self.schema),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let root = ListingTableUrl::parse(format!("{}/", self.root.trim_end_matches('/')))?;
        let store_url: ObjectStoreUrl = root.object_store();
        let prefix = root.prefix().to_string();
        let mut files = Vec::with_capacity(self.files.len());
        for file in &self.files {
            files.push(self.partitioned_file(&prefix, file)?);
        }
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let schema = self.scan_schema()?;
        let scan_schema = Arc::clone(schema.table_schema());
        let indices = scan_indices(&self.schema, &scan_schema, projection)?;
        let source =
            Arc::new(ParquetSource::new(schema).with_table_parquet_options(state.table_options().parquet.clone()));
        let config = FileScanConfigBuilder::new(store_url, source)
            .with_file_groups(groups)
            .with_projection_indices(Some(indices))?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

/// Turns indices into the table's schema into indices into the scan's.
fn scan_indices(table: &SchemaRef, scan: &SchemaRef, projection: Option<&Vec<usize>>) -> Result<Vec<usize>> {
    let fields: Vec<&Field> = match projection {
        Some(indices) => indices.iter().map(|index| table.field(*index)).collect(),
        None => table.fields().iter().map(AsRef::as_ref).collect(),
    };
    fields
        .into_iter()
        .map(|field| scan.index_of(field.name()).map_err(DataFusionError::from))
        .collect()
}
