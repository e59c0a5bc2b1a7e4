//! `nearest_hash(hash)` → `Struct<id: Utf8, distance: Int32>`: the entry of one hash list that is nearest to a PDQ hash;
//! or a list of all that are near, ordered by distance and id.
//!
//! The function carries where the list lies, not the list: a process reads it once, from the warehouse, and keeps an index
//! over it ([`HammingIndex`]: 96 bytes a hash and 4 MiB, and 8 bytes and the letters of the id for entries whose id is not
//! their hash; and, while it reads, one file of the version). Of several entries at the same distance it is the one whose id sorts first.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use corpusmill_corpus::{StoreOptions, open_store};
use corpusmill_kernels::hamming::HammingIndex;
use corpusmill_kernels::pdq::{PdqHash, hash_text};
use datafusion::arrow::array::{
    Array, ArrayRef, Int32Builder, LargeStringArray, LargeStringBuilder, ListArray, StringArray, StringBuilder,
    StructArray,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_datafusion_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::parquet::arrow::ProjectionMask;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use object_store::ObjectStoreExt as _;
use serde::{Deserialize, Serialize};

use super::pdq;
use super::text_function::{strings, text_type};
use crate::hash_lists::{HASH, ID};

/// Indexes that a process keeps, the ones that were used last.
const KEPT_MAX: usize = 2;

/// Where the entries of a version of a hash list are, and how far one may be from a hash that it matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct ListedHashes {
    /// Name of the list.
    pub(crate) name: String,
    /// URL of the folder of its files.
    pub(crate) root: String,
    /// Files, relative to it.
    pub(crate) files: Vec<String>,
    /// Entries.
    pub(crate) hashes: u64,
    /// Greatest distance in bits.
    pub(crate) distance_max: u32,
    /// All entries within it, in place of the nearest one.
    #[serde(default)]
    pub(crate) every: bool,
}

/// The function of one list.
#[derive(Debug, Clone)]
pub(crate) struct NearestHash {
    list: Arc<ListedHashes>,
    signature: Signature,
}

impl NearestHash {
    pub(crate) const NAME: &'static str = "nearest_hash";

    pub(crate) fn new(list: Arc<ListedHashes>) -> Self {
        Self {
            list,
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }

    pub(crate) fn into_udf(self) -> ScalarUDF {
        ScalarUDF::new_from_impl(self)
    }

    /// Looks through the engine's wrapper.
    pub(crate) fn of(function: &ScalarUDF) -> Option<&Self> {
        (function.inner().as_ref() as &dyn std::any::Any).downcast_ref()
    }

    pub(crate) fn list(&self) -> &ListedHashes {
        &self.list
    }
}

impl PartialEq for NearestHash {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for NearestHash {}

impl Hash for NearestHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.list.hash(state);
    }
}

fn item() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Struct(fields()), true))
}

fn fields() -> Fields {
    Fields::from(vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("distance", DataType::Int32, true),
    ])
}

impl ScalarUDFImpl for NearestHash {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(match self.list.every {
            true => DataType::List(item()),
            false => DataType::Struct(fields()),
        })
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [hash] => Ok(vec![text_type(Self::NAME, hash)?]),
            _ => plan_err!("{} takes one hash", Self::NAME),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [hashes] = args.args.as_slice() else {
            return plan_err!("{} takes one hash", Self::NAME);
        };
        let index = Index::of(&self.list)?;
        let constant = matches!(hashes, ColumnarValue::Scalar(_));
        let hashes = strings(&hashes.to_array(if constant { 1 } else { args.number_rows })?)?;
        let result: ArrayRef = match self.list.every {
            true => Arc::new(index.every(&hashes, self.list.distance_max)?),
            false => Arc::new(index.nearest_of(&hashes, self.list.distance_max)?),
        };
        match constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)),
            false => Ok(ColumnarValue::Array(result)),
        }
    }
}

/// A list in memory.
struct Index {
    hashes: HammingIndex,
    /// Empty where the id is the hash.
    ids: LargeStringArray,
}

/// One list, read by whoever comes first while the others wait.
type Slot = Arc<Mutex<Option<Arc<Index>>>>;

/// The lists of this process, the one used last at the end.
static KEPT: Mutex<Vec<(String, Slot)>> = Mutex::new(Vec::new());

impl Index {
    fn of(list: &ListedHashes) -> Result<Arc<Index>> {
        let slot = slot(list);
        let read = || {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(index) = slot.as_ref() {
                return Ok(Arc::clone(index));
            }
            let index = Arc::new(Self::read(list)?);
            *slot = Some(Arc::clone(&index));
            Ok(index)
        };
        match tokio::runtime::Handle::try_current() {
            Ok(handle) if handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread => {
                tokio::task::block_in_place(read)
            }
            _ => read(),
        }
    }

