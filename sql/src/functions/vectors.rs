//! Embeddings for `semantic_duplicates`; a vector of length 1 is `Binary`, its values little-endian one after the other.
//!
//! - `unit_vector(embedding)` → `Binary`: the direction of a list of numbers, NULL where it has none;
//! - `vector_cosine(a, b)` → `Float64`;
//! - `vector_centres(vector, clusters)` → `Dictionary<Int32, Binary>`: an aggregate, the centres of k-means over a sample
//!   ([`corpusmill_kernels::vectors::Centres`]); `clusters` is a constant, 0 for one a thousand rows;
//! - `placed_vector(vector, centres)` → `Struct<centre: Int32, cosine: Float64>`: the nearest centre.
//!
//! The sample is drawn by a hash of the vectors, so it is the same whatever the order of rows and their partitions are.
//! Centres are a dictionary so that they are there once in a batch, not once a row.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use corpusmill_kernels::vectors::{Centres, dot, drawn, floats, unit as to_unit};
use datafusion::arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, DictionaryArray, Float64Array, Float64Builder, Int32Builder,
    Int64Array, ListArray, StructArray,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Int32Type};
use datafusion::common::cast::{as_binary_array, as_float32_array, as_int64_array, as_list_array};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};

use super::constant_argument;

/// Vectors that one centre is found from.
const SAMPLED: usize = 32;
/// Most clusters that may be asked for.
pub(crate) const CLUSTERS_MAX: i64 = 4096;
/// Most clusters where none are asked for, and rows that are in one then.
const USUAL_CLUSTERS_MAX: usize = 512;
const USUAL_ROWS: usize = 1000;

pub(crate) fn unit() -> ScalarUDF {
    Vectors::udf(What::Unit)
}

pub(crate) fn cosine() -> ScalarUDF {
    Vectors::udf(What::Cosine)
}

pub(crate) fn placed() -> ScalarUDF {
    Vectors::udf(What::Placed)
}

pub(crate) fn centres() -> AggregateUDF {
    AggregateUDF::new_from_impl(VectorCentres {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Unit,
    Cosine,
    Placed,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Vectors {
    what: What,
    signature: Signature,
}

impl Vectors {
    fn udf(what: What) -> ScalarUDF {
        ScalarUDF::new_from_impl(Vectors {
            what,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    }
}

fn centres_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Binary))
}

fn placed_fields() -> Fields {
    Fields::from(vec![
        Field::new("centre", DataType::Int32, true),
        Field::new("cosine", DataType::Float64, true),
    ])
}

fn numbers_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Float32, true)))
}

impl ScalarUDFImpl for Vectors {
    fn name(&self) -> &str {
        match self.what {
            What::Unit => "unit_vector",
            What::Cosine => "vector_cosine",
            What::Placed => "placed_vector",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(match self.what {
            What::Unit => DataType::Binary,
            What::Cosine => DataType::Float64,
            What::Placed => DataType::Struct(placed_fields()),
        })
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match (self.what, types) {
            (What::Unit, [DataType::Null]) => Ok(vec![numbers_type()]),
            (What::Unit, [DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)])
                if item.data_type().is_numeric() =>
            {
                Ok(vec![numbers_type()])
            }
            (What::Unit, [other]) => plan_err!("an embedding is a list of numbers, found {other}"),
            (What::Cosine, [_, _]) => Ok(vec![DataType::Binary; 2]),
            (What::Placed, [_, _]) => Ok(vec![DataType::Binary, centres_type()]),
            _ => plan_err!("{} was given a wrong number of arguments", self.name()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let arrays = args.args.iter().map(|value| value.to_array(rows));
        let arrays: Vec<ArrayRef> = arrays.collect::<Result<_>>()?;
        let result: ArrayRef = match (self.what, arrays.as_slice()) {
            (What::Unit, [lists]) => Arc::new(units(as_list_array(&cast(lists, &numbers_type())?)?)?),
            (What::Cosine, [a, b]) => Arc::new(cosines(as_binary_array(a)?, as_binary_array(b)?)?),
            (What::Placed, [vectors, centres]) => Arc::new(places(as_binary_array(vectors)?, centres)?),
            _ => return plan_err!("{} was given a wrong number of arguments", self.name()),
        };
        Ok(ColumnarValue::Array(result))
    }
}

fn units(lists: &ListArray) -> Result<BinaryArray> {
    let mut vectors = BinaryBuilder::with_capacity(lists.len(), lists.values().len() * size_of::<f32>());
    for list in lists.iter() {
        let list = list.filter(|list| list.null_count() == 0);
        let vector = match &list {
            Some(list) => to_unit(as_float32_array(list)?.values()),
            None => None,
        };
        vectors.append_option(vector.map(|vector| to_bytes(&vector)));
    }
    Ok(vectors.finish())
}

fn to_bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn vector(bytes: &[u8]) -> Result<Vec<f32>> {
    floats(bytes).ok_or_else(|| exec_datafusion_err!("a vector is cut off"))
}

fn other_width(a: usize, b: usize) -> String {
    format!("embeddings have one width, found {a} and {b} values: compare those of one model")
}

fn cosines(a: &BinaryArray, b: &BinaryArray) -> Result<Float64Array> {
    let pairs = a.iter().zip(b).map(|pair| match pair {
        (Some(a), Some(b)) => Ok(Some(dot(&vector(a)?, &vector(b)?))),
        _ => Ok(None),
    });
    pairs.collect()
}

fn places(vectors: &BinaryArray, centres: &ArrayRef) -> Result<StructArray> {
    let Some(centres) = centres.as_any().downcast_ref::<DictionaryArray<Int32Type>>() else {
        return exec_err!("centres are a dictionary, found {}", centres.data_type());
    };
    let (keys, values) = (centres.keys(), as_binary_array(centres.values())?);
    let mut read: HashMap<i32, Centres> = HashMap::new();
    let (mut numbers, mut cosines) = (Int32Builder::new(), Float64Builder::new());
    let mut valid = Vec::with_capacity(vectors.len());
    for (row, bytes) in vectors.iter().enumerate() {
        let bytes = bytes.filter(|_| keys.is_valid(row));
        valid.push(bytes.is_some());
        let Some(bytes) = bytes else {
            numbers.append_null();
            cosines.append_null();
            continue;
        };
        let key = keys.value(row);
        let centres = match read.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let found = Centres::from_bytes(values.value(key as usize));
                place.insert(found.ok_or_else(|| exec_datafusion_err!("the centres are cut off"))?)
            }
        };
        let vector = vector(bytes)?;
        if vector.len() != centres.width() {
            return exec_err!("{}", other_width(centres.width(), vector.len()));
        }
        let (number, cosine) = centres.nearest(&vector);
        numbers.append_value(number as i32);
        cosines.append_value(cosine);
    }
    let columns: Vec<ArrayRef> = vec![Arc::new(numbers.finish()), Arc::new(cosines.finish())];
    Ok(StructArray::try_new(
        placed_fields(),
        columns,
        Some(NullBuffer::from(valid)),
    )?)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct VectorCentres {
    signature: Signature,
}

fn sample_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Binary, true)))
}

