//! `fleiss_kappa(item, vote)`, `krippendorff_alpha(item, vote)`: how much raters agree beyond chance; one row a vote.
//!
//! Votes are compared by their text, so they may be of any type that has one; a NULL item or vote is no vote. Memory is
//! that of the items of a group (about 100 bytes each): what two tasks have counted is put together item by item.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use corpusmill_corpus::value_digests;
use corpusmill_kernels::Agreement;
use datafusion::arrow::array::{Array, ArrayRef, FixedSizeBinaryArray, StringArray, UInt64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::cast::{as_fixed_size_binary_array, as_list_array, as_string_array, as_uint64_array};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

/// Bytes of the digest that stands for an item.
const DIGEST: i32 = 16;

pub(crate) fn kappa() -> AggregateUDF {
    function("fleiss_kappa", Coefficient::Kappa)
}

pub(crate) fn alpha() -> AggregateUDF {
    function("krippendorff_alpha", Coefficient::Alpha)
}

fn function(name: &'static str, coefficient: Coefficient) -> AggregateUDF {
    AggregateUDF::new_from_impl(OfVotes {
        name,
        coefficient,
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Coefficient {
    Kappa,
    Alpha,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OfVotes {
    name: &'static str,
    coefficient: Coefficient,
    signature: Signature,
}

fn state_types() -> [(&'static str, DataType); 3] {
    [
        ("items", DataType::FixedSizeBinary(DIGEST)),
        ("votes", DataType::Utf8),
        ("counts", DataType::UInt64),
    ]
}

impl AggregateUDFImpl for OfVotes {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [item, _] => Ok(vec![item.clone(), DataType::Utf8]),
            _ => plan_err!("{} takes two columns: the item, and the vote", self.name),
        }
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Votes {
            coefficient: self.coefficient,
            items: HashMap::new(),
            bytes: 0,
        }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let list = |(part, data_type): (&str, DataType)| {
            let item = Arc::new(Field::new_list_field(data_type, true));
            Arc::new(Field::new(format!("{}[{part}]", args.name), DataType::List(item), true))
        };
        Ok(state_types().into_iter().map(list).collect())
    }
}

/// Votes by item and category.
#[derive(Debug)]
struct Votes {
    coefficient: Coefficient,
    items: HashMap<[u8; DIGEST as usize], BTreeMap<String, u64>>,
    bytes: usize,
}

impl Votes {
    fn add(&mut self, item: [u8; DIGEST as usize], vote: &str, count: u64) {
        let votes = self.items.entry(item).or_insert_with(|| {
            self.bytes += size_of::<([u8; DIGEST as usize], BTreeMap<String, u64>)>();
            BTreeMap::new()
        });
        match votes.get_mut(vote) {
            Some(counted) => *counted += count,
            None => {
                self.bytes += size_of::<(String, u64)>() + vote.len();
                votes.insert(vote.to_owned(), count);
            }
        }
    }
}

impl Accumulator for Votes {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let digests = value_digests(&values[..1]).map_err(|error| DataFusionError::External(Box::new(error)))?;
        let votes = cast(&values[1], &DataType::Utf8)?;
        let votes = as_string_array(&votes)?;
        for (row, digest) in digests.into_iter().enumerate() {
            if !values[0].is_null(row) && !votes.is_null(row) {
                self.add(digest.to_be_bytes(), votes.value(row), 1);
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [items, votes, counts] = [&states[0], &states[1], &states[2]].map(|state| as_list_array(state));
        let (items, votes, counts) = (items?, votes?, counts?);
        for group in 0..items.len() {
            let (items, votes, counts) = (items.value(group), votes.value(group), counts.value(group));
            let items = as_fixed_size_binary_array(&items)?;
            let (votes, counts) = (as_string_array(&votes)?, as_uint64_array(&counts)?);
            for row in 0..items.len() {
                let mut item = [0; DIGEST as usize];
                item.copy_from_slice(items.value(row));
                self.add(item, votes.value(row), counts.value(row));
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let rows = || {
            let items = self.items.iter();
            items.flat_map(|(item, votes)| votes.iter().map(move |(vote, count)| (item, vote, count)))
        };
        let items: ArrayRef = match rows().next() {
            Some(_) => Arc::new(FixedSizeBinaryArray::try_from_iter(rows().map(|(item, _, _)| item))?),
            None => Arc::new(FixedSizeBinaryArray::new_null(DIGEST, 0)),
        };
        let votes: ArrayRef = Arc::new(rows().map(|(_, vote, _)| Some(vote)).collect::<StringArray>());
        let counts: ArrayRef = Arc::new(UInt64Array::from_iter_values(rows().map(|(_, _, count)| *count)));
        let lists = [items, votes, counts].map(|part| SingleRowListArrayBuilder::new(part).build_list_scalar());
        Ok(lists.into())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut agreement = Agreement::default();
        for votes in self.items.values() {
            agreement.add(votes.iter().map(|(vote, count)| (vote.as_str(), *count)));
        }
        Ok(ScalarValue::Float64(match self.coefficient {
            Coefficient::Kappa => agreement.fleiss_kappa(),
            Coefficient::Alpha => agreement.krippendorff_alpha(),
        }))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.bytes
    }
}
