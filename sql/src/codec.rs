//! How a plan of the dialect travels to another process: operators, functions with what they carry, blob scans.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use corpusmill_kernels::Tokenizer;
use corpusmill_operators::{ModelFunction, OperatorCodec};
use datafusion::common::{Result, exec_datafusion_err, exec_err};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, WindowUDF};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};

use crate::functions::nearest_hash::NearestHash;
use crate::functions::tokenize::TokenizerFunction;
use crate::python::PythonFunction;
use crate::table_functions::read_blob;

mod carried;

use carried::Carried;

/// Begins everything of ours, so that it is told from what the engine's own codec wrote. The digit is the version.
const MAGIC: &[u8; 4] = b"CMP1";
const OPERATOR: u8 = 1;
const BLOB_SCAN: u8 = 2;
/// Tokenizers kept for the next task; the one process that has more at a time reads them again.
const TOKENIZERS_MAX: usize = 32;

/// Encodes and decodes plans of the dialect; all that is not ours is left to another codec.
///
/// ```text
///   Screen, WriteShards, WriteRows       "CMP1" 1 + operators::OperatorCodec
///   read_blob                            "CMP1" 2 + format, scan
///   tokenize(…) bound to its tokenizer   name, max_length, digest + the file, compressed
///   embed(…) bound to its model          description, digest
///   nearest_hash(…) of a hash list       where its files are
///   Python functions                     definition, Arrow types
///   everything else                      the inner codec; functions by name from the session's registry
/// ```
/// The receiving side needs neither the catalogue nor the files that the objects were made from.
#[derive(Debug)]
pub struct PlanCodec {
    inner: Arc<dyn PhysicalExtensionCodec>,
    operators: OperatorCodec,
    tokenizers: Mutex<HashMap<String, Arc<Tokenizer>>>,
    files: Mutex<HashMap<String, Arc<Vec<u8>>>>,
}

impl PlanCodec {
    /// A codec that leaves to `inner` what is not of the dialect.
    #[must_use]
    pub fn over(inner: Arc<dyn PhysicalExtensionCodec>) -> Self {
        Self {
            inner,
            operators: OperatorCodec,
            tokenizers: Mutex::default(),
            files: Mutex::default(),
        }
    }

    /// The compressed file of a tokenizer, compressed once.
    fn file(&self, tokenizer: &Tokenizer) -> Result<Arc<Vec<u8>>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(tokenizer.digest()) {
            return Ok(Arc::clone(file));
        }
        if files.len() >= TOKENIZERS_MAX {
            files.clear();
        }
        let file = Arc::new(carried::compress(tokenizer.file())?);
        files.insert(tokenizer.digest().to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn tokenizer(&self, carried: &Carried, file: &[u8]) -> Result<Arc<Tokenizer>> {
        let Carried::Tokenizer {
            name,
            max_length,
            digest,
        } = carried
        else {
            return exec_err!("expected a tokenizer");
        };
        let key = format!("{digest} {max_length:?} {name}");
        let mut known = self.tokenizers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokenizer) = known.get(&key) {
            return Ok(Arc::clone(tokenizer));
        }
        let bytes = carried::decompress(file)?;
        let tokenizer = Tokenizer::from_bytes(name, &bytes, *max_length)
            .map_err(|e| exec_datafusion_err!("tokenizer {name} cannot be read here: {e}"))?;
        if tokenizer.digest() != digest {
            return exec_err!(
                "tokenizer {name} was altered on the way: digest {}, sent {digest}",
                tokenizer.digest()
            );
        }
        if known.len() >= TOKENIZERS_MAX {
            known.clear();
        }
        let tokenizer = Arc::new(tokenizer);
        known.insert(key, Arc::clone(&tokenizer));
        Ok(tokenizer)
    }
}

