//! What a function carries: a JSON header, its length before it, and bytes behind it.

use corpusmill_kernels::Tokenizer;
use corpusmill_operators::ModelSpec;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion_proto::protobuf;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::functions::nearest_hash::ListedHashes;
use crate::python::PythonFunction;
use crate::statement::CreateFunction;

/// Fast: a file is compressed once for each build, and read by every worker.
const COMPRESSION_LEVEL: i32 = 1;
/// Largest file of a tokenizer.
const FILE_BYTES_MAX: usize = 256 << 20;

/// What a function carries beside its name; variants are only ever added.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Carried {
    /// A tokenizer; its file follows.
    Tokenizer {
        /// Name in the catalogue.
        name: String,
        /// Limit of the ids, of the file or the statement.
        max_length: Option<usize>,
        /// Digest of the file.
        digest: String,
    },
    /// A model.
    Model(ModelSpec),
    /// A hash list; its files are read where the function runs.
    HashList(ListedHashes),
    /// A Python function; its Arrow types follow.
    Python(PythonDefinition),
}

/// A Python function.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PythonDefinition {
    name: String,
    /// Names and SQL types.
    arguments: Vec<(String, String)>,
    returns: String,
    body: String,
    volatile: bool,
}

impl Carried {
    pub(super) fn tokenizer(tokenizer: &Tokenizer) -> Self {
        Self::Tokenizer {
            name: tokenizer.name().to_owned(),
            max_length: tokenizer.max_length(),
            digest: tokenizer.digest().to_owned(),
        }
    }

    /// A Python function and its types.
    pub(super) fn python(function: &PythonFunction) -> Result<(Self, Vec<u8>)> {
        let definition = function.definition();
        let (arguments, returns) = function.types();
        let types = arguments
            .iter()
            .chain([returns])
            .map(|t| Field::new("t", t.clone(), true));
        let schema = Schema::new(types.collect::<Vec<_>>());
        let types = protobuf::Schema::try_from(&schema)
            .map_err(|e| exec_datafusion_err!("types of function {} do not travel: {e}", definition.name))?;
        let carried = Self::Python(PythonDefinition {
            name: definition.name.clone(),
            arguments: definition
                .arguments
                .iter()
                .map(|(name, t)| (name.clone(), t.to_string()))
                .collect(),
            returns: definition.returns.to_string(),
            body: definition.body.clone(),
            volatile: definition.volatile,
        });
        Ok((carried, types.encode_to_vec()))
    }

    pub(super) fn write(&self, rest: &[u8], buf: &mut Vec<u8>) -> Result<()> {
        let header = serde_json::to_vec(self).map_err(|e| exec_datafusion_err!("cannot encode a function: {e}"))?;
        let length =
            u32::try_from(header.len()).map_err(|_| exec_datafusion_err!("a function is too long to travel"))?;
        buf.extend_from_slice(&length.to_le_bytes());
        buf.extend_from_slice(&header);
        buf.extend_from_slice(rest);
        Ok(())
    }

    pub(super) fn read(buf: &[u8]) -> Result<(Self, &[u8])> {
        let parts = buf
            .split_first_chunk::<4>()
            .and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(*length) as usize));
        let (header, rest) = parts.ok_or_else(|| exec_datafusion_err!("a function of a plan is cut off"))?;
        let carried = serde_json::from_slice(header)
            .map_err(|e| exec_datafusion_err!("not a function that this version knows: {e}"))?;
        Ok((carried, rest))
    }
}

impl PythonDefinition {
    /// The function, in processes of this machine.
    pub(super) fn function(&self, types: &[u8]) -> Result<PythonFunction> {
        let broken = |why: String| exec_datafusion_err!("function {}: {why}", self.name);
        let schema = protobuf::Schema::decode(types).map_err(|e| broken(e.to_string()))?;
        let schema = Schema::try_from(&schema).map_err(|e| broken(e.to_string()))?;
        let mut types: Vec<DataType> = schema.fields().iter().map(|f| f.data_type().clone()).collect();
        let returns = types.pop().filter(|_| types.len() == self.arguments.len());
        let returns = returns.ok_or_else(|| broken("its types do not fit its arguments".into()))?;
        let mut arguments = Vec::with_capacity(self.arguments.len());
        for (name, sql_type) in &self.arguments {
            arguments.push((name.clone(), parse_type(sql_type).map_err(broken)?));
        }
        let definition = CreateFunction {
            name: self.name.clone(),
            or_replace: false,
            if_not_exists: false,
            arguments,
            returns: parse_type(&self.returns).map_err(broken)?,
            body: self.body.clone(),
            volatile: self.volatile,
        };
        Ok(PythonFunction::from_parts(&definition, types, returns))
    }
}

fn parse_type(sql_type: &str) -> Result<ast::DataType, String> {
    let dialect = GenericDialect {};
    let parser = Parser::new(&dialect).try_with_sql(sql_type);
    parser
        .and_then(|mut parser| parser.parse_data_type())
        .map_err(|e| e.to_string())
}

pub(super) fn compress(file: &[u8]) -> Result<Vec<u8>> {
    zstd::bulk::compress(file, COMPRESSION_LEVEL).map_err(|e| exec_datafusion_err!("cannot compress a tokenizer: {e}"))
}

pub(super) fn decompress(file: &[u8]) -> Result<Vec<u8>> {
    let size = zstd::zstd_safe::get_frame_content_size(file)
        .ok()
        .flatten()
        .unwrap_or(u64::MAX);
    let size = usize::try_from(size).ok().filter(|size| *size <= FILE_BYTES_MAX);
    let size = size.ok_or_else(|| exec_datafusion_err!("a tokenizer of a plan is damaged or larger than 256 MiB"))?;
    zstd::bulk::decompress(file, size).map_err(|e| exec_datafusion_err!("a tokenizer of a plan is damaged: {e}"))
}
