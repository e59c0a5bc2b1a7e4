//! `duplicate_links(a, b, similarity, rank_a, rank_b, settled_a, shape)`: clusters over verified pairs.
//!
//! `a` and `b` are nodes (`FixedSizeBinary(16)`), the ranks (`Binary`) say who is rather a representative, `settled_a` says
//! that `a` is in a cluster of an earlier build (`b` never is), `shape` is the constant `'component'` or `'star'`. Gives one `List<Struct<node, cluster, first, linked>>`: every node with the node
//! of its representative (or of the settled node that it hangs below), its own rank, and the rank of the node that links it (NULL for the representative itself).
//!
//! Partitions collect pairs side by side, for components only those of a spanning forest, and merging is putting them
//! together; memory is that of the nodes with a partner (about 120 bytes each) and of the pairs (16 bytes).

use std::collections::HashMap;
use std::mem::take;
use std::sync::Arc;

use corpusmill_kernels::duplicate_links::{ClusterShape, Edge, duplicate_links, spanning_forest};
use datafusion::arrow::array::{
    Array, ArrayRef, BinaryBuilder, BooleanArray, FixedSizeBinaryArray, Float64Array, ListArray, StructArray,
};
use datafusion::arrow::buffer::{Buffer, OffsetBuffer};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::cast::{
    as_binary_array, as_boolean_array, as_fixed_size_binary_array, as_float64_array, as_list_array, as_struct_array,
};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

use super::constant_argument;

const ID: DataType = DataType::FixedSizeBinary(16);
/// Pairs kept before they are reduced to a forest.
const EDGES_MAX: usize = 1 << 22;

