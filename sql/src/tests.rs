//! Statements planned and run, end to end inside this crate.

mod asof;
mod codec;
mod corpora;
mod functions;
mod graph_rounds;
mod graphs;
mod hash_lists;
mod media;
mod near_duplicates;
mod near_history;
mod planning;
mod python;
mod samples;
mod semantic_duplicates;
mod sources;
mod substring_duplicates;
mod table_functions;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use corpusmill_kernels::Tokenizer;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::error::Result;
use crate::hash_lists::HashList;
use crate::history::History;
use crate::objects::{CorpusTable, Objects, Relation};
use crate::script::parse_script;
use crate::session::{Session, SessionOptions, session};
use crate::statement::{CreateFunction, ObjectKind, Statement, StatementKind};

/// A catalogue made of a script.
#[derive(Debug, Default)]
struct Script {
    relations: HashMap<String, Statement>,
    functions: HashMap<String, CreateFunction>,
    corpora: HashMap<String, CorpusTable>,
    tokenizers: HashMap<String, Arc<Tokenizer>>,
    lists: HashMap<String, Arc<HashList>>,
    histories: HashMap<String, Arc<History>>,
}

impl Script {
    fn of(definitions: &str) -> Script {
        let mut script = Script::default();
        for statement in parse_script(definitions, "defs.sql").unwrap() {
            match statement.kind.clone() {
                StatementKind::CreateView(view) => {
                    script.relations.insert(view.name, statement);
                }
                StatementKind::CreateExternalTable(table) => {
                    script.relations.insert(table.name, statement);
                }
                StatementKind::CreateFunction(function) => {
                    script.functions.insert(function.name.clone(), function);
                }
                other => panic!("{other:?}"),
            }
        }
        script
    }
}

#[async_trait]
impl Objects for Script {
    async fn relation(&self, name: &str) -> Result<Option<Relation>> {
        Ok(self
            .relations
            .get(name)
            .map(|statement| Relation::Defined(Box::new(statement.clone()))))
    }

    async fn corpus(&self, name: &str, version: Option<u64>) -> Result<Option<CorpusTable>> {
        let corpus = self.corpora.get(name);
        Ok(corpus
            .filter(|corpus| version.is_none_or(|version| version == corpus.version))
            .cloned())
    }

    async fn tokenizer(&self, name: &str) -> Result<Option<Arc<Tokenizer>>> {
        Ok(self.tokenizers.get(name).cloned())
    }

    async fn hash_list(&self, name: &str) -> Result<Option<Arc<HashList>>> {
        Ok(self.lists.get(name).cloned())
    }

    async fn history(&self, corpus: &str) -> Result<Option<Arc<History>>> {
        Ok(self.histories.get(corpus).cloned())
    }

    async fn function(&self, name: &str) -> Result<Option<CreateFunction>> {
        Ok(self.functions.get(name).cloned())
    }

    async fn names(&self) -> Result<Vec<(ObjectKind, String)>> {
        let views = self.relations.keys().map(|name| (ObjectKind::View, name));
        let corpora = self.corpora.keys().map(|name| (ObjectKind::Corpus, name));
        let lists = self.lists.keys().map(|name| (ObjectKind::HashList, name));
        let tokenizers = self.tokenizers.keys().map(|name| (ObjectKind::Tokenizer, name));
        Ok(views
            .chain(corpora)
            .chain(tokenizers)
            .chain(lists)
            .map(|(kind, name)| (kind, name.clone()))
            .collect())
    }
}

fn open(objects: Script) -> Session {
    let options = SessionOptions {
        target_partitions: 4,
        batch_size: 3,
        ..SessionOptions::default()
    };
    session(&options, Arc::new(objects)).unwrap()
}

fn open_with(definitions: &str) -> Session {
    open(Script::of(definitions))
}

async fn collect(session: &Session, sql: &str) -> Result<Vec<RecordBatch>> {
    let statement = parse_script(sql, "q.sql")?.remove(0);
    let plan = session.plan(&statement).await?;
    let frame = session.context().execute_logical_plan(plan.clone()).await.unwrap();
    match frame.collect().await {
        Ok(batches) => Ok(batches),
        Err(error) => Err(session.explain_error(error, &plan).await),
    }
}

/// Rows as text, cells separated by `|`, sorted unless the query orders them; NULL is `-`.
async fn rows(session: &Session, sql: &str) -> Vec<String> {
    let batches = match collect(session, sql).await {
        Ok(batches) => batches,
        Err(error) => panic!("{sql}\n{error}"),
    };
    let mut rows = rows_of(&batches);
    if !sql.to_uppercase().contains("ORDER BY") {
        rows.sort();
    }
    rows
}

fn rows_of(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("-");
    let mut rows = Vec::new();
    for batch in batches {
        let formatters: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            let cells: Vec<String> = formatters
                .iter()
                .map(|formatter| formatter.value(row).to_string())
                .collect();
            rows.push(cells.join("|"));
        }
    }
    rows
}

async fn failure(session: &Session, sql: &str) -> String {
    match collect(session, sql).await {
        Ok(batches) => panic!("{sql} gave {:?}", rows_of(&batches)),
        Err(error) => error.to_string(),
    }
}
