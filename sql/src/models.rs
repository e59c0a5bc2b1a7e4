//! Models by name: what `CREATE MODEL` promises, and which models the statement that is being planned names.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use corpusmill_operators::{ModelSource, ModelSpec, ModelTask};
use datafusion::sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, Query, Visit, Visitor};

use crate::bind::{is_called, named_arguments, text_of};
use crate::error::{Result, SqlError};
use crate::functions::embed;
use crate::plan_errors::find_word;
use crate::session::Session;
use crate::source_text::SqlText;
use crate::statement::{CreateModel, ModelColumnType, ObjectKind};
use crate::table_functions::ml_predict;

tokio::task_local! {
    /// The models that the statement names, while it is planned.
    static NAMED: BTreeMap<String, Arc<Model>>;
}

/// A model and the columns that it gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// What it computes.
    pub spec: Arc<ModelSpec>,
    /// The columns of OUTPUT.
    pub outputs: Vec<ModelOutput>,
}

/// One column of OUTPUT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelOutput {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub value: ModelValue,
}

/// What a column of OUTPUT holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelValue {
    /// All values: the embedding, or the probabilities in the order of the labels.
    All,
    /// The label with the highest probability.
    Label,
    /// Its probability.
    Score,
    /// The probability of one label, by its number.
    Probability(usize),
}

impl Model {
    /// Ties the columns of OUTPUT to what the model gives.
    ///
    /// # Errors
    /// A sentence that says which column does not fit, and which would.
    pub fn new(create: &CreateModel, spec: ModelSpec) -> Result<Self, String> {
        let outputs = create.outputs.iter().map(|(name, column)| {
            let value = value_of(name, *column, &spec)?;
            Ok(ModelOutput {
                name: name.clone(),
                value,
            })
        });
        Ok(Self {
            outputs: outputs.collect::<Result<_, String>>()?,
            spec: Arc::new(spec),
        })
    }
}

fn value_of(name: &str, column: ModelColumnType, spec: &ModelSpec) -> Result<ModelValue, String> {
    let label = spec.labels.iter().position(|label| label.eq_ignore_ascii_case(name));
    match (spec.source.task, column, label) {
        (_, ModelColumnType::FloatArray, _) => Ok(ModelValue::All),
        (ModelTask::Embedding, ..) => Err(format!(
            "OUTPUT column '{name}': an embedding is a FLOAT ARRAY: write OUTPUT ({name} FLOAT ARRAY)"
        )),
        (ModelTask::Classification, ModelColumnType::Varchar, _) => Ok(ModelValue::Label),
        (ModelTask::Classification, ModelColumnType::Float, Some(number)) => Ok(ModelValue::Probability(number)),
        (ModelTask::Classification, ModelColumnType::Float, None) if name == "score" => Ok(ModelValue::Score),
        (ModelTask::Classification, ModelColumnType::Float, None) => Err(format!(
            "OUTPUT column '{name}': a FLOAT is 'score' (of the best label) or is called like a label of the model: {}",
            spec.labels.join(", ")
        )),
    }
}

impl CreateModel {
    /// Where the model is and how it is used, its path as it is written.
    #[must_use]
    pub fn source(&self) -> ModelSource {
        ModelSource {
            name: self.name.clone(),
            uri: self.uri.clone(),
            task: self.task,
            max_length: self.max_length.map(|length| length as usize),
            pooling: self.pooling.clone(),
        }
    }
}

/// Plans with the models that `query` names at hand.
pub(crate) async fn with_named<F: Future>(
    session: &Session,
    query: Option<&Query>,
    text: &SqlText,
    plan: F,
) -> Result<F::Output> {
    let mut models = BTreeMap::new();
    for name in query.map(named_models).unwrap_or_default() {
        let Some(model) = session.objects().model(&name).await? else {
            let known = session.objects().names().await?.into_iter();
            let known = known
                .filter(|(kind, _)| *kind == ObjectKind::Model)
                .map(|(_, name)| name);
            return Err(SqlError::unknown("model", &name, known, text, find_word(text, &name)));
        };
        models.insert(name, model);
    }
    Ok(NAMED.scope(models, plan).await)
}

/// A model that the statement names.
pub(crate) fn named(name: &str) -> Option<Arc<Model>> {
    NAMED.try_with(|models| models.get(name).cloned()).ok().flatten()
}

/// Names of models in calls of `embed` and `ml_predict`.
fn named_models(query: &Query) -> BTreeSet<String> {
    struct Names(BTreeSet<String>);
    impl Visitor for Names {
        type Break = ();

        fn pre_visit_expr(&mut self, expression: &ast::Expr) -> ControlFlow<()> {
            if let ast::Expr::Function(function) = expression
                && is_called(&function.name, embed::NAME)
                && let ast::FunctionArguments::List(list) = &function.args
                && let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(name))) = list.args.first()
            {
                self.0.extend(text_of(name));
            }
            ControlFlow::Continue(())
        }
    }
    let mut names = Names(named_arguments(query, ml_predict::NAME, ml_predict::MODEL));
    let _ = query.visit(&mut names);
    names.0
}
