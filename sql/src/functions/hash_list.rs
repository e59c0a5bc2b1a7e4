//! What hash lists are made with.
//!
//! - `hash_text(signal, hash)` → `Utf8`: the hash in lower case; NULL for NULL, an error for what is no hash of the signal.
//!   A hash is text of hexadecimal digits, or bytes.
//! - `listed_hash(signal, hash, place)`: the same for a row of a list, where NULL is an error and the place is told.
//! - `listed_id(id, number, place, first_place)`: the id, an error where `number` says that it is not the first of its kind.
//! - `hash_entries(signal, filename, content)` → `List<Struct<hash, id, tags, place>>`: the entries of a file
//!   ([`corpusmill_kernels::hash_list::read_hash_file`], and Parquet).

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use corpusmill_kernels::hash_list::{HashEntry, Signal, read_hash_file};
use datafusion::arrow::array::{
    Array, ArrayRef, BinaryArray, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder, StructBuilder,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::cast::{as_binary_array, as_int64_array};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::text_function::{constant_text, kernel_error, strings};

/// Names of the fields of an entry.
pub(crate) const ENTRY_FIELDS: [&str; 4] = ["hash", "id", "tags", "place"];
/// Bytes of text that one file may give: the entries are one value, whose offsets have 32 bits.
const TEXT_BYTES_MAX: usize = i32::MAX as usize;

pub(crate) fn hash_text() -> ScalarUDF {
    HashList::udf(What::Text)
}

pub(crate) fn listed_hash() -> ScalarUDF {
    HashList::udf(What::Listed)
}

pub(crate) fn listed_id() -> ScalarUDF {
    HashList::udf(What::Id)
}

pub(crate) fn hash_entries() -> ScalarUDF {
    HashList::udf(What::Entries)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Text,
    Listed,
    Id,
    Entries,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct HashList {
    what: What,
    signature: Signature,
}

fn entry_fields() -> Fields {
    let field = |name: &&str| Field::new(*name, DataType::Utf8, true);
    ENTRY_FIELDS.iter().map(field).collect::<Vec<_>>().into()
}

fn entries_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Struct(entry_fields()), true)))
}

