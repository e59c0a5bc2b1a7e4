//! `tokenize(s, 'name')`, `token_count(s, 'name')`, `detokenize(ids, 'name')`.
//!
//! As registered they know no tokenizer. After planning, `bind.rs` puts one that carries the tokenizer of that name
//! in their place, so that a plan says by itself what it will compute.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use corpusmill_kernels::Tokenizer;
use datafusion::arrow::array::{Array, ArrayRef, ListArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::cast::as_list_array;
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::text_function::{kernel_error, strings, text_type};

/// What is done with the tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Task {
    /// Text to `List<Int32>`.
    Tokenize,
    /// Text to the number of its tokens, `Int32`.
    Count,
    /// `List<Int32>` to text.
    Detokenize,
}

impl Task {
    fn name(self) -> &'static str {
        match self {
            Task::Tokenize => "tokenize",
            Task::Count => "token_count",
            Task::Detokenize => "detokenize",
        }
    }
}

pub(crate) fn tokenize() -> ScalarUDF {
    TokenizerFunction::unbound(Task::Tokenize)
}

pub(crate) fn token_count() -> ScalarUDF {
    TokenizerFunction::unbound(Task::Count)
}

pub(crate) fn detokenize() -> ScalarUDF {
    TokenizerFunction::unbound(Task::Detokenize)
}

/// One of the three functions, with or without its tokenizer.
#[derive(Debug, Clone)]
pub struct TokenizerFunction {
    task: Task,
    signature: Signature,
    tokenizer: Option<Arc<Tokenizer>>,
}

impl TokenizerFunction {
    fn unbound(task: Task) -> ScalarUDF {
        ScalarUDF::new_from_impl(TokenizerFunction {
            task,
            signature: Signature::user_defined(Volatility::Immutable),
            tokenizer: None,
        })
    }

    /// Looks through the engine's wrapper.
    pub(crate) fn of(function: &ScalarUDF) -> Option<&TokenizerFunction> {
        (function.inner().as_ref() as &dyn std::any::Any).downcast_ref()
    }

    /// The tokenizer that it carries: its name and digest say what the function computes.
    pub fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.tokenizer.as_ref()
    }

    /// The function called `name` with its tokenizer, as it arrives in another process.
    pub(crate) fn carrying(name: &str, tokenizer: Arc<Tokenizer>) -> Result<ScalarUDF> {
        let task = [Task::Tokenize, Task::Count, Task::Detokenize]
            .into_iter()
            .find(|task| task.name() == name);
        let Some(task) = task else {
            return exec_err!("no function called {name} carries a tokenizer");
        };
        Ok(ScalarUDF::new_from_impl(TokenizerFunction {
            task,
            signature: Signature::user_defined(Volatility::Immutable),
            tokenizer: Some(tokenizer),
        }))
    }

    pub(crate) fn is_bound(&self) -> bool {
        self.tokenizer.is_some()
    }

    pub(crate) fn bound_to(&self, tokenizer: Arc<Tokenizer>) -> TokenizerFunction {
        TokenizerFunction {
            tokenizer: Some(tokenizer),
            ..self.clone()
        }
    }

    fn digest(&self) -> Option<&str> {
        self.tokenizer.as_ref().map(|tokenizer| tokenizer.digest())
    }

    fn run(&self, tokenizer: &Tokenizer, input: &ArrayRef) -> Result<ArrayRef> {
        Ok(match self.task {
            Task::Tokenize => Arc::new(tokenizer.encode(&strings(input)?).map_err(kernel_error)?),
            Task::Count => Arc::new(tokenizer.count(&strings(input)?).map_err(kernel_error)?),
            Task::Detokenize => Arc::new(tokenizer.decode(&token_lists(input)?).map_err(kernel_error)?),
        })
    }
}

fn token_lists(input: &ArrayRef) -> Result<ListArray> {
    let plain = DataType::List(Arc::new(Field::new_list_field(DataType::Int32, true)));
    let lists: ArrayRef = match input.data_type() {
        DataType::List(_) => Arc::clone(input),
        _ => cast(input, &plain)?,
    };
    Ok(as_list_array(&lists)?.clone())
}

impl PartialEq for TokenizerFunction {
    fn eq(&self, other: &Self) -> bool {
        self.task == other.task
            && self.digest() == other.digest()
            && self.tokenizer.as_ref().map(|t| t.max_length()) == other.tokenizer.as_ref().map(|t| t.max_length())
    }
}

impl Eq for TokenizerFunction {}

impl Hash for TokenizerFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.task.hash(state);
        self.digest().hash(state);
    }
}

impl ScalarUDFImpl for TokenizerFunction {
    fn name(&self) -> &str {
        self.task.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(match self.task {
            Task::Tokenize => Tokenizer::encoded_type(),
            Task::Count => DataType::Int32,
            Task::Detokenize => DataType::Utf8,
        })
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.name();
        let [input, tokenizer] = types else {
            return plan_err!("{name} takes two arguments: {name}(…, 'name of a tokenizer')");
        };
        let tokenizer = text_type(name, tokenizer)?;
        let input = match self.task {
            Task::Tokenize | Task::Count => text_type(name, input)?,
            Task::Detokenize => match input {
                DataType::List(_) | DataType::LargeList(_) | DataType::ListView(_) | DataType::FixedSizeList(_, _) => {
                    input.clone()
                }
                other => {
                    return plan_err!("{name} takes a list of token ids, found {other}");
                }
            },
        };
        Ok(vec![input, tokenizer])
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(tokenizer) = &self.tokenizer else {
            return exec_err!(
                "{} was run without its tokenizer; plan the statement through the session",
                self.name()
            );
        };
        match args.args.first() {
            Some(ColumnarValue::Array(input)) => Ok(ColumnarValue::Array(self.run(tokenizer, input)?)),
            Some(ColumnarValue::Scalar(input)) => {
                let result = self.run(tokenizer, &input.to_array_of_size(1)?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?))
            }
            None => plan_err!("{} takes two arguments", self.name()),
        }
    }
}
