//! `group_components(a, b, …)`: connected components over rows whose columns are ids of groups.
//!
//! Every argument is an `Int64` id (NULL belongs to no group); two rows are connected when they share an id. Gives
//! one `List<Struct<node: Int64, component: Int64>>`: every id with the smallest id that it is connected to.
//! `assign_split` unnests it and joins it back.
//!
//! As an aggregate it needs no operator and no codec of its own: partitions build forests side by side, and merging
//! two forests is adding the edges of one to the other. Memory is that of the distinct ids (about 40 bytes each).

use std::collections::HashMap;
use std::sync::Arc;

use corpusmill_kernels::union_find::UnionFind;
use datafusion::arrow::array::{Array, ArrayRef, Int64Array, ListArray, StructArray};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::cast::{as_int64_array, as_list_array, as_struct_array};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

/// Name of the field with an id.
pub(crate) const NODE: &str = "node";
/// Name of the field with the smallest id connected to it.
pub(crate) const COMPONENT: &str = "component";

pub(crate) fn function() -> AggregateUDF {
    AggregateUDF::new_from_impl(GroupComponents {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

fn struct_fields() -> Fields {
    Fields::from(vec![
        Field::new(NODE, DataType::Int64, false),
        Field::new(COMPONENT, DataType::Int64, false),
    ])
}

fn item_field() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Struct(struct_fields()), true))
}

fn list_type() -> DataType {
    DataType::List(item_field())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct GroupComponents {
    signature: Signature,
}

impl AggregateUDFImpl for GroupComponents {
    fn name(&self) -> &str {
        "group_components"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(list_type())
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if types.is_empty() {
            return plan_err!("group_components takes one or more columns of ids");
        }
        Ok(vec![DataType::Int64; types.len()])
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Forest::default()))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(
            format!("{}[forest]", args.name),
            list_type(),
            true,
        ))])
    }
}

/// Ids seen, numbered in order of arrival, and which of them are connected.
#[derive(Debug)]
struct Forest {
    numbers: HashMap<i64, u32>,
    ids: Vec<i64>,
    sets: UnionFind,
}

impl Default for Forest {
    fn default() -> Self {
        Forest {
            numbers: HashMap::new(),
            ids: Vec::new(),
            sets: UnionFind::new(0),
        }
    }
}

impl Forest {
    fn number(&mut self, id: i64) -> u32 {
        let Forest { numbers, ids, sets } = self;
        *numbers.entry(id).or_insert_with(|| {
            ids.push(id);
            sets.push()
        })
    }

    fn connect(&mut self, a: i64, b: i64) {
        let (a, b) = (self.number(a), self.number(b));
        self.sets.union(a, b);
    }

    /// Every id with the smallest id of its component, ordered by id.
    fn pairs(&mut self) -> Vec<(i64, i64)> {
        let mut smallest: Vec<i64> = self.ids.clone();
        let mut root_of = Vec::with_capacity(self.ids.len());
        for (number, id) in (0u32..).zip(&self.ids) {
            let root = self.sets.find(number) as usize;
            smallest[root] = smallest[root].min(*id);
            root_of.push(root);
        }
        let mut pairs: Vec<(i64, i64)> = self
            .ids
            .iter()
            .zip(root_of)
            .map(|(id, root)| (*id, smallest[root]))
            .collect();
        pairs.sort_unstable();
        pairs
    }

    fn list(&mut self) -> Result<ListArray> {
        let (nodes, components): (Vec<i64>, Vec<i64>) = self.pairs().into_iter().unzip();
        let length = nodes.len();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(nodes)),
            Arc::new(Int64Array::from(components)),
        ];
        let items = StructArray::try_new(struct_fields(), columns, None)?;
        Ok(ListArray::try_new(
            item_field(),
            OffsetBuffer::from_lengths([length]),
            Arc::new(items),
            None,
        )?)
    }
}

impl Accumulator for Forest {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let columns: Vec<&Int64Array> = values
            .iter()
            .map(|column| as_int64_array(column))
            .collect::<Result<_>>()?;
        for row in 0..columns.first().map_or(0, |column| column.len()) {
            let mut ids = columns
                .iter()
                .filter(|column| column.is_valid(row))
                .map(|column| column.value(row));
            if let Some(first) = ids.next() {
                self.number(first);
                for other in ids {
                    self.connect(first, other);
                }
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let lists = as_list_array(&states[0])?;
        for row in 0..lists.len() {
            if lists.is_null(row) {
                continue;
            }
            let items = lists.value(row);
            let items = as_struct_array(&items)?;
            let nodes = as_int64_array(items.column(0))?;
            let components = as_int64_array(items.column(1))?;
            for (node, component) in nodes.values().iter().zip(components.values()) {
                self.connect(*node, *component);
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::List(Arc::new(self.list()?))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::List(Arc::new(self.list()?)))
    }

    fn size(&self) -> usize {
        size_of_val(self)
            + self.numbers.capacity() * (size_of::<(i64, u32)>() + 1)
            + self.ids.capacity() * size_of::<i64>()
            + self.sets.len() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(values: &[Option<i64>]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    #[test]
    fn components_do_not_depend_on_how_rows_are_spread() {
        let rows = [
            (Some(5), Some(100)),
            (Some(6), Some(101)),
            (Some(6), Some(100)),
            (Some(7), None),
            (None, None),
            (None, Some(102)),
        ];
        let part = |rows: &[(Option<i64>, Option<i64>)]| {
            let mut forest = Forest::default();
            let a: Vec<_> = rows.iter().map(|row| row.0).collect();
            let b: Vec<_> = rows.iter().map(|row| row.1).collect();
            forest.update_batch(&[column(&a), column(&b)]).unwrap();
            forest
        };
        let expected = vec![(5, 5), (6, 5), (7, 7), (100, 5), (101, 5), (102, 102)];
        assert_eq!(part(&rows).pairs(), expected);
        for cut in 0..rows.len() {
            let mut merged = Forest::default();
            for mut side in [part(&rows[cut..]), part(&rows[..cut])] {
                let state = side.state().unwrap().remove(0).to_array().unwrap();
                merged.merge_batch(&[state]).unwrap();
            }
            assert_eq!(merged.pairs(), expected);
        }
    }
}
