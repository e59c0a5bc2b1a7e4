//! The columns of a corpus: which types can be stored, as readable JSON, and how a query's columns become them.

use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use serde::{Deserialize, Serialize};

use crate::error::{CorpusError, Result};

/// One column of a corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: ColumnType,
    /// Whether it may be NULL.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub nullable: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it by reference")]
fn is_true(flag: &bool) -> bool {
    *flag
}

/// The types that a corpus stores: those of Delta tables, and lists of a fixed size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// True or false.
    Boolean,
    /// 8-bit signed integer.
    Int8,
    /// 16-bit signed integer.
    Int16,
    /// 32-bit signed integer.
    Int32,
    /// 64-bit signed integer.
    Int64,
    /// IEEE 754 single.
    Float32,
    /// IEEE 754 double.
    Float64,
    /// Fixed-point number of up to 38 digits.
    Decimal {
        /// Digits in all.
        precision: u8,
        /// Digits after the point.
        scale: i8,
    },
    /// UTF-8 text.
    String,
    /// Bytes.
    Binary,
    /// Calendar day.
    Date,
    /// Microseconds since 1970-01-01; an instant if it is in UTC, else a wall clock's reading.
    Timestamp {
        /// Whether it is an instant.
        utc: bool,
    },
    /// Any number of items.
    List {
        /// Their type.
        item: Box<ColumnType>,
        /// Whether an item may be NULL.
        #[serde(default = "yes", skip_serializing_if = "is_true")]
        nullable: bool,
    },
    /// The same number of items in each row (embeddings).
    FixedSizeList {
        /// Their type.
        item: Box<ColumnType>,
        /// Whether an item may be NULL.
        #[serde(default = "yes", skip_serializing_if = "is_true")]
        nullable: bool,
        /// Items per row.
        size: i32,
    },
    /// Named parts.
    Struct {
        /// The parts.
        columns: Vec<Column>,
    },
    /// Keys with values.
    Map {
        /// Type of the keys, never NULL.
        key: Box<ColumnType>,
        /// Type of the values.
        value: Box<ColumnType>,
        /// Whether a value may be NULL.
        #[serde(default = "yes", skip_serializing_if = "is_true")]
        nullable: bool,
    },
}

impl Column {
    /// Gives the column that stores an Arrow field.
    ///
    /// Layouts (views, large offsets, dictionaries) become plain, unsigned integers become the next wider signed
    /// ones (`UInt64` becomes `Int64`; values above its range are refused when written), half floats become single,
    /// timestamps microseconds, fixed-size binary binary. Metadata of fields is left out.
    ///
    /// # Errors
    /// [`CorpusError::Column`] for types that a Delta table cannot hold (time of day, interval, union, NULL).
    pub fn of(field: &Field) -> Result<Self> {
        let kind = ColumnType::of(field.name(), field.data_type())?;
        Ok(Self {
            name: field.name().clone(),
            kind,
            nullable: field.is_nullable(),
        })
    }

    /// Gives the Arrow field in which the column is stored and read.
    pub fn to_field(&self) -> Field {
        Field::new(&self.name, self.kind.to_arrow(), self.nullable)
    }
}

impl ColumnType {
    fn of(place: &str, data_type: &DataType) -> Result<Self> {
        use DataType as D;
        let inner = |field: &FieldRef| Self::of(place, field.data_type()).map(Box::new);
        Ok(match data_type {
            D::Boolean => Self::Boolean,
            D::Int8 => Self::Int8,
            D::Int16 | D::UInt8 => Self::Int16,
            D::Int32 | D::UInt16 => Self::Int32,
            D::Int64 | D::UInt32 | D::UInt64 => Self::Int64,
            D::Float16 | D::Float32 => Self::Float32,
            D::Float64 => Self::Float64,
            D::Decimal32(precision, scale) | D::Decimal64(precision, scale) | D::Decimal128(precision, scale) => {
                Self::Decimal {
                    precision: *precision,
                    scale: *scale,
                }
            }
            D::Decimal256(precision, scale) if *precision <= 38 => Self::Decimal {
                precision: *precision,
                scale: *scale,
            },
            D::Utf8 | D::LargeUtf8 | D::Utf8View => Self::String,
            D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => Self::Binary,
            D::Date32 | D::Date64 => Self::Date,
            D::Timestamp(_, zone) => Self::Timestamp { utc: zone.is_some() },
            D::List(item) | D::LargeList(item) | D::ListView(item) | D::LargeListView(item) => Self::List {
                item: inner(item)?,
                nullable: item.is_nullable(),
            },
            D::FixedSizeList(item, size) => Self::FixedSizeList {
                item: inner(item)?,
                nullable: item.is_nullable(),
                size: *size,
            },
            D::Struct(fields) => {
                let part = |f: &FieldRef| {
                    let kind = Self::of(&format!("{place}.{}", f.name()), f.data_type())?;
                    Ok(Column {
                        name: f.name().clone(),
                        kind,
                        nullable: f.is_nullable(),
                    })
                };
                Self::Struct {
                    columns: fields.iter().map(part).collect::<Result<_>>()?,
                }
            }
            D::Map(entries, _) => match entries.data_type() {
                D::Struct(parts) if parts.len() == 2 => Self::Map {
                    key: inner(&parts[0])?,
                    value: inner(&parts[1])?,
                    nullable: parts[1].is_nullable(),
                },
                other => return Err(CorpusError::column(place, format!("a map of {other} is not a map"))),
            },
            D::Dictionary(_, value) => Self::of(place, value)?,
            D::RunEndEncoded(_, value) => Self::of(place, value.data_type())?,
            other => return Err(CorpusError::column(place, refusal(other))),
        })
    }

