//! The statements of the dialect, as data.

use corpusmill_kernels::hash_list::Signal;
use corpusmill_operators::ModelTask;
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast;

use crate::source_text::{Position, SqlText};

/// One statement of a script: what it is, and the text it came from.
#[derive(Debug, Clone)]
pub struct Statement {
    /// The statement's own text, without the semicolon, and its place in the file.
    pub text: SqlText,
    /// What it says.
    pub kind: StatementKind,
}

impl Statement {
    /// Where the statement starts in its file.
    pub fn position(&self) -> Position {
        self.text.start
    }

    /// Where the statement starts, as people write it: `file.sql:12`.
    pub fn location(&self) -> String {
        format!("{}:{}", self.text.origin, self.text.start.line)
    }

    /// Where the statement starts, and its first words.
    pub fn place(&self) -> String {
        format!("{}: {}", self.location(), self.summary())
    }

    /// The first words, for progress lines and error messages: at most one line of 80 characters.
    pub fn summary(&self) -> String {
        let mut words = self.text.text.split_whitespace();
        let mut summary = String::new();
        for word in &mut words {
            if summary.chars().count() + word.chars().count() > 79 {
                summary.push('…');
                break;
            }
            if !summary.is_empty() {
                summary.push(' ');
            }
            summary.push_str(word);
        }
        summary
    }
}

/// What a statement says.
///
/// Names are normalised: lower case unless they were quoted.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StatementKind {
    /// `CREATE [OR REPLACE] TOKENIZER [IF NOT EXISTS] name WITH (uri = …)`
    CreateTokenizer(CreateTokenizer),
    /// `CREATE [OR REPLACE] MODEL [IF NOT EXISTS] name INPUT (…) OUTPUT (…) WITH (uri = …)`
    CreateModel(CreateModel),
    /// `CREATE [OR REPLACE] HASH LIST [IF NOT EXISTS] name WITH (signal = …) [AS SELECT …]`
    CreateHashList(CreateHashList),
    /// `CREATE [OR REPLACE] FUNCTION f(a TYPE, …) RETURNS TYPE LANGUAGE python AS $$…$$`
    CreateFunction(CreateFunction),
    /// `CREATE EXTERNAL TABLE name … STORED AS … LOCATION …`
    CreateExternalTable(CreateExternalTable),
    /// `CREATE [OR REPLACE] VIEW name AS SELECT …`
    CreateView(CreateView),
    /// `CREATE [OR REPLACE] MATERIALIZED VIEW name [WITH (…)] AS SELECT …`
    CreateMaterializedView(CreateView),
    /// `CREATE [OR REFRESH | OR REPLACE] CORPUS name (…) … AS SELECT …`
    CreateCorpus(Box<CreateCorpus>),
    /// `REFRESH CORPUS name [FULL] [AS OF TIMESTAMP '…']`
    RefreshCorpus(RefreshCorpus),
    /// `EXPLAIN REFRESH CORPUS name`
    ExplainRefresh(RefreshCorpus),
    /// `ALTER CORPUS name …`
    AlterCorpus(AlterCorpus),
    /// `SHOW …`
    Show(Show),
    /// `DESCRIBE name`: columns of a table, view or corpus; or of any object the catalogue knows.
    Describe(ObjectRef),
    /// `DROP … [IF EXISTS] name`
    Drop(DropObject),
    /// `COPY … TO '…'`
    CopyTo(Box<EngineStatement>),
    /// A query: `SELECT`, `WITH`, `VALUES`, `TABLE t`.
    Query(Box<EngineStatement>),
    /// `EXPLAIN [ANALYZE] [VERBOSE] query`
    Explain(Box<EngineStatement>),
    /// `SET name = value`: an option of the session.
    Set(Box<EngineStatement>),
    /// `CALL name(…)`
    Call(Call),
}

/// A tokenizer to be known by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTokenizer {
    /// Its name.
    pub name: String,
    /// `OR REPLACE` was written.
    pub or_replace: bool,
    /// `IF NOT EXISTS` was written.
    pub if_not_exists: bool,
    /// Path or URL of the `tokenizer.json`.
    pub uri: String,
    /// Longest sequence in tokens; longer texts are cut.
    pub max_length: Option<u32>,
}