impl PhysicalExtensionCodec for PlanCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match buf.strip_prefix(MAGIC.as_slice()) {
            Some([OPERATOR, rest @ ..]) => self.operators.try_decode(rest, inputs, context, converter),
            Some([BLOB_SCAN, rest @ ..]) => read_blob::decode(rest, context, self, converter),
            Some(_) => exec_err!("a node of a plan is of a newer corpusmill: use the same version everywhere"),
            None => self.inner.try_decode(buf, inputs, context, converter),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let start = buf.len();
        buf.extend_from_slice(MAGIC);
        if let Some(scan) = node.downcast_ref::<DataSourceExec>() {
            buf.push(BLOB_SCAN);
            return read_blob::encode(scan, buf, self, converter);
        }
        buf.push(OPERATOR);
        if OperatorCodec::knows(node.as_ref()) {
            return self.operators.try_encode(node, buf, converter);
        }
        buf.truncate(start);
        self.inner.try_encode(node, buf, converter)
    }

    fn try_decode_udf(&self, name: &str, buf: &[u8]) -> Result<Arc<ScalarUDF>> {
        if buf.is_empty() {
            return self
                .operators
                .try_decode_udf(name, buf)
                .or_else(|_| self.inner.try_decode_udf(name, buf));
        }
        let (carried, rest) = Carried::read(buf)?;
        match &carried {
            Carried::Tokenizer { .. } => {
                let tokenizer = self.tokenizer(&carried, rest)?;
                Ok(Arc::new(TokenizerFunction::carrying(name, tokenizer)?))
            }
            Carried::Model(spec) => Ok(Arc::new(ModelFunction::udf(Arc::new(spec.clone())))),
            Carried::HashList(list) => Ok(Arc::new(NearestHash::new(Arc::new(list.clone())).into_udf())),
            Carried::Python(definition) => Ok(Arc::new(ScalarUDF::new_from_impl(definition.function(rest)?))),
        }
    }

    fn try_encode_udf(&self, node: &ScalarUDF, buf: &mut Vec<u8>) -> Result<()> {
        if let Some(function) = TokenizerFunction::of(node) {
            let Some(tokenizer) = function.tokenizer() else {
                return exec_err!(
                    "{} has no tokenizer; plan the statement through the session",
                    node.name()
                );
            };
            return Carried::tokenizer(tokenizer).write(&self.file(tokenizer)?, buf);
        }
        if let Some(function) = (node.inner().as_ref() as &dyn std::any::Any).downcast_ref::<PythonFunction>() {
            let (carried, types) = Carried::python(function)?;
            return carried.write(&types, buf);
        }
        if let Some(function) = ModelFunction::of(node) {
            return Carried::Model(function.spec().as_ref().clone()).write(&[], buf);
        }
        if let Some(function) = NearestHash::of(node) {
            return Carried::HashList(function.list().clone()).write(&[], buf);
        }
        if ["run_start", "run_end"].contains(&node.name()) {
            // Planning makes a constant of it; by name alone another process would put its own time there.
            return exec_err!("{}() is a constant of the plan and was not made one", node.name());
        }
        self.inner.try_encode_udf(node, buf)
    }

    fn try_decode_udaf(&self, name: &str, buf: &[u8]) -> Result<Arc<AggregateUDF>> {
        self.inner.try_decode_udaf(name, buf)
    }

    fn try_encode_udaf(&self, node: &AggregateUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.inner.try_encode_udaf(node, buf)
    }

    fn try_decode_udwf(&self, name: &str, buf: &[u8]) -> Result<Arc<WindowUDF>> {
        self.inner.try_decode_udwf(name, buf)
    }

    fn try_encode_udwf(&self, node: &WindowUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.inner.try_encode_udwf(node, buf)
    }

    fn try_decode_higher_order_function(&self, name: &str, buf: &[u8]) -> Result<Arc<HigherOrderUDF>> {
        self.inner.try_decode_higher_order_function(name, buf)
    }

    fn try_encode_higher_order_function(&self, node: &HigherOrderUDF, buf: &mut Vec<u8>) -> Result<()> {
        self.inner.try_encode_higher_order_function(node, buf)
    }
}
