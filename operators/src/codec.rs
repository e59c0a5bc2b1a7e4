//! How the operators travel: JSON of what they were made with, behind a name and a version.

use std::sync::Arc;

use datafusion::common::{Result, exec_datafusion_err, exec_err};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::ScalarUDF;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use serde::{Deserialize, Serialize};

use crate::{
    Predict, Prediction, RowSink, Screen, ScreenSpec, ShardSink, WriteRows, WriteShards, key_hash_udf, key_shard_udf,
};

/// Encodes and decodes the operators and functions of this crate.
#[derive(Debug, Default, Clone, Copy)]
pub struct OperatorCodec;

/// One operator on the wire; variants are only ever added.
#[derive(Serialize, Deserialize)]
#[serde(tag = "operator", content = "spec")]
enum Wire {
    Screen(ScreenSpec),
    WriteShards(ShardSink),
    WriteRows(RowSink),
    Predict(Vec<Prediction>),
}

impl OperatorCodec {
    /// Whether a node is an operator of this crate.
    #[must_use]
    pub fn knows(node: &dyn ExecutionPlan) -> bool {
        node.is::<Screen>() || node.is::<WriteShards>() || node.is::<WriteRows>() || node.is::<Predict>()
    }
}

impl PhysicalExtensionCodec for OperatorCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &TaskContext,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wire: Wire = serde_json::from_slice(buf)
            .map_err(|e| exec_datafusion_err!("not an operator that this version knows: {e}"))?;
        let [input] = inputs else {
            return exec_err!(
                "an operator of corpusmill has one input, this one came with {}",
                inputs.len()
            );
        };
        let input = Arc::clone(input);
        Ok(match wire {
            Wire::Screen(spec) => Arc::new(Screen::try_new(input, Arc::new(spec))?),
            Wire::WriteShards(sink) => Arc::new(WriteShards::try_new(input, Arc::new(sink))?),
            Wire::Predict(predictions) => Arc::new(Predict::try_new(input, Arc::new(predictions))?),
            Wire::WriteRows(sink) => Arc::new(WriteRows::new(input, Arc::new(sink))),
        })
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        _: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let wire = if let Some(screen) = node.downcast_ref::<Screen>() {
            Wire::Screen(screen.spec().as_ref().clone())
        } else if let Some(write) = node.downcast_ref::<WriteShards>() {
            Wire::WriteShards(write.sink().as_ref().clone())
        } else if let Some(write) = node.downcast_ref::<WriteRows>() {
            Wire::WriteRows(write.sink().as_ref().clone())
        } else if let Some(predict) = node.downcast_ref::<Predict>() {
            Wire::Predict(predict.predictions().as_ref().clone())
        } else {
            return exec_err!("{} has no codec in corpusmill", node.name());
        };
        serde_json::to_writer(buf, &wire).map_err(|e| exec_datafusion_err!("cannot encode {}: {e}", node.name()))
    }

    fn try_decode_udf(&self, name: &str, _: &[u8]) -> Result<Arc<ScalarUDF>> {
        [key_hash_udf(), key_shard_udf()]
            .into_iter()
            .find(|udf| udf.name() == name)
            .map(Arc::new)
            .ok_or_else(|| exec_datafusion_err!("function {name} is unknown to this version"))
    }
}