/// A model to be known by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateModel {
    /// Its name.
    pub name: String,
    /// `OR REPLACE` was written.
    pub or_replace: bool,
    /// `IF NOT EXISTS` was written.
    pub if_not_exists: bool,
    /// Columns that it gives, by name.
    pub outputs: Vec<(String, ModelColumnType)>,
    /// Path or URL of the folder with its files.
    pub uri: String,
    /// What it is asked for.
    pub task: ModelTask,
    /// Longest sequence in tokens; longer texts are cut.
    pub max_length: Option<u32>,
    /// How the tokens of a text become one vector, where it is not as the files say.
    pub pooling: Option<String>,
}

/// Type of a column of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelColumnType {
    /// `VARCHAR`
    Varchar,
    /// `FLOAT`
    Float,
    /// `FLOAT ARRAY`
    FloatArray,
}

/// A list of hashes to be known by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateHashList {
    /// Its name.
    pub name: String,
    /// `OR REPLACE` was written.
    pub or_replace: bool,
    /// `IF NOT EXISTS` was written.
    pub if_not_exists: bool,
    /// What its hashes are made of.
    pub signal: Signal,
    /// Greatest distance of a match in bits; 0 for signals that match exactly.
    pub max_distance: u32,
    /// Least quality of a row's hash that is looked up, from 0 to 100; 0 for signals that match exactly.
    pub min_quality: u32,
    /// Where its entries come from.
    pub source: HashSource,
}

/// Where the entries of a hash list come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashSource {
    /// Path, glob or URL of files.
    Files(String),
    /// A query with a column `hash`, and `id` if entries have one.
    Query(SqlText),
}

/// A Python function, vectorised over Arrow arrays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateFunction {
    /// Its name, in SQL and as the `def` in the body.
    pub name: String,
    /// `OR REPLACE` was written.
    pub or_replace: bool,
    /// `IF NOT EXISTS` was written.
    pub if_not_exists: bool,
    /// Names and SQL types of the arguments.
    pub arguments: Vec<(String, ast::DataType)>,
    /// SQL type of the result.
    pub returns: ast::DataType,
    /// The Python source between the dollar quotes.
    pub body: String,
    /// `IMMUTABLE`, which is also the default, or `STABLE`/`VOLATILE`; a volatile function cannot feed a corpus.
    pub volatile: bool,
}

/// A table over files.
#[derive(Debug, Clone)]
pub struct CreateExternalTable {
    /// Its name.
    pub name: String,
    /// `OR REPLACE` was written.
    pub or_replace: bool,
    /// `IF NOT EXISTS` was written.
    pub if_not_exists: bool,
    /// `PARQUET`, `CSV`, `JSON`, `ARROW` or `DELTA`, in capitals.
    pub format: String,
    /// Paths, globs or URLs.
    pub locations: Vec<String>,
    /// The engine's statement, to be planned.
    pub definition: Box<EngineStatement>,
}

/// A view, plain or materialised.
#[derive(Debug, Clone)]
pub struct CreateView {
    /// Its name.
    pub name: String,
    /// `OR REPLACE` was written.
    pub or_replace: bool,
    /// `IF NOT EXISTS` was written.
    pub if_not_exists: bool,
    /// `WITH (key = 'value', …)`.
    pub options: Vec<(String, String)>,
    /// Names given to the columns, in order; empty if the query's own are kept.
    pub columns: Vec<String>,
    /// The query.
    pub query: SqlText,
}

/// A corpus: its key, rules, layout and query.
#[derive(Debug, Clone)]
pub struct CreateCorpus {
    /// Its name.
    pub name: String,
    /// `OR REFRESH`: an existing corpus gets a new version.
    pub or_refresh: bool,
    /// `OR REPLACE`: the schema may change in any way.
    pub or_replace: bool,
    /// `IF NOT EXISTS` was written.
    pub if_not_exists: bool,
    /// Columns of the primary key, in order; never empty.
    pub primary_key: Vec<String>,
    /// Partition columns, in order.
    pub partitioned_by: Vec<String>,
    /// `WITH (key = value, …)`, values as text.
    pub options: Vec<(String, String)>,
    /// Row and corpus expectations, in order.
    pub expectations: Vec<Expectation>,
    /// When a coordinator refreshes it.
    pub schedule: Option<Schedule>,
    /// The query that makes its rows.
    pub query: SqlText,
}