impl AggregateUDFImpl for VectorCentres {
    fn name(&self) -> &str {
        "vector_centres"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(centres_type())
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [_, _] => Ok(vec![DataType::Binary, DataType::Int64]),
            _ => plan_err!("vector_centres takes a vector and a number of clusters"),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match constant_argument(&args, 1)? {
            ScalarValue::Int64(Some(clusters @ 0..=CLUSTERS_MAX)) => Ok(Box::new(Sample {
                clusters: clusters as usize,
                rows: 0,
                vectors: BTreeSet::new(),
                bytes: 0,
            })),
            other => plan_err!("clusters are from 1 to {CLUSTERS_MAX}, found {other}"),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field = |name: &str, of: DataType| Arc::new(Field::new(format!("{}[{name}]", args.name), of, true));
        Ok(vec![field("sample", sample_type()), field("rows", DataType::Int64)])
    }
}

/// The vectors whose hashes are smallest, and the rows that there were.
#[derive(Debug)]
struct Sample {
    /// 0 where they follow from the rows.
    clusters: usize,
    rows: usize,
    vectors: BTreeSet<(u64, Box<[u8]>)>,
    /// Of all vectors.
    bytes: usize,
}

impl Sample {
    fn most(&self) -> usize {
        SAMPLED
            * if self.clusters == 0 {
                USUAL_CLUSTERS_MAX
            } else {
                self.clusters
            }
    }

    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some((_, first)) = self.vectors.first()
            && first.len() != bytes.len()
        {
            let width = |bytes: &[u8]| bytes.len() / size_of::<f32>();
            return exec_err!("{}", other_width(width(first), width(bytes)));
        }
        let place = drawn(&vector(bytes)?);
        let is_full = self.vectors.len() >= self.most();
        if is_full && self.vectors.last().is_some_and(|(last, _)| *last < place) {
            return Ok(());
        }
        if self.vectors.insert((place, bytes.into())) {
            self.bytes += bytes.len();
            if is_full && let Some((_, last)) = self.vectors.pop_last() {
                self.bytes -= last.len();
            }
        }
        Ok(())
    }
}

impl Accumulator for Sample {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for bytes in as_binary_array(&values[0])?.iter().flatten() {
            self.rows += 1;
            self.add(bytes)?;
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for list in as_list_array(&states[0])?.iter().flatten() {
            for bytes in as_binary_array(&list)?.iter().flatten() {
                self.add(bytes)?;
            }
        }
        let rows: &Int64Array = as_int64_array(&states[1])?;
        self.rows += rows.iter().flatten().sum::<i64>() as usize;
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let vectors = BinaryArray::from_iter_values(self.vectors.iter().map(|(_, bytes)| bytes));
        let offsets = OffsetBuffer::from_lengths([vectors.len()]);
        let item = Arc::new(Field::new_list_field(DataType::Binary, true));
        let list = ListArray::try_new(item, offsets, Arc::new(vectors), None)?;
        Ok(vec![
            ScalarValue::List(Arc::new(list)),
            ScalarValue::Int64(Some(self.rows as i64)),
        ])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let clusters = match self.clusters {
            0 => self.rows.div_ceil(USUAL_ROWS).clamp(1, USUAL_CLUSTERS_MAX),
            clusters => clusters,
        };
        let sample = self
            .vectors
            .iter()
            .take(SAMPLED * clusters)
            .map(|(_, bytes)| vector(bytes));
        let sample: Vec<Vec<f32>> = sample.collect::<Result<_>>()?;
        let views: Vec<&[f32]> = sample.iter().map(Vec::as_slice).collect();
        let centres = (!views.is_empty()).then(|| Centres::of(&views, clusters).to_bytes());
        Ok(ScalarValue::Dictionary(
            Box::new(DataType::Int32),
            Box::new(ScalarValue::Binary(centres)),
        ))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.bytes + self.vectors.len() * 64
    }
}