impl HashList {
    fn udf(what: What) -> ScalarUDF {
        ScalarUDF::new_from_impl(HashList {
            what,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    }
}

/// A hash is read as text or as bytes; what else there may be is refused.
fn hash_type(found: &DataType) -> Result<DataType> {
    match found {
        DataType::Null => Ok(DataType::Utf8),
        found if found.is_string() => Ok(DataType::Utf8),
        DataType::Dictionary(_, values) if values.is_string() => Ok(DataType::Utf8),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            Ok(DataType::Binary)
        }
        other => plan_err!("a hash is text of hexadecimal digits or bytes, found {other}"),
    }
}

impl ScalarUDFImpl for HashList {
    fn name(&self) -> &str {
        match self.what {
            What::Text => "hash_text",
            What::Listed => "listed_hash",
            What::Id => "listed_id",
            What::Entries => "hash_entries",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(match self.what {
            What::Entries => entries_type(),
            _ => DataType::Utf8,
        })
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        const TEXT: DataType = DataType::Utf8;
        match (self.what, types) {
            (What::Text, [_, hash]) => Ok(vec![TEXT, hash_type(hash)?]),
            (What::Listed, [_, hash, _]) => Ok(vec![TEXT, hash_type(hash)?, TEXT]),
            (What::Id, [_, _, _, _]) => Ok(vec![TEXT, DataType::Int64, TEXT, TEXT]),
            (What::Entries, [_, _, _]) => Ok(vec![TEXT, TEXT, DataType::Binary]),
            _ => plan_err!("{} was given a wrong number of arguments", self.name()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let signal = || -> Result<Signal> {
            let name = constant_text(self.name(), "signal", &args.args[0])?;
            name.parse().map_err(kernel_error)
        };
        let column = |place: usize| args.args[place].to_array(rows);
        let result: ArrayRef = match self.what {
            What::Text => Arc::new(hashes(signal()?, &column(1)?, None)?),
            What::Listed => Arc::new(hashes(signal()?, &column(1)?, Some(&strings(&column(2)?)?))?),
            What::Id => {
                let (ids, places, firsts) = (strings(&column(0)?)?, strings(&column(2)?)?, strings(&column(3)?)?);
                check_ids(&ids, as_int64_array(&column(1)?)?, &places, &firsts)?;
                Arc::new(ids)
            }
            What::Entries => {
                let contents = cast(&column(2)?, &DataType::Binary)?;
                entries(signal()?, &strings(&column(1)?)?, as_binary_array(&contents)?)?
            }
        };
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// The hashes of a column; `places` say where a row of a list stands.
fn hashes(signal: Signal, column: &ArrayRef, places: Option<&StringArray>) -> Result<StringArray> {
    let texts = match column.data_type() {
        DataType::Binary => {
            let bytes = as_binary_array(column)?.iter();
            bytes.map(|bytes| bytes.map(digits)).collect()
        }
        _ => strings(column)?,
    };
    let place = |row: usize| match places.filter(|places| places.is_valid(row)) {
        Some(places) => format!("{}: ", places.value(row)),
        None => String::new(),
    };
    let read = |(row, text): (usize, Option<&str>)| match text {
        Some(text) => match signal.read(text) {
            Ok(hash) => Ok(Some(hash)),
            Err(problem) => exec_err!("{}{problem}", place(row)),
        },
        None if places.is_some() => exec_err!("{}the hash is NULL; leave such rows out with WHERE", place(row)),
        None => Ok(None),
    };
    texts.iter().enumerate().map(read).collect()
}

fn digits(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn check_ids(ids: &StringArray, numbers: &Int64Array, places: &StringArray, firsts: &StringArray) -> Result<()> {
    match (0..ids.len()).find(|row| numbers.value(*row) > 1) {
        Some(row) => {
            let shown: String = ids.value(row).chars().take(80).collect();
            let (place, first) = (places.value(row), firsts.value(row));
            exec_err!(
                "{place}: '{shown}' is in the list already ({first}); an entry is known by its id, or by its hash where it has none, and is there once"
            )
        }
        None => Ok(()),
    }
}

fn entries(signal: Signal, names: &StringArray, contents: &BinaryArray) -> Result<ArrayRef> {
    let mut lists = ListBuilder::new(StructBuilder::from_fields(entry_fields(), 0));
    let mut text_bytes = 0;
    for (name, content) in names.iter().zip(contents) {
        let (Some(name), Some(content)) = (name, content) else {
            lists.append(false);
            continue;
        };
        let found = match name.to_ascii_lowercase().ends_with(".parquet") {
            true => parquet_entries(name, content, signal)?,
            false => read_hash_file(name, content, signal).map_err(kernel_error)?,
        };
        for entry in found {
            let place = format!("{name}, row {}", entry.row);
            let cells = [Some(entry.hash), entry.id, entry.tags, Some(place)];
            text_bytes += cells.iter().flatten().map(String::len).sum::<usize>();
            if text_bytes > TEXT_BYTES_MAX {
                return exec_err!(
                    "{name} is too large to be read at once: cut it into files, or make an external table of it and write CREATE HASH LIST … AS SELECT"
                );
            }
            for (field, cell) in cells.into_iter().enumerate() {
                if let Some(texts) = lists.values().field_builder::<StringBuilder>(field) {
                    texts.append_option(cell);
                }
            }
            lists.values().append(true);
        }
        lists.append(true);
    }
    Ok(Arc::new(lists.finish()))
}

/// The entries of a Parquet file: its columns `hash`, and `id` and `tags` if they are there.
fn parquet_entries(name: &str, content: &[u8], signal: Signal) -> Result<Vec<HashEntry>> {
    let broken = |error: &dyn std::fmt::Display| exec_datafusion_err!("{name}: it is no Parquet file: {error}");
    let content = Bytes::copy_from_slice(content);
    let reader = ParquetRecordBatchReaderBuilder::try_new(content).map_err(|error| broken(&error))?;
    let reader = reader.build().map_err(|error| broken(&error))?;
    let mut entries = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| broken(&error))?;
        let text = |column: &str| text_column(&batch, column);
        let Some(hash) = batch.column_by_name("hash") else {
            return exec_err!("{name} has no column 'hash'");
        };
        let (hash, ids, tags) = (cast(hash, &hash_type(hash.data_type())?)?, text("id")?, text("tags")?);
        for row in 0..batch.num_rows() {
            let number = entries.len() + 1;
            let hash = hashes(signal, &hash.slice(row, 1), None);
            let hash = hash.map_err(|error| exec_datafusion_err!("{name}, row {number}: {}", error.message()))?;
            if hash.is_null(0) {
                return exec_err!("{name}, row {number}: the hash is NULL");
            }
            let cell = |column: &Option<StringArray>| {
                let column = column.as_ref().filter(|column| column.is_valid(row))?;
                Some(column.value(row).to_owned())
            };
            entries.push(HashEntry {
                hash: hash.value(0).to_owned(),
                id: cell(&ids),
                tags: cell(&tags),
                row: number,
            });
        }
    }
    Ok(entries)
}

fn text_column(batch: &RecordBatch, name: &str) -> Result<Option<StringArray>> {
    match batch.column_by_name(name) {
        Some(column) => Ok(Some(strings(&cast(column, &DataType::Utf8)?)?)),
        None => Ok(None),
    }
}
