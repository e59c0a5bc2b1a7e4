//! Pairs of values that are near each other, among all that one task gathers.
//!
//! - `hamming_pairs(node, rank, hash, distance_max)`: of PDQ hashes, text of 64 hexadecimal digits, or of as many for each
//!   way in which a picture may be turned ([`corpusmill_kernels::hamming`]); about 130 bytes each, and as many a hash;
//! - `video_pairs(node, rank, hashes, distance_max, share_min)`: of videos, each the hashes of its frames, one behind the
//!   other ([`corpusmill_kernels::videos`]); about 130 bytes a frame;
//! - `cosine_pairs(node, rank, vector, threshold)`: of vectors of length 1 as bytes ([`corpusmill_kernels::vectors`]), all
//!   with all; their bytes and about 100 each.
//!
//! `node` is `FixedSizeBinary(16)`, `rank` a `Binary` that says who comes first, the bounds are constants. Gives one
//! `List<Struct<a, b, similarity, rank_a, rank_b>>` with the pairs that `duplicate_links` needs.

use std::sync::Arc;

use corpusmill_kernels::duplicate_links::Edge;
use corpusmill_kernels::hamming::{DISTANCE_MAX, hamming_edges};
use corpusmill_kernels::pdq::PdqHash;
use corpusmill_kernels::vectors::{cosine_edges, floats};
use corpusmill_kernels::videos::video_edges;
use datafusion::arrow::array::{
    Array, ArrayRef, BinaryArray, FixedSizeBinaryArray, Float64Array, ListArray, StructArray,
};
use datafusion::arrow::buffer::{Buffer, OffsetBuffer};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::cast::{
    as_binary_array, as_fixed_size_binary_array, as_list_array, as_string_array, as_struct_array,
};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

use super::{constant_argument, duplicate_links, pdq};

const ID: DataType = DataType::FixedSizeBinary(16);

pub(crate) fn hamming() -> AggregateUDF {
    GatheredPairs::udf(Measure::Hamming)
}

pub(crate) fn videos() -> AggregateUDF {
    GatheredPairs::udf(Measure::Frames)
}

pub(crate) fn cosine() -> AggregateUDF {
    GatheredPairs::udf(Measure::Cosine)
}

fn member_fields() -> Fields {
    Fields::from(vec![
        Field::new("node", ID, false),
        Field::new("rank", DataType::Binary, false),
        Field::new("value", DataType::Binary, false),
    ])
}

fn item(fields: Fields) -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Struct(fields), true))
}

/// What two values are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Measure {
    Hamming,
    Frames,
    Cosine,
}