    fn to_arrow(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int8 => DataType::Int8,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
            Self::String => DataType::Utf8,
            Self::Binary => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Timestamp { utc } => DataType::Timestamp(TimeUnit::Microsecond, utc.then(|| "UTC".into())),
            Self::List { item, nullable } => {
                DataType::List(Arc::new(Field::new("element", item.to_arrow(), *nullable)))
            }
            Self::FixedSizeList { item, nullable, size } => {
                DataType::FixedSizeList(Arc::new(Field::new("element", item.to_arrow(), *nullable)), *size)
            }
            Self::Struct { columns } => DataType::Struct(columns.iter().map(Column::to_field).collect()),
            Self::Map { key, value, nullable } => {
                let parts = vec![
                    Field::new("key", key.to_arrow(), false),
                    Field::new("value", value.to_arrow(), *nullable),
                ];
                DataType::Map(
                    Arc::new(Field::new("key_value", DataType::Struct(parts.into()), false)),
                    false,
                )
            }
        }
    }
}

fn refusal(data_type: &DataType) -> String {
    let fix = match data_type {
        DataType::Null => "give the NULL a type: CAST(NULL AS VARCHAR)",
        DataType::Time32(_) | DataType::Time64(_) => "CAST it to VARCHAR, or keep a TIMESTAMP",
        DataType::Interval(_) | DataType::Duration(_) => "store it as a number: extract(epoch FROM …)",
        DataType::Decimal256(_, _) => "CAST it to DECIMAL(38, s)",
        _ => "CAST it to VARCHAR or to a number",
    };
    format!("a corpus cannot hold values of type {data_type}; {fix}")
}

/// Gives the schema in which a corpus stores the columns of a query; see [`Column::of`] for what changes.
///
/// # Errors
/// [`CorpusError::Column`] for a type that cannot be stored, and for a name that is given twice.
pub fn stored_schema(schema: &Schema) -> Result<SchemaRef> {
    Ok(arrow_schema(&columns_of(schema)?))
}

/// Gives the columns of a schema, see [`Column::of`].
///
/// # Errors
/// As [`stored_schema`].
pub fn columns_of(schema: &Schema) -> Result<Vec<Column>> {
    for (i, field) in schema.fields().iter().enumerate() {
        if schema.fields()[..i].iter().any(|f| f.name() == field.name()) {
            return Err(CorpusError::column(
                field.name(),
                "the name is given twice; rename one with AS",
            ));
        }
    }
    schema.fields().iter().map(|f| Column::of(f)).collect()
}

/// Gives the Arrow schema of columns.
pub fn arrow_schema(columns: &[Column]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(Column::to_field).collect::<Vec<_>>()))
}

/// Brings a batch into a stored schema: picks its columns by name and casts what differs, refusing what does not fit.
///
/// A nullable column that the batch lacks is NULL.
///
/// # Errors
/// [`CorpusError::Column`] where a value does not fit, a column is missing, or a column that may not be NULL is.
pub fn to_stored(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let column = |field: &FieldRef| match batch.column_by_name(field.name()) {
        Some(array) => cast_strictly(array, field),
        None if field.is_nullable() => Ok(new_null_array(field.data_type(), batch.num_rows())),
        None => Err(CorpusError::column(field.name(), "is missing and may not be NULL")),
    };
    let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(CorpusError::arrow("storing a batch"))
}

/// Casts an array to a field, refusing what does not fit.
pub(crate) fn cast_strictly(array: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    let cast = if array.data_type() == field.data_type() {
        array.clone()
    } else {
        let options = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        cast_with_options(array, field.data_type(), &options).map_err(|source| {
            let fix = if *array.data_type() == DataType::UInt64 {
                "; CAST it to VARCHAR or DECIMAL(20, 0), a corpus has no unsigned 64-bit numbers"
            } else {
                ""
            };
            CorpusError::column(
                field.name(),
                format!("does not fit into {}: {source}{fix}", field.data_type()),
            )
        })?
    };
    if !field.is_nullable() && cast.logical_null_count() > 0 {
        return Err(CorpusError::column(
            field.name(),
            format!("holds {} NULL and was declared NOT NULL", cast.logical_null_count()),
        ));
    }
    Ok(cast)
}
