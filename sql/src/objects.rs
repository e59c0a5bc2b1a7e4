//! What the dialect needs to know about named objects; the coordinator's catalogue answers.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use corpusmill_kernels::Tokenizer;
use datafusion::arrow::array::RecordBatch;

use crate::error::Result;
use crate::hash_lists::HashList;
use crate::history::History;
use crate::models::Model;
use crate::sources::FileTable;
use crate::statement::{CreateFunction, ObjectKind, Statement};

/// Finds objects by name while a statement is planned.
///
/// Names arrive in normal form (lower case unless quoted). A missing object is `None`, never an error; the caller
/// says what is missing and what is nearest.
#[async_trait]
pub trait Objects: Send + Sync + Debug {
    /// The definition of an external table, a view or a materialised view.
    async fn relation(&self, name: &str) -> Result<Option<Relation>>;

    /// A version of a corpus; the newest one where `version` is `None`.
    async fn corpus(&self, name: &str, version: Option<u64>) -> Result<Option<CorpusTable>>;

    /// A tokenizer, loaded.
    async fn tokenizer(&self, name: &str) -> Result<Option<Arc<Tokenizer>>>;

    /// A model, described; without models there is none of any name.
    async fn model(&self, _name: &str) -> Result<Option<Arc<Model>>> {
        Ok(None)
    }

    /// A version of a hash list, written `name@version`, or its newest; without hash lists there is none of any name.
    async fn hash_list(&self, _name: &str) -> Result<Option<Arc<HashList>>> {
        Ok(None)
    }

    /// What earlier builds of a corpus have seen; an empty history for a corpus that has none, `None` for no corpus.
    async fn history(&self, _corpus: &str) -> Result<Option<Arc<History>>> {
        Ok(None)
    }

    /// A Python function.
    async fn function(&self, name: &str) -> Result<Option<CreateFunction>>;

    /// All names by kind, so that an unknown one can be answered with the nearest.
    async fn names(&self) -> Result<Vec<(ObjectKind, String)>>;
}

/// What a relation name stands for, corpora aside.
#[derive(Debug, Clone)]
pub enum Relation {
    /// The `CREATE EXTERNAL TABLE` or `CREATE VIEW` statement that defines it.
    Defined(Box<Statement>),
    /// The committed files of a materialised view.
    Files(FileTable),
}

/// One version of a corpus as a relation, with its quarantine and its counts.
#[derive(Debug, Clone)]
pub struct CorpusTable {
    /// Name of the corpus.
    pub name: String,
    /// The version.
    pub version: u64,
    /// The rows of that version.
    pub data: FileTable,
    /// The quarantined rows of the build that made it, as `name.quarantine`.
    pub quarantine: FileTable,
    /// Rows left out per reason, as `name.drops`.
    pub drops: RecordBatch,
}

/// Knows no object at all: for expressions, tests and `corpusmill run -c` without a home.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObjects;

#[async_trait]
impl Objects for NoObjects {
    async fn relation(&self, _name: &str) -> Result<Option<Relation>> {
        Ok(None)
    }

    async fn corpus(&self, _name: &str, _version: Option<u64>) -> Result<Option<CorpusTable>> {
        Ok(None)
    }

    async fn tokenizer(&self, _name: &str) -> Result<Option<Arc<Tokenizer>>> {
        Ok(None)
    }

    async fn function(&self, _name: &str) -> Result<Option<CreateFunction>> {
        Ok(None)
    }

    async fn names(&self) -> Result<Vec<(ObjectKind, String)>> {
        Ok(Vec::new())
    }
}
