//! `near_pairs(node, rank, settled, sketch, threshold)`: the members of a bucket that are worth comparing.
//!
//! `node` and `sketch` are `FixedSizeBinary(16)`, `rank` is a `Binary` by which the first of the bucket is chosen,
//! `settled` says that a member is of an earlier build (those come first, and are not compared with each other),
//! `threshold` is a constant. Gives `List<Struct<a, b>>` of nodes, NULL for a bucket without a pair. Which pairs these are
//! depends on the members alone ([`corpusmill_kernels::near_pairs`]).
//!
//! It is grouped by band, and nearly all bands have one member: so the members of all groups lie in a few vectors, in the
//! order in which they came, and a group costs nothing by itself.

use std::sync::Arc;

use corpusmill_kernels::near_pairs::near_pairs;
use datafusion::arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, BooleanArray, FixedSizeBinaryArray, ListArray, StructArray,
};
use datafusion::arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::cast::{
    as_binary_array, as_boolean_array, as_fixed_size_binary_array, as_list_array, as_struct_array,
};
use datafusion::common::{Result, exec_datafusion_err, not_impl_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};

use super::constant_argument;

const ID: DataType = DataType::FixedSizeBinary(16);

pub(crate) fn function() -> AggregateUDF {
    AggregateUDF::new_from_impl(NearPairs {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

fn pair_fields() -> Fields {
    Fields::from(vec![Field::new("a", ID, false), Field::new("b", ID, false)])
}

fn member_fields() -> Fields {
    Fields::from(vec![
        Field::new("node", ID, false),
        Field::new("rank", DataType::Binary, false),
        Field::new("settled", DataType::Boolean, false),
        Field::new("sketch", ID, false),
    ])
}

fn item(fields: Fields) -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Struct(fields), true))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct NearPairs {
    signature: Signature,
}

impl AggregateUDFImpl for NearPairs {
    fn name(&self) -> &str {
        "near_pairs"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(item(pair_fields())))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [_, _, _, _, _] => Ok(vec![ID, DataType::Binary, DataType::Boolean, ID, DataType::Float64]),
            _ => plan_err!("near_pairs takes a node, a rank, whether it is settled, a sketch and a threshold"),
        }
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("near_pairs is computed for groups only, not for windows")
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = format!("{}[members]", args.name);
        Ok(vec![Arc::new(Field::new(
            name,
            DataType::List(item(member_fields())),
            true,
        ))])
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let threshold = constant_argument(&args, 4)?.cast_to(&DataType::Float64)?;
        let datafusion::common::ScalarValue::Float64(Some(threshold)) = threshold else {
            return plan_err!("the threshold of near_pairs is a number");
        };
        Ok(Box::new(Buckets::new(threshold)))
    }
}

/// One member of a bucket.
struct Member<'a> {
    node: &'a [u8],
    rank: &'a [u8],
    settled: bool,
    sketch: &'a [u8],
}

/// Members of all buckets; the vectors have one item for each.
#[derive(Default)]
struct Members {
    groups: Vec<usize>,
    nodes: Vec<[u8; 16]>,
    sketches: Vec<[u8; 16]>,
    settled: Vec<bool>,
    rank_bytes: Vec<u8>,
    /// Where each rank ends.
    rank_ends: Vec<usize>,
}

impl Members {
    fn len(&self) -> usize {
        self.groups.len()
    }

    fn rank(&self, member: usize) -> &[u8] {
        let start = member.checked_sub(1).map_or(0, |before| self.rank_ends[before]);
        &self.rank_bytes[start..self.rank_ends[member]]
    }

    fn push(&mut self, group: usize, member: Member<'_>) -> Result<()> {
        let id = |bytes: &[u8]| -> Result<[u8; 16]> {
            bytes
                .try_into()
                .map_err(|_| exec_datafusion_err!("near_pairs takes ids of 16 bytes, found {}", bytes.len()))
        };
        self.nodes.push(id(member.node)?);
        self.sketches.push(id(member.sketch)?);
        self.settled.push(member.settled);
        self.groups.push(group);
        self.rank_bytes.extend_from_slice(member.rank);
        self.rank_ends.push(self.rank_bytes.len());
        Ok(())
    }