    /// Reads the list on a thread with a runtime of its own: the engine's may have no other thread that could.
    fn read(list: &ListedHashes) -> Result<Index> {
        let failed = |why: &dyn std::fmt::Display| exec_datafusion_err!("cannot read hash list {}: {why}", list.name);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(&error))?;
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| runtime.block_on(load(list)));
            reader.join().map_err(|_| failed(&"the thread that read it panicked"))?
        })
    }

    /// The nearest entry of each hash.
    fn nearest_of(&self, hashes: &StringArray, distance_max: u32) -> Result<StructArray> {
        let mut ids = StringBuilder::new();
        let mut distances = Int32Builder::with_capacity(hashes.len());
        let mut valid = Vec::with_capacity(hashes.len());
        for hash in hashes {
            let found = match hash {
                Some(hash) => self.nearest(&pdq::parse(hash)?, distance_max),
                None => None,
            };
            valid.push(found.is_some());
            distances.append_option(found.as_ref().map(|(distance, _)| *distance as i32));
            ids.append_option(found.map(|(_, id)| id));
        }
        let columns: Vec<ArrayRef> = vec![Arc::new(ids.finish()), Arc::new(distances.finish())];
        Ok(StructArray::try_new(fields(), columns, Some(NullBuffer::from(valid)))?)
    }

    /// All entries that are near each hash.
    fn every(&self, hashes: &StringArray, distance_max: u32) -> Result<ListArray> {
        let mut ids = StringBuilder::new();
        let mut distances = Int32Builder::new();
        let mut lengths = Vec::with_capacity(hashes.len());
        let mut found: Vec<(u32, String)> = Vec::new();
        for hash in hashes {
            found.clear();
            if let Some(hash) = hash {
                self.hashes.near(&pdq::parse(hash)?, distance_max, |number, distance| {
                    found.push((distance, self.id(number)));
                });
            }
            found.sort_unstable();
            lengths.push(found.len());
            for (distance, id) in &found {
                ids.append_value(id);
                distances.append_value(*distance as i32);
            }
        }
        let columns: Vec<ArrayRef> = vec![Arc::new(ids.finish()), Arc::new(distances.finish())];
        let entries = StructArray::try_new(fields(), columns, None)?;
        let offsets = OffsetBuffer::from_lengths(lengths);
        Ok(ListArray::try_new(item(), offsets, Arc::new(entries), None)?)
    }

    fn id(&self, number: u32) -> String {
        match self.ids.value(number as usize) {
            "" => hash_text(&self.hashes.hash(number)),
            id => id.to_owned(),
        }
    }

    fn nearest(&self, hash: &PdqHash, distance_max: u32) -> Option<(u32, String)> {
        let (distance, numbers) = self.hashes.nearest(hash, distance_max)?;
        let ids = numbers.iter().map(|number| self.id(*number));
        Some((distance, ids.min()?))
    }
}

fn slot(list: &ListedHashes) -> Slot {
    let key = format!("{} {}", list.root, list.files.join(" "));
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let known = match kept.iter().position(|(known, _)| *known == key) {
        Some(place) => kept.remove(place),
        None => (key, Slot::default()),
    };
    let slot = Arc::clone(&known.1);
    if kept.len() >= KEPT_MAX {
        kept.remove(0);
    }
    kept.push(known);
    slot
}

async fn load(list: &ListedHashes) -> Result<Index> {
    let (store, root) =
        open_store(&list.root, &StoreOptions::new()).map_err(|error| DataFusionError::External(Box::new(error)))?;
    let mut hashes: Vec<PdqHash> = Vec::with_capacity(usize::try_from(list.hashes).unwrap_or(0));
    let mut ids = LargeStringBuilder::new();
    for path in &list.files {
        let path = object_store::path::Path::parse(format!("{root}/{path}"))?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(store.get(&path).await?.bytes().await?)?;
        let columns = ProjectionMask::columns(reader.parquet_schema(), [HASH, ID]);
        for batch in reader.with_projection(columns).build()? {
            let batch = batch?;
            let column = |name: &str| match batch.column_by_name(name) {
                Some(column) => strings(column),
                None => plan_err!("hash list {} has no column '{name}'", list.name),
            };
            for (hash, id) in column(HASH)?.iter().zip(column(ID)?.iter()) {
                let (hash, id) = (hash.unwrap_or_default(), id.unwrap_or_default());
                hashes.push(pdq::parse(hash)?);
                ids.append_value(if id == hash { "" } else { id });
            }
        }
    }
    Ok(Index {
        hashes: HammingIndex::new(hashes),
        ids: ids.finish(),
    })
}
