//! From the engine's planning errors to a place in the file and a way out.

use datafusion::common::{Column, DataFusionError, SchemaError, Span};

use crate::error::{Fault, SqlError, engine_message, nearest};
use crate::session::Session;
use crate::source_text::{Position, SqlText};

/// Puts file, line and column on a planning error, and the nearest name where one is unknown.
pub(crate) async fn locate(error: SqlError, text: &SqlText, session: &Session) -> SqlError {
    let SqlError::Engine(error) = error else {
        return error;
    };
    // The engine collects the faults of several select items; the first is the one to mend first.
    let error = match error {
        DataFusionError::Collection(errors) => match errors.into_iter().next() {
            Some(first) => first,
            None => return SqlError::Plan(Fault::at(text, None, "planning failed")),
        },
        other => other,
    };
    let error = match own_error(error) {
        Ok(own) => return own,
        Err(engine) => engine,
    };
    let mut position = error.diagnostic().and_then(|diagnostic| diagnostic.span).map(place);
    let (mut message, help) = describe(&error, session).await;
    if position.is_none() {
        let whole = engine_message(&error);
        position = quoted_names(&message)
            .into_iter()
            .chain(quoted_names(&whole))
            .find_map(|name| find_word(text, name));
    }
    if message.is_empty() {
        message = engine_message(&error);
    }
    let mut fault = Fault::at(text, position.or(Some(text.start)), message).with_cause(error);
    fault.help = help;
    SqlError::Plan(fault)
}

/// As [`locate`], for SQL that was generated from `text`: places in it mean nothing to a person, words do.
pub(crate) async fn locate_generated(error: SqlError, text: &SqlText, session: &Session) -> SqlError {
    match locate(error, text, session).await {
        SqlError::Plan(mut fault) => {
            fault.position = quoted_names(&fault.message)
                .into_iter()
                .find_map(|name| find_word(text, name))
                .or(Some(text.start));
            SqlError::Plan(fault)
        }
        other => other,
    }
}

/// One of our own errors under wrappings of the engine.
fn own_error(error: DataFusionError) -> Result<SqlError, DataFusionError> {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<SqlError>() {
            Ok(own) => Ok(*own),
            Err(inner) => Err(DataFusionError::External(inner)),
        },
        DataFusionError::Context(context, inner) => {
            own_error(*inner).map_err(|inner| DataFusionError::Context(context, Box::new(inner)))
        }
        DataFusionError::Diagnostic(diagnostic, inner) => {
            own_error(*inner).map_err(|inner| DataFusionError::Diagnostic(diagnostic, Box::new(inner)))
        }
        other => Err(other),
    }
}

async fn describe(error: &DataFusionError, session: &Session) -> (String, Option<String>) {
    if let DataFusionError::SchemaError(schema_error, _) = error.find_root() {
        return describe_schema_error(schema_error);
    }
    let message = engine_message(error);
    if let Some(name) = unknown_table(&message) {
        return (describe_unknown_table(&name, session).await, None);
    }
    if let Some(rest) = message.strip_prefix("Invalid function '")
        && let Some((name, _)) = rest.split_once('\'')
    {
        return (describe_unknown_function(name, session).await, None);
    }
    if let Some(name) = message
        .strip_prefix("Table function ")
        .and_then(|rest| rest.strip_suffix(" not found"))
    {
        return (describe_unknown_table_function(name.trim_matches('\'')), None);
    }
    (one_sentence(&message), None)
}

fn describe_schema_error(error: &SchemaError) -> (String, Option<String>) {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let near = nearest_column(field, valid_fields)
                .map(|near| format!(" (did you mean '{near}'?)"))
                .unwrap_or_default();
            let known: Vec<String> = valid_fields.iter().map(Column::flat_name).collect();
            let help = (!known.is_empty() && known.len() <= 40).then(|| format!("columns here: {}", known.join(", ")));
            (format!("unknown column '{}'{near}", field.flat_name()), help)
        }
        SchemaError::AmbiguousReference { field } => (
            format!("column '{}' is in more than one of the relations", field.flat_name()),
            Some("write relation.column".to_string()),
        ),
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => (
            format!("column '{name}' comes out twice"),
            Some("rename one of them with AS".to_string()),
        ),
    }
}