    fn member(&self, number: usize) -> Member<'_> {
        Member {
            node: &self.nodes[number],
            rank: self.rank(number),
            settled: self.settled[number],
            sketch: &self.sketches[number],
        }
    }

    /// Members of the groups below `groups`, ordered by group.
    fn by_group(&self, groups: usize) -> (Vec<usize>, Vec<usize>) {
        let mut ends = vec![0usize; groups + 1];
        for group in self.groups.iter().filter(|group| **group < groups) {
            ends[group + 1] += 1;
        }
        for group in 0..groups {
            ends[group + 1] += ends[group];
        }
        let mut next = ends.clone();
        let mut order = vec![0; ends[groups]];
        for (member, group) in self.groups.iter().enumerate().filter(|(_, group)| **group < groups) {
            order[next[*group]] = member;
            next[*group] += 1;
        }
        (ends, order)
    }

    /// Leaves out the groups below `groups`, and numbers the others from 0.
    fn forget(&mut self, groups: usize) -> Result<()> {
        let mut kept = Members::default();
        for member in (0..self.len()).filter(|member| self.groups[*member] >= groups) {
            let group = self.groups[member] - groups;
            kept.push(group, self.member(member))?;
        }
        *self = kept;
        Ok(())
    }
}

struct Buckets {
    threshold: f64,
    members: Members,
    /// Groups seen so far, with those that have no member.
    groups: usize,
}

impl Buckets {
    fn new(threshold: f64) -> Self {
        Buckets {
            threshold,
            members: Members::default(),
            groups: 0,
        }
    }

    /// Ends the groups that are emitted: removes them when `finish` has made an array of them.
    fn emit(&mut self, emit_to: EmitTo, finish: impl Fn(&Self, usize) -> Result<ListArray>) -> Result<ArrayRef> {
        let groups = match emit_to {
            EmitTo::All => self.groups,
            EmitTo::First(groups) => groups.min(self.groups),
        };
        let array = finish(self, groups)?;
        self.members.forget(groups)?;
        self.groups -= groups;
        Ok(Arc::new(array))
    }

    fn pairs(&self, groups: usize) -> Result<ListArray> {
        let (ends, mut order) = self.members.by_group(groups);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let mut lengths = Vec::with_capacity(groups);
        for group in 0..groups {
            let bucket = &mut order[ends[group]..ends[group + 1]];
            let before = a.len();
            if bucket.len() > 1 {
                bucket.sort_unstable_by_key(|member| {
                    let member = self.members.member(*member);
                    (!member.settled, member.rank, member.node)
                });
                let settled = bucket.iter().take_while(|member| self.members.settled[**member]);
                let settled = settled.count();
                let sketches: Vec<u128> = bucket
                    .iter()
                    .map(|member| u128::from_le_bytes(self.members.sketches[*member]))
                    .collect();
                near_pairs(&sketches, settled, self.threshold, |x, y| {
                    a.push(self.members.nodes[bucket[x]]);
                    b.push(self.members.nodes[bucket[y]]);
                });
            }
            lengths.push(a.len() - before);
        }
        let valid: NullBuffer = lengths.iter().map(|length| *length > 0).collect::<Vec<bool>>().into();
        let columns = vec![ids(a)?, ids(b)?];
        let pairs = StructArray::try_new(pair_fields(), columns, None)?;
        let offsets = OffsetBuffer::from_lengths(lengths);
        Ok(ListArray::try_new(
            item(pair_fields()),
            offsets,
            Arc::new(pairs),
            Some(valid),
        )?)
    }

