//! The SQL of corpusmill: one dialect over DataFusion, from the text of a script to a plan.
//!
//! ```text
//!  text ─▶ script      lexer, rewrite of tokens, our own statements     ─▶ Vec<Statement>
//!             │
//!  Statement ─▶ Session::plan
//!             │   catalog        names ─▶ tables, views, corpora, through the trait Objects
//!             │   asof           ASOF JOIN ─▶ windows and a join
//!             │   table_functions  exact_duplicates, assign_split, read_blob
//!             │   bind           Python functions and tokenizers by name
//!             ▼   plan_errors    file:line:column, nearest name
//!        LogicalPlan ─▶ check_reproducible ─▶ what a corpus may be built from
//! ```
//!
//! This crate knows no catalogue and runs no build: the coordinator implements [`Objects`] and executes statements.
//!
//! - To add a scalar or aggregate function: `functions.rs` says how.
//! - To add a table function: `table_functions.rs` says how.
//! - To add a statement: a variant in `statement.rs`, a parser under `script/`, an arm in `script.rs`.
//! - To add a source format: `sources.rs` says how.

mod asof;
mod bind;
mod catalog;
mod codec;
mod error;
mod expectations;
mod ffmpeg;
mod functions;
mod graphs;
mod hash_lists;
mod history;
mod models;
mod objects;
mod plan_errors;
mod python;
mod reproducible;
mod script;
mod session;
mod source_text;
mod sources;
mod statement;
mod table_functions;
#[cfg(test)]
mod tests;

pub use codec::PlanCodec;
pub use corpusmill_kernels::Tokenizer;
pub use corpusmill_kernels::hash_list::Signal;
pub use error::{Fault, Result, SqlError};
pub use functions::plain_functions;
pub use functions::tokenize::TokenizerFunction;
pub use graphs::{DialectOptions, Graph, GraphCall};
pub use hash_lists::HashList;
pub use history::{BandOptions, Generation, History, HistoryCall};
pub use models::{Model, ModelOutput, ModelValue};
pub use objects::{CorpusTable, NoObjects, Objects, Relation};
pub use python::PythonFunction;
pub use script::{parse_script, parse_text};
pub use session::{BuildPlan, RunTime, Session, SessionOptions, session};
pub use source_text::{Position, SqlText};
pub use sources::{DataFile, FileTable};
pub use statement::{
    AlterCorpus, AlterCorpusAction, Call, CreateCorpus, CreateExternalTable, CreateFunction, CreateHashList,
    CreateModel, CreateTokenizer, CreateView, DropObject, Expectation, ExpectationScope, HashSource, ModelColumnType,
    ObjectKind, ObjectRef, RefreshCorpus, Schedule, Show, Statement, StatementKind, ViolationAction,
};