/// How near two values of a pair are at least.
#[derive(Debug, Clone, Copy)]
enum Bound {
    DistanceMax(u32),
    /// Of frames, and the share of them.
    Frames(u32, f64),
    CosineMin(f64),
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct GatheredPairs {
    measure: Measure,
    signature: Signature,
}

impl GatheredPairs {
    fn udf(measure: Measure) -> AggregateUDF {
        AggregateUDF::new_from_impl(Self {
            measure,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    }
}

impl AggregateUDFImpl for GatheredPairs {
    fn name(&self) -> &str {
        match self.measure {
            Measure::Hamming => "hamming_pairs",
            Measure::Frames => "video_pairs",
            Measure::Cosine => "cosine_pairs",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(item(duplicate_links::edge_fields())))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let value_and_bounds = match self.measure {
            Measure::Hamming => vec![DataType::Utf8, DataType::Int64],
            Measure::Frames => vec![DataType::Utf8, DataType::Int64, DataType::Float64],
            Measure::Cosine => vec![DataType::Binary, DataType::Float64],
        };
        if types.len() != 2 + value_and_bounds.len() {
            return plan_err!("{} takes a node, a rank, a value and its bounds", self.name());
        }
        Ok([vec![ID, DataType::Binary], value_and_bounds].concat())
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let bound = match (self.measure, constant_argument(&args, 3)?) {
            (Measure::Cosine, ScalarValue::Float64(Some(threshold))) => Bound::CosineMin(threshold),
            (Measure::Hamming | Measure::Frames, ScalarValue::Int64(Some(distance))) => {
                let Ok(distance_max @ 0..=DISTANCE_MAX) = u32::try_from(distance) else {
                    return plan_err!("the distance of {} is from 0 to {DISTANCE_MAX}", self.name());
                };
                match self.measure {
                    Measure::Frames => match constant_argument(&args, 4)? {
                        ScalarValue::Float64(Some(share)) => Bound::Frames(distance_max, share),
                        other => return plan_err!("the share of video_pairs is a constant number, found {other}"),
                    },
                    _ => Bound::DistanceMax(distance_max),
                }
            }
            (_, other) => return plan_err!("the bound of {} is a constant number, found {other}", self.name()),
        };
        Ok(Box::new(Members {
            bound,
            members: Vec::new(),
            bytes: 0,
        }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = format!("{}[members]", args.name);
        Ok(vec![Arc::new(Field::new(
            name,
            DataType::List(item(member_fields())),
            true,
        ))])
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    rank: Box<[u8]>,
    node: [u8; 16],
    /// 32 bytes a hash, or the little-endian floats of a vector.
    value: Box<[u8]>,
}

#[derive(Debug)]
struct Members {
    bound: Bound,
    members: Vec<Member>,
    /// Of all ranks and values.
    bytes: usize,
}

impl Members {
    fn add(&mut self, node: &[u8], rank: &[u8], value: &[u8]) -> Result<()> {
        let node = node.try_into();
        self.bytes += rank.len() + value.len();
        self.members.push(Member {
            rank: rank.into(),
            node: node.map_err(|_| exec_datafusion_err!("a node has 16 bytes"))?,
            value: value.into(),
        });
        Ok(())
    }

    fn edges(&self) -> Result<Vec<Edge>> {
        let hashes = || -> Vec<&[PdqHash]> { self.members.iter().map(|member| member.value.as_chunks().0).collect() };
        match self.bound {
            Bound::DistanceMax(distance_max) => Ok(hamming_edges(&hashes(), distance_max)),
            Bound::Frames(distance_max, share_min) => Ok(video_edges(&hashes(), distance_max, share_min)),
            Bound::CosineMin(threshold) => {
                let vectors = self.members.iter().map(|member| floats(&member.value));
                let vectors: Option<Vec<Vec<f32>>> = vectors.collect();
                let vectors = vectors.ok_or_else(|| exec_datafusion_err!("a vector to be compared is cut off"))?;
                let vectors: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
                Ok(cosine_edges(&vectors, threshold))
            }
        }
    }
}

fn nodes<'a>(members: impl Iterator<Item = &'a Member>) -> Result<ArrayRef> {
    let bytes: Vec<[u8; 16]> = members.map(|member| member.node).collect();
    Ok(Arc::new(FixedSizeBinaryArray::try_new(
        16,
        Buffer::from_vec(bytes.into_flattened()),
        None,
    )?))
}

fn ranks<'a>(members: impl Iterator<Item = &'a Member>) -> ArrayRef {
    Arc::new(BinaryArray::from_iter_values(members.map(|member| &member.rank)))
}

fn one_list(fields: Fields, columns: Vec<ArrayRef>) -> Result<ScalarValue> {
    let items = StructArray::try_new(fields.clone(), columns, None)?;
    let offsets = OffsetBuffer::from_lengths([items.len()]);
    let list = ListArray::try_new(item(fields), offsets, Arc::new(items), None)?;
    Ok(ScalarValue::List(Arc::new(list)))
}

impl Accumulator for Members {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let nodes = as_fixed_size_binary_array(&values[0])?;
        let ranks = as_binary_array(&values[1])?;
        for row in (0..nodes.len()).filter(|row| values[2].is_valid(*row) && nodes.is_valid(*row)) {
            match self.bound {
                Bound::DistanceMax(_) | Bound::Frames(..) => {
                    let hashes = pdq::parse_all(as_string_array(&values[2])?.value(row))?;
                    self.add(nodes.value(row), ranks.value(row), hashes.as_flattened())?;
                }
                Bound::CosineMin(_) => {
                    let vector = as_binary_array(&values[2])?.value(row);
                    self.add(nodes.value(row), ranks.value(row), vector)?;
                }
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for list in as_list_array(&states[0])?.iter().flatten() {
            let members = as_struct_array(&list)?;
            let nodes = as_fixed_size_binary_array(members.column(0))?;
            let (ranks, values) = (as_binary_array(members.column(1))?, as_binary_array(members.column(2))?);
            for row in 0..members.len() {
                self.add(nodes.value(row), ranks.value(row), values.value(row))?;
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values = self.members.iter().map(|member| &member.value);
        let columns = vec![
            nodes(self.members.iter())?,
            ranks(self.members.iter()),
            Arc::new(BinaryArray::from_iter_values(values)) as ArrayRef,
        ];
        Ok(vec![one_list(member_fields(), columns)?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.members.sort_unstable();
        let edges = self.edges()?;
        let a = || edges.iter().map(|edge| &self.members[edge.a as usize]);
        let b = || edges.iter().map(|edge| &self.members[edge.b as usize]);
        let similarity: Float64Array = edges.iter().map(|edge| Some(edge.similarity)).collect();
        let columns = vec![nodes(a())?, nodes(b())?, Arc::new(similarity), ranks(a()), ranks(b())];
        one_list(duplicate_links::edge_fields(), columns)
    }

    fn size(&self) -> usize {
        // What the comparison takes on top, an index over hashes or the vectors once more, is counted beforehand.
        let compared = match self.bound {
            Bound::DistanceMax(_) | Bound::Frames(..) => 4 * self.bytes,
            Bound::CosineMin(_) => self.bytes + 24 * self.members.len(),
        };
        size_of_val(self) + self.members.capacity() * size_of::<Member>() + self.bytes + compared
    }
}