/// Nearest by bare name; qualified when the reference was.
fn nearest_column(field: &Column, valid: &[Column]) -> Option<String> {
    let near = nearest(&field.name, valid.iter().map(|column| column.name.clone()))?;
    let column = valid.iter().find(|column| column.name == near)?;
    Some(match (&field.relation, &column.relation) {
        (Some(_), Some(relation)) => format!("{}.{near}", relation.table()),
        _ => near,
    })
}

/// The name in `table 'corpusmill.main.x' not found`.
fn unknown_table(message: &str) -> Option<String> {
    let rest = message.strip_prefix("table '")?;
    let (name, rest) = rest.split_once('\'')?;
    rest.starts_with(" not found").then(|| {
        name.trim_start_matches("corpusmill.")
            .trim_start_matches("main.")
            .to_string()
    })
}

async fn describe_unknown_table(name: &str, session: &Session) -> String {
    let names: Vec<String> = match session.objects().names().await {
        Ok(names) => names.into_iter().map(|(_, name)| name).collect(),
        Err(_) => Vec::new(),
    };
    let shown = match name.rsplit_once('@') {
        Some((bare, version)) if names.iter().any(|known| known == bare) => {
            return format!("corpus '{bare}' has no version {version}");
        }
        Some((bare, _)) => bare,
        None => name,
    };
    match nearest(shown, names) {
        Some(near) => format!("unknown table '{shown}' (did you mean '{near}'?)"),
        None => format!("unknown table '{shown}'"),
    }
}

async fn describe_unknown_function(name: &str, session: &Session) -> String {
    let state = session.context().state();
    let known = state
        .scalar_functions()
        .keys()
        .chain(state.aggregate_functions().keys())
        .chain(state.window_functions().keys())
        .cloned()
        .collect::<Vec<_>>();
    match nearest(name, known) {
        Some(near) => format!("unknown function '{name}' (did you mean '{near}'?)"),
        None => format!("unknown function '{name}'"),
    }
}

fn describe_unknown_table_function(name: &str) -> String {
    let known = crate::table_functions::NAMES.iter().map(|name| (*name).to_string());
    match nearest(name, known) {
        Some(near) => format!("unknown table function '{name}' (did you mean '{near}'?)"),
        None => format!("unknown table function '{name}'"),
    }
}

/// The first line, without the engine's appeals to add casts or report bugs.
fn one_sentence(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    // What one of our functions says about its arguments stands between two remarks of the engine.
    let ours = first
        .split_once("user-defined coercion failed with: Error during planning: ")
        .map(|(_, ours)| ours.split(" No function matches").next().unwrap_or(ours));
    ours.unwrap_or(first).trim_end_matches('.').to_string()
}

/// Names in single quotes, in order.
fn quoted_names(message: &str) -> Vec<&str> {
    message.split('\'').skip(1).step_by(2).collect()
}

/// The first place where a word stands alone in the text.
pub(crate) fn find_word(text: &SqlText, word: &str) -> Option<Position> {
    if word.is_empty() {
        return None;
    }
    let haystack = text.text.to_lowercase();
    let needle = word.to_lowercase();
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut from = 0;
    while let Some(found) = haystack.get(from..)?.find(&needle) {
        let start = from + found;
        let end = start + needle.len();
        let alone = !haystack[..start].chars().next_back().is_some_and(is_part)
            && !haystack[end..].chars().next().is_some_and(is_part);
        if alone {
            let before = &haystack[..start];
            let line = before.matches('\n').count() as u64 + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() as u64 + 1;
            return Some(Position { line, column }.shifted_by(text.start));
        }
        from = end;
    }
    None
}

fn place(span: Span) -> Position {
    Position {
        line: span.start.line,
        column: span.start.column,
    }
}
