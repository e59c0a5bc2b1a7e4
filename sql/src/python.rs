//! `CREATE FUNCTION … LANGUAGE python`: vectorised over Arrow, in processes of their own.
//!
//! ```text
//! batch ─▶ cast to declared types ─▶ IPC over a pipe ─▶ python3 (worker.py) ─▶ IPC ─▶ checked column
//!              one process per thread that calls, kept for the next batch
//! ```
//! A process that crashes, hangs or answers nonsense is killed and replaced on the next call; the statement fails
//! with the function's name and the Python traceback, this process does not.
//!
//! Environment: `CORPUSMILL_PYTHON` names the interpreter (default `python3`; it needs `pyarrow`),
//! `CORPUSMILL_PYTHON_TIMEOUT_S` the seconds that one batch may take (default 300).

mod process;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{Result as EngineResult, ScalarValue, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::sql::sqlparser::ast;

use crate::error::{Fault, Result, SqlError};
use crate::session::Session;
use crate::source_text::SqlText;
use crate::statement::CreateFunction;
use process::{Failure, Pool};

/// Makes the engine's function of a definition.
pub(crate) async fn function(session: &Session, definition: &CreateFunction, text: &SqlText) -> Result<ScalarUDF> {
    Ok(ScalarUDF::new_from_impl(
        PythonFunction::new(session, definition, text).await?,
    ))
}

/// Starts the function once, to see that its source compiles and its imports are there.
pub(crate) async fn check(session: &Session, definition: &CreateFunction, text: &SqlText) -> Result<()> {
    let function = PythonFunction::new(session, definition, text).await?;
    match blocking(|| function.pool.start()) {
        Ok(()) => Ok(()),
        Err(failure) => {
            let mut fault = failure.fault(&definition.name);
            fault.text = Some(text.clone());
            fault.position = Some(text.start);
            Err(SqlError::Python(fault))
        }
    }
}

/// A function whose body runs in Python.
#[derive(Debug)]
pub struct PythonFunction {
    definition: CreateFunction,
    arguments: Vec<DataType>,
    returns: DataType,
    signature: Signature,
    pool: Arc<Pool>,
}

impl PythonFunction {
    async fn new(session: &Session, definition: &CreateFunction, text: &SqlText) -> Result<PythonFunction> {
        let mut arguments = Vec::with_capacity(definition.arguments.len());
        for (_, sql_type) in &definition.arguments {
            arguments.push(arrow_type(session, sql_type, text).await?);
        }
        let returns = arrow_type(session, &definition.returns, text).await?;
        Ok(PythonFunction::from_parts(definition, arguments, returns))
    }

    /// The function of a definition whose Arrow types are known.
    pub(crate) fn from_parts(
        definition: &CreateFunction,
        arguments: Vec<DataType>,
        returns: DataType,
    ) -> PythonFunction {
        let volatility = if definition.volatile {
            Volatility::Volatile
        } else {
            Volatility::Immutable
        };
        PythonFunction {
            pool: Arc::new(Pool::new(
                definition.name.clone(),
                definition.body.clone(),
                returns.clone(),
            )),
            definition: definition.clone(),
            arguments,
            returns,
            signature: Signature::user_defined(volatility),
        }
    }

    /// Arrow types of the arguments and of the result.
    pub(crate) fn types(&self) -> (&[DataType], &DataType) {
        (&self.arguments, &self.returns)
    }

    /// Name, types and source: all that another process needs to make the same function.
    pub fn definition(&self) -> &CreateFunction {
        &self.definition
    }

    fn call(&self, columns: Vec<ArrayRef>, rows: usize) -> EngineResult<ArrayRef> {
        let fields: Vec<Field> = self
            .definition
            .arguments
            .iter()
            .zip(&columns)
            .map(|((name, _), column)| Field::new(name, column.data_type().clone(), true))
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?;
        let failed = |failure: Failure| SqlError::Python(failure.fault(&self.definition.name));
        let result = blocking(|| self.pool.call(&batch)).map_err(failed)?;
        if result.data_type() != &self.returns || result.len() != rows {
            return Err(failed(Failure::Protocol(format!(
                "{} rows of {} came back, expected {rows} of {}",
                result.len(),
                result.data_type(),
                self.returns
            )))
            .into());
        }
        Ok(result)
    }
}

/// Tells the runtime that this thread will wait, where it has other threads to go on with.
pub(crate) fn blocking<T>(wait: impl FnOnce() -> T) -> T {
    let has_threads = tokio::runtime::Handle::try_current()
        .is_ok_and(|handle| handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
    if has_threads {
        tokio::task::block_in_place(wait)
    } else {
        wait()
    }
}

/// The Arrow type of a SQL type; views become plain arrays, which every version of pyarrow knows.
async fn arrow_type(session: &Session, sql_type: &ast::DataType, text: &SqlText) -> Result<DataType> {
    let sql = format!("SELECT CAST(NULL AS {sql_type}) AS x");
    let plan = session.plan_generated(&sql, text).await.map_err(|error| {
        SqlError::Plan(
            Fault::at(
                text,
                Some(text.start),
                format!("type {sql_type} cannot be passed to Python"),
            )
            .with_help(error.fault().map_or_else(String::new, |fault| fault.message.clone())),
        )
    })?;
    Ok(without_views(plan.schema().field(0).data_type()))
}

fn without_views(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(field) => DataType::List(Arc::new(
            field.as_ref().clone().with_data_type(without_views(field.data_type())),
        )),
        other => other.clone(),
    }
}

impl PartialEq for PythonFunction {
    fn eq(&self, other: &Self) -> bool {
        self.definition == other.definition
    }
}

impl Eq for PythonFunction {}

impl Hash for PythonFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.definition.name.hash(state);
        self.definition.body.hash(state);
    }
}

impl ScalarUDFImpl for PythonFunction {
    fn name(&self) -> &str {
        &self.definition.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> EngineResult<DataType> {
        Ok(self.returns.clone())
    }

    fn coerce_types(&self, types: &[DataType]) -> EngineResult<Vec<DataType>> {
        if types.len() != self.arguments.len() {
            let names: Vec<&str> = self
                .definition
                .arguments
                .iter()
                .map(|(name, _)| name.as_str())
                .collect();
            return plan_err!(
                "function {} takes {} argument(s), ({}), found {}",
                self.definition.name,
                self.arguments.len(),
                names.join(", "),
                types.len()
            );
        }
        Ok(self.arguments.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let constant = args.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let columns: Vec<ArrayRef> = args
            .args
            .into_iter()
            .map(|value| value.into_array(rows))
            .collect::<EngineResult<_>>()?;
        let result = self.call(columns, rows)?;
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}