/// A rule on the rows of a corpus or on the corpus as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// Name of the constraint.
    pub name: String,
    /// What it looks at.
    pub scope: ExpectationScope,
    /// Passes only when TRUE; NULL is a violation.
    pub condition: SqlText,
    /// What happens otherwise.
    pub action: ViolationAction,
}

/// What an expectation looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectationScope {
    /// Each row alone: `EXPECT (…)`.
    Row,
    /// The corpus as a whole: `EXPECT CORPUS (…)`.
    Corpus,
}

/// What a violation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViolationAction {
    /// The row is left out and counted.
    DropRow,
    /// The row goes to the quarantine table with its reason.
    QuarantineRow,
    /// The build fails and nothing is published.
    FailBuild,
    /// The build goes on with a warning.
    Warn,
}

/// When a coordinator refreshes a corpus; the embedded runner keeps and shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// `SCHEDULE CRON '…' [AT TIME ZONE '…']`
    Cron {
        /// Five fields.
        expression: String,
        /// IANA name; UTC when not given.
        time_zone: String,
    },
    /// `SCHEDULE EVERY n UNIT`
    Every {
        /// Distance between two starts, in seconds.
        seconds: u64,
    },
    /// `TRIGGER ON UPDATE`
    OnUpdate,
}

/// `REFRESH CORPUS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshCorpus {
    /// The corpus.
    pub name: String,
    /// `FULL`: nothing is reused.
    pub full: bool,
    /// Logical time of the build as written, in RFC 3339 or SQL form.
    pub as_of: Option<String>,
}

/// `ALTER CORPUS name action`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterCorpus {
    /// The corpus.
    pub name: String,
    /// What to change.
    pub action: AlterCorpusAction,
}

/// What `ALTER CORPUS` changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlterCorpusAction {
    /// `ROLLBACK TO VERSION n`: a new version with the content of version n.
    RollbackTo(u64),
    /// `SET TAG 'name' = n`: `corpus@name` is version n from now on.
    SetTag(String, u64),
    /// `DROP TAG 'name'`
    DropTag(String),
    /// `SET (key = value, …)`
    Set(Vec<(String, String)>),
    /// `SUSPEND SCHEDULE`
    SuspendSchedule,
    /// `RESUME SCHEDULE`
    ResumeSchedule,
}

/// `SHOW` of one kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Show {
    /// `SHOW CORPORA`
    Corpora,
    /// `SHOW BUILDS`
    Builds,
    /// `SHOW TABLES`
    Tables,
    /// `SHOW VIEWS`
    Views,
    /// `SHOW TOKENIZERS`
    Tokenizers,
    /// `SHOW FUNCTIONS`
    Functions,
    /// `SHOW MODELS`
    Models,
    /// `SHOW HASH LISTS`
    HashLists,
    /// `SHOW SCHEDULES`
    Schedules,
    /// `SHOW SCHEDULED RUNS`
    Runs,
}

/// An object by kind, where it was given, and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRef {
    /// The kind, if the statement gave one.
    pub kind: Option<ObjectKind>,
    /// Its name, perhaps with a version or a schema: `c`, `c@3`, `c.quarantine`.
    pub name: String,
    /// Where the name stands.
    pub position: Position,
}

/// Kinds of objects in the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ObjectKind {
    /// An external table.
    Table,
    /// A view.
    View,
    /// A materialised view.
    MaterializedView,
    /// A tokenizer.
    Tokenizer,
    /// A model.
    Model,
    /// A hash list.
    HashList,
    /// A Python function.
    Function,
    /// A corpus.
    Corpus,
}

impl ObjectKind {
    /// The words of the dialect for this kind, in lower case.
    pub fn words(self) -> &'static str {
        match self {
            ObjectKind::Table => "table",
            ObjectKind::View => "view",
            ObjectKind::MaterializedView => "materialized view",
            ObjectKind::Tokenizer => "tokenizer",
            ObjectKind::Model => "model",
            ObjectKind::HashList => "hash list",
            ObjectKind::Function => "function",
            ObjectKind::Corpus => "corpus",
        }
    }
}

/// `DROP kind [IF EXISTS] name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropObject {
    /// What kind of object.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
    /// A missing object is no error.
    pub if_exists: bool,
}

/// `CALL procedure(…)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Name of the procedure.
    pub procedure: String,
    /// Arguments as written, with their names where given.
    pub arguments: Vec<(Option<String>, String)>,
}