    fn lists(&self, groups: usize) -> Result<ListArray> {
        let (ends, order) = self.members.by_group(groups);
        let of = |ids: &[[u8; 16]]| order.iter().map(|member| ids[*member]).collect::<Vec<_>>();
        let mut ranks = BinaryBuilder::with_capacity(order.len(), self.members.rank_bytes.len());
        order
            .iter()
            .for_each(|member| ranks.append_value(self.members.rank(*member)));
        let settled: BooleanArray = order.iter().map(|member| Some(self.members.settled[*member])).collect();
        let columns = vec![
            ids(of(&self.members.nodes))?,
            Arc::new(ranks.finish()) as ArrayRef,
            Arc::new(settled),
            ids(of(&self.members.sketches))?,
        ];
        let lengths = (0..groups).map(|group| ends[group + 1] - ends[group]);
        member_lists(columns, OffsetBuffer::from_lengths(lengths), None)
    }
}

fn ids(ids: Vec<[u8; 16]>) -> Result<ArrayRef> {
    let bytes = Buffer::from_vec(ids.into_flattened());
    Ok(Arc::new(FixedSizeBinaryArray::try_new(16, bytes, None)?))
}

fn member_lists(columns: Vec<ArrayRef>, offsets: OffsetBuffer<i32>, nulls: Option<NullBuffer>) -> Result<ListArray> {
    let members = StructArray::try_new(member_fields(), columns, None)?;
    Ok(ListArray::try_new(
        item(member_fields()),
        offsets,
        Arc::new(members),
        nulls,
    )?)
}

/// The columns of members.
struct Columns<'a> {
    nodes: &'a FixedSizeBinaryArray,
    ranks: &'a BinaryArray,
    settled: &'a BooleanArray,
    sketches: &'a FixedSizeBinaryArray,
}

impl<'a> Columns<'a> {
    fn of(values: &'a [ArrayRef]) -> Result<Self> {
        Ok(Self {
            nodes: as_fixed_size_binary_array(&values[0])?,
            ranks: as_binary_array(&values[1])?,
            settled: as_boolean_array(&values[2])?,
            sketches: as_fixed_size_binary_array(&values[3])?,
        })
    }

    /// A text without a sketch has no shingles, and is in no bucket.
    fn is_member(&self, row: usize) -> bool {
        self.nodes.is_valid(row) && self.sketches.is_valid(row)
    }

    fn member(&self, row: usize) -> Member<'a> {
        Member {
            node: self.nodes.value(row),
            rank: self.ranks.value(row),
            settled: self.settled.value(row),
            sketch: self.sketches.value(row),
        }
    }
}

impl GroupsAccumulator for Buckets {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups = total_num_groups;
        let columns = Columns::of(values)?;
        for (row, group) in group_indices.iter().enumerate() {
            let chosen = opt_filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if chosen && columns.is_member(row) {
                self.members.push(*group, columns.member(row))?;
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.groups = total_num_groups;
        let lists = as_list_array(&values[0])?;
        let members = as_struct_array(lists.values())?;
        let columns = Columns::of(members.columns())?;
        let offsets = lists.value_offsets();
        for (list, group) in group_indices
            .iter()
            .enumerate()
            .filter(|(list, _)| lists.is_valid(*list))
        {
            for row in offsets[list] as usize..offsets[list + 1] as usize {
                self.members.push(*group, columns.member(row))?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.emit(emit_to, Self::pairs)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.emit(emit_to, Self::lists)?])
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values[0].len();
        let columns = Columns::of(values)?;
        let chosen = |row: usize| {
            opt_filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row)) && columns.is_member(row)
        };
        let valid: NullBuffer = (0..rows).map(chosen).collect::<Vec<bool>>().into();
        let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(1, rows));
        Ok(vec![Arc::new(member_lists(
            values[..4].to_vec(),
            offsets,
            Some(valid),
        )?)])
    }

    fn size(&self) -> usize {
        let members = &self.members;
        members.groups.capacity() * size_of::<usize>()
            + (members.nodes.capacity() + members.sketches.capacity()) * 16
            + members.settled.capacity()
            + members.rank_bytes.capacity()
            + members.rank_ends.capacity() * size_of::<usize>()
    }
}