pub(crate) fn function() -> AggregateUDF {
    AggregateUDF::new_from_impl(DuplicateLinks {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

fn link_fields() -> Fields {
    Fields::from(vec![
        Field::new("node", ID, false),
        Field::new("cluster", ID, false),
        Field::new("first", DataType::Binary, false),
        Field::new("linked", DataType::Binary, true),
    ])
}

/// Fields of a verified pair.
pub(crate) fn edge_fields() -> Fields {
    Fields::from(vec![
        Field::new("a", ID, false),
        Field::new("b", ID, false),
        Field::new("similarity", DataType::Float64, false),
        Field::new("rank_a", DataType::Binary, false),
        Field::new("rank_b", DataType::Binary, false),
    ])
}

/// The same, and whether `a` is settled.
fn state_fields() -> Fields {
    let settled = Arc::new(Field::new("settled_a", DataType::Boolean, false));
    edge_fields().iter().cloned().chain([settled]).collect()
}

fn item(fields: Fields) -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Struct(fields), true))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DuplicateLinks {
    signature: Signature,
}

impl AggregateUDFImpl for DuplicateLinks {
    fn name(&self) -> &str {
        "duplicate_links"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(item(link_fields())))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if types.len() != 7 {
            return plan_err!("duplicate_links takes a, b, similarity, rank_a, rank_b, settled_a and a shape");
        }
        Ok(vec![
            ID,
            ID,
            DataType::Float64,
            DataType::Binary,
            DataType::Binary,
            DataType::Boolean,
            DataType::Utf8,
        ])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let shape = match constant_argument(&args, 6)?.try_as_str().flatten() {
            Some("component") => ClusterShape::Component,
            Some("star") => ClusterShape::Star,
            other => return plan_err!("a cluster is a 'component' or a 'star', found {other:?}"),
        };
        Ok(Box::new(Graph {
            shape,
            numbers: HashMap::new(),
            nodes: Vec::new(),
            edges: Vec::new(),
            reduced: 0,
        }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = format!("{}[edges]", args.name);
        Ok(vec![Arc::new(Field::new(
            name,
            DataType::List(item(state_fields())),
            true,
        ))])
    }
}

#[derive(Debug)]
struct Node {
    settled: bool,
    rank: Box<[u8]>,
    id: [u8; 16],
}

/// Nodes numbered in the order in which they came, and pairs of them.
#[derive(Debug)]
struct Graph {
    shape: ClusterShape,
    numbers: HashMap<[u8; 16], u32>,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    /// Edges that were left when they were last reduced.
    reduced: usize,
}

impl Graph {
    fn number(&mut self, id: &[u8], rank: &[u8], settled: bool) -> Result<u32> {
        let id: [u8; 16] = id
            .try_into()
            .map_err(|_| exec_datafusion_err!("duplicate_links takes ids of 16 bytes, found {}", id.len()))?;
        let next = u32::try_from(self.nodes.len())
            .map_err(|_| exec_datafusion_err!("duplicate_links: more than 2^32 rows have a duplicate"))?;
        Ok(*self.numbers.entry(id).or_insert_with(|| {
            self.nodes.push(Node {
                settled,
                rank: rank.into(),
                id,
            });
            next
        }))
    }

    fn add(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let (a, b) = (
            as_fixed_size_binary_array(&columns[0])?,
            as_fixed_size_binary_array(&columns[1])?,
        );
        let similarity = as_float64_array(&columns[2])?;
        let (rank_a, rank_b) = (as_binary_array(&columns[3])?, as_binary_array(&columns[4])?);
        let settled = as_boolean_array(&columns[5])?;
        for row in 0..similarity.len() {
            let edge = Edge {
                a: self.number(a.value(row), rank_a.value(row), settled.value(row))?,
                b: self.number(b.value(row), rank_b.value(row), false)?,
                similarity: similarity.value(row),
            };
            self.edges.push(edge);
        }
        if self.shape == ClusterShape::Component && self.edges.len() > EDGES_MAX.max(2 * self.reduced) {
            self.rank();
            self.reduce();
            self.reduced = self.edges.len();
        }
        Ok(())
    }

    fn reduce(&mut self) {
        let settled = self.settled();
        spanning_forest(&mut self.edges, self.nodes.len(), settled);
    }

    /// How many nodes are settled; they come first, once nodes are ranked.
    fn settled(&self) -> usize {
        self.nodes.iter().take_while(|node| node.settled).count()
    }

    /// Numbers the nodes by rank, settled ones first, so that nothing depends on the order in which pairs came.
    fn rank(&mut self) {
        let mut order: Vec<u32> = (0..self.nodes.len() as u32).collect();
        order.sort_unstable_by(|x, y| {
            let (x, y) = (&self.nodes[*x as usize], &self.nodes[*y as usize]);
            (!x.settled, &x.rank, &x.id).cmp(&(!y.settled, &y.rank, &y.id))
        });
        let mut place = vec![0u32; order.len()];
        for (new, old) in (0u32..).zip(&order) {
            place[*old as usize] = new;
        }
        let mut nodes: Vec<Option<Node>> = take(&mut self.nodes).into_iter().map(Some).collect();
        self.nodes = order.iter().filter_map(|old| nodes[*old as usize].take()).collect();
        self.numbers
            .values_mut()
            .for_each(|number| *number = place[*number as usize]);
        for edge in &mut self.edges {
            let (a, b) = (place[edge.a as usize], place[edge.b as usize]);
            (edge.a, edge.b) = (a.min(b), a.max(b));
        }
    }

    fn ids(&self, numbers: impl Iterator<Item = u32>) -> Result<ArrayRef> {
        let ids: Vec<[u8; 16]> = numbers.map(|number| self.nodes[number as usize].id).collect();
        let bytes = Buffer::from_vec(ids.into_flattened());
        Ok(Arc::new(FixedSizeBinaryArray::try_new(16, bytes, None)?))
    }

    fn ranks(&self, numbers: impl Iterator<Item = Option<u32>>) -> ArrayRef {
        let mut ranks = BinaryBuilder::new();
        numbers.for_each(|number| ranks.append_option(number.map(|number| &self.nodes[number as usize].rank)));
        Arc::new(ranks.finish())
    }
}

fn one_list(fields: Fields, columns: Vec<ArrayRef>) -> Result<ScalarValue> {
    let items = StructArray::try_new(fields.clone(), columns, None)?;
    let offsets = OffsetBuffer::from_lengths([items.len()]);
    let list = ListArray::try_new(item(fields), offsets, Arc::new(items), None)?;
    Ok(ScalarValue::List(Arc::new(list)))
}

impl Accumulator for Graph {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let lists = as_list_array(&states[0])?;
        for list in lists.iter().flatten() {
            self.add(as_struct_array(&list)?.columns())?;
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.rank();
        if self.shape == ClusterShape::Component {
            self.reduce();
        }
        let (a, b) = (self.edges.iter().map(|e| e.a), self.edges.iter().map(|e| e.b));
        let similarity: Float64Array = self.edges.iter().map(|e| Some(e.similarity)).collect();
        let settled: BooleanArray = a.clone().map(|a| Some(self.nodes[a as usize].settled)).collect();
        let columns = vec![
            self.ids(a.clone())?,
            self.ids(b.clone())?,
            Arc::new(similarity),
            self.ranks(a.map(Some)),
            self.ranks(b.map(Some)),
            Arc::new(settled),
        ];
        Ok(vec![one_list(state_fields(), columns)?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.rank();
        let edges = take(&mut self.edges);
        let links = duplicate_links(edges, self.nodes.len(), self.settled(), self.shape);
        let linked = (0u32..)
            .zip(&links)
            .map(|(node, link)| (link.linked_to != node).then_some(link.linked_to));
        let numbers = 0..self.nodes.len() as u32;
        let columns = vec![
            self.ids(numbers.clone())?,
            self.ids(links.iter().map(|link| link.representative))?,
            self.ranks(numbers.map(Some)),
            self.ranks(linked),
        ];
        one_list(link_fields(), columns)
    }

    fn size(&self) -> usize {
        let ranks: usize = self.nodes.first().map_or(0, |node| node.rank.len()) * self.nodes.len();
        size_of_val(self)
            + self.numbers.capacity() * (size_of::<([u8; 16], u32)>() + 1)
            + self.nodes.capacity() * size_of::<Node>()
            + ranks
            + self.edges.capacity() * size_of::<Edge>()
    }
}
