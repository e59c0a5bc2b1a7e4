//! `hamming_pairs(node, rank, hash, distance_max)`: pairs of PDQ hashes that are near each other.
//!
//! `node` is `FixedSizeBinary(16)`, `rank` a `Binary` that says who comes first, `hash` text of 64 hexadecimal digits,
//! `distance_max` a constant. Gives one `List<Struct<a, b, similarity, rank_a, rank_b>>` with the pairs that
//! `duplicate_links` needs ([`corpusmill_kernels::hamming`]). It gathers all hashes in one task: about 250 bytes each.

use std::sync::Arc;

use corpusmill_kernels::hamming::{DISTANCE_MAX, hamming_edges};
use corpusmill_kernels::pdq::PdqHash;
use datafusion::arrow::array::{
    Array, ArrayRef, BinaryArray, FixedSizeBinaryArray, Float64Array, ListArray, StringArray, StructArray,
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

pub(crate) fn function() -> AggregateUDF {
    AggregateUDF::new_from_impl(HammingPairs {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

fn member_fields() -> Fields {
    Fields::from(vec![
        Field::new("node", ID, false),
        Field::new("rank", DataType::Binary, false),
        Field::new("hash", DataType::Utf8, false),
    ])
}

fn item(fields: Fields) -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Struct(fields), true))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct HammingPairs {
    signature: Signature,
}

impl AggregateUDFImpl for HammingPairs {
    fn name(&self) -> &str {
        "hamming_pairs"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(item(duplicate_links::edge_fields())))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [_, _, _, _] => Ok(vec![ID, DataType::Binary, DataType::Utf8, DataType::Int64]),
            _ => plan_err!("hamming_pairs takes a node, a rank, a hash and a distance"),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let distance_max = match constant_argument(&args, 3)? {
            ScalarValue::Int64(Some(distance)) => u32::try_from(distance).ok(),
            _ => None,
        };
        match distance_max {
            Some(distance_max @ 0..=DISTANCE_MAX) => Ok(Box::new(Hashes {
                distance_max,
                members: Vec::new(),
            })),
            _ => plan_err!("the distance of hamming_pairs is from 0 to {DISTANCE_MAX}"),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = format!("{}[hashes]", args.name);
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
    hash: PdqHash,
}

#[derive(Debug)]
struct Hashes {
    distance_max: u32,
    members: Vec<Member>,
}

impl Hashes {
    fn add(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let nodes = as_fixed_size_binary_array(&columns[0])?;
        let ranks = as_binary_array(&columns[1])?;
        let hashes = as_string_array(&columns[2])?;
        for row in (0..nodes.len()).filter(|row| hashes.is_valid(*row) && nodes.is_valid(*row)) {
            let node = nodes.value(row).try_into();
            self.members.push(Member {
                rank: ranks.value(row).into(),
                node: node.map_err(|_| exec_datafusion_err!("hamming_pairs takes nodes of 16 bytes"))?,
                hash: pdq::parse(hashes.value(row))?,
            });
        }
        Ok(())
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

impl Accumulator for Hashes {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for list in as_list_array(&states[0])?.iter().flatten() {
            self.add(as_struct_array(&list)?.columns())?;
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let hashes = self
            .members
            .iter()
            .map(|member| corpusmill_kernels::pdq::hash_text(&member.hash));
        let columns = vec![
            nodes(self.members.iter())?,
            ranks(self.members.iter()),
            Arc::new(StringArray::from_iter_values(hashes)) as ArrayRef,
        ];
        Ok(vec![one_list(member_fields(), columns)?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.members.sort_unstable();
        let hashes: Vec<PdqHash> = self.members.iter().map(|member| member.hash).collect();
        let edges = hamming_edges(&hashes, self.distance_max);
        let a = || edges.iter().map(|edge| &self.members[edge.a as usize]);
        let b = || edges.iter().map(|edge| &self.members[edge.b as usize]);
        let similarity: Float64Array = edges.iter().map(|edge| Some(edge.similarity)).collect();
        let columns = vec![nodes(a())?, nodes(b())?, Arc::new(similarity), ranks(a()), ranks(b())];
        one_list(duplicate_links::edge_fields(), columns)
    }

    fn size(&self) -> usize {
        let rank = self.members.first().map_or(0, |member| member.rank.len());
        // The index over the hashes comes on top when they are all there.
        size_of_val(self) + self.members.capacity() * size_of::<Member>() + self.members.len() * (rank + 96)
    }
}
