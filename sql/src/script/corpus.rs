//! `CREATE CORPUS`, `REFRESH CORPUS` and `ALTER CORPUS`.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::create::{Prefix, query_text};
use super::cursor::Cursor;
use super::parse_expression;
use crate::error::Result;
use crate::statement::{
    AlterCorpus, AlterCorpusAction, CreateCorpus, Expectation, ExpectationScope, RefreshCorpus, Schedule,
    ViolationAction,
};

/// Parses `CORPUS name (…) [PARTITIONED BY (…)] [WITH (…)] [SCHEDULE …] AS query`.
pub(super) fn parse_create(cursor: &mut Cursor<'_>, prefix: Prefix) -> Result<CreateCorpus> {
    cursor.expect("CORPUS")?;
    let if_not_exists = cursor.eat("IF NOT EXISTS");
    let name = cursor.name("the corpus's name")?;
    let mut corpus = CreateCorpus {
        name,
        or_refresh: prefix.or_refresh,
        or_replace: prefix.or_replace,
        if_not_exists,
        primary_key: Vec::new(),
        partitioned_by: Vec::new(),
        options: Vec::new(),
        expectations: Vec::new(),
        schedule: None,
        query: cursor.text().clone(),
    };
    let elements = cursor.position();
    if !cursor.eat_token(&Token::LParen) {
        return Err(cursor.expected(&format!(
            "(PRIMARY KEY (column, …)) after CREATE CORPUS {}",
            corpus.name
        )));
    }
    loop {
        parse_element(cursor, &mut corpus)?;
        if !cursor.eat_token(&Token::Comma) {
            break;
        }
    }
    cursor.expect_token(&Token::RParen)?;
    if corpus.primary_key.is_empty() {
        return Err(cursor.fault(
            elements,
            format!("corpus {} needs PRIMARY KEY (column, …)", corpus.name),
        ));
    }
    loop {
        let position = cursor.position();
        if cursor.eat("PARTITIONED BY") {
            if !corpus.partitioned_by.is_empty() {
                return Err(cursor.fault(position, "PARTITIONED BY is given twice"));
            }
            corpus.partitioned_by = cursor.names_in_parentheses("a column name")?;
        } else if cursor.eat("WITH") {
            if !corpus.options.is_empty() {
                return Err(cursor.fault(position, "WITH is given twice"));
            }
            corpus.options = cursor.options()?;
        } else if matches!(cursor.peek_word().as_deref(), Some("SCHEDULE" | "TRIGGER")) {
            if corpus.schedule.is_some() {
                return Err(cursor.fault(position, "SCHEDULE is given twice"));
            }
            corpus.schedule = Some(parse_schedule(cursor)?);
        } else if cursor.eat("AS") {
            corpus.query = query_text(cursor)?;
            return Ok(corpus);
        } else {
            return Err(cursor.expected("PARTITIONED BY, WITH, SCHEDULE, TRIGGER or AS"));
        }
    }
}

fn parse_element(cursor: &mut Cursor<'_>, corpus: &mut CreateCorpus) -> Result<()> {
    let position = cursor.position();
    if cursor.eat("PRIMARY KEY") {
        if !corpus.primary_key.is_empty() {
            return Err(cursor.fault(position, "PRIMARY KEY is given twice"));
        }
        corpus.primary_key = cursor.names_in_parentheses("a column name")?;
        return Ok(());
    }
    if !cursor.eat("CONSTRAINT") {
        return Err(cursor.expected("PRIMARY KEY or CONSTRAINT"));
    }
    let name = cursor.name("the constraint's name")?;
    if corpus.expectations.iter().any(|known| known.name == name) {
        return Err(cursor.fault(position, format!("constraint '{name}' is given twice")));
    }
    cursor.expect("EXPECT")?;
    let scope = if cursor.eat("CORPUS") {
        ExpectationScope::Corpus
    } else {
        ExpectationScope::Row
    };
    let condition = cursor.parenthesized("a condition")?;
    parse_expression(&condition)?;
    cursor.expect("ON VIOLATION")?;
    let action_position = cursor.position();
    let action = if cursor.eat("DROP ROW") {
        ViolationAction::DropRow
    } else if cursor.eat("QUARANTINE ROW") {
        ViolationAction::QuarantineRow
    } else if cursor.eat("FAIL BUILD") {
        ViolationAction::FailBuild
    } else if cursor.eat("WARN") {
        ViolationAction::Warn
    } else {
        return Err(cursor.expected("DROP ROW, QUARANTINE ROW, FAIL BUILD or WARN"));
    };
    let acts_on_row = matches!(action, ViolationAction::DropRow | ViolationAction::QuarantineRow);
    if scope == ExpectationScope::Corpus && acts_on_row {
        return Err(cursor.fault(
            action_position,
            "EXPECT CORPUS looks at the whole corpus; it can FAIL BUILD or WARN",
        ));
    }
    corpus.expectations.push(Expectation {
        name,
        scope,
        condition,
        action,
    });
    Ok(())
}

fn parse_schedule(cursor: &mut Cursor<'_>) -> Result<Schedule> {
    if cursor.eat("TRIGGER") {
        cursor.expect("ON UPDATE")?;
        return Ok(Schedule::OnUpdate);
    }
    cursor.expect("SCHEDULE")?;
    if cursor.eat("EVERY") {
        let count = cursor.unsigned("a number")?;
        let position = cursor.position();
        let unit = cursor.name("SECONDS, MINUTES, HOURS, DAYS or WEEKS")?;
        let unit_seconds = match unit.trim_end_matches('s') {
            "second" => 1,
            "minute" => 60,
            "hour" => 3_600,
            "day" => 86_400,
            "week" => 604_800,
            _ => {
                return Err(cursor.fault(
                    position,
                    format!("unknown unit '{unit}'; expected SECONDS, MINUTES, HOURS, DAYS or WEEKS"),
                ));
            }
        };
        let seconds = count
            .checked_mul(unit_seconds)
            .filter(|seconds| *seconds > 0)
            .ok_or_else(|| cursor.fault(position, "the distance must be above 0"))?;
        return Ok(Schedule::Every { seconds });
    }
    cursor.expect("CRON")?;
    let position = cursor.position();
    let expression = cursor.string("a cron expression of five fields in quotes")?;
    if expression.split_whitespace().count() != 5 {
        return Err(cursor.fault(
            position,
            format!("'{expression}' is not a cron expression of five fields (minute hour day month weekday)"),
        ));
    }
    let time_zone = if cursor.eat("AT TIME ZONE") {
        cursor.string("a time zone in quotes, such as 'Asia/Singapore'")?
    } else {
        "UTC".to_string()
    };
    Ok(Schedule::Cron { expression, time_zone })
}

/// Parses `REFRESH CORPUS name [FULL] [AS OF TIMESTAMP '…']`.
pub(super) fn parse_refresh(cursor: &mut Cursor<'_>) -> Result<RefreshCorpus> {
    cursor.expect("REFRESH")?;
    cursor.expect("CORPUS")?;
    let name = cursor.name("the corpus's name")?;
    let full = cursor.eat("FULL");
    let as_of = if cursor.eat("AS OF") {
        cursor.expect("TIMESTAMP")?;
        Some(cursor.string("a timestamp in quotes")?)
    } else {
        None
    };
    cursor.finish()?;
    Ok(RefreshCorpus { name, full, as_of })
}

/// Parses `ALTER CORPUS name action`.
pub(super) fn parse_alter(cursor: &mut Cursor<'_>) -> Result<AlterCorpus> {
    cursor.expect("ALTER")?;
    cursor.expect("CORPUS")?;
    let name = cursor.name("the corpus's name")?;
    let action = if cursor.eat("ROLLBACK TO VERSION") {
        AlterCorpusAction::RollbackTo(cursor.unsigned("a version number")?)
    } else if cursor.eat("SUSPEND SCHEDULE") {
        AlterCorpusAction::SuspendSchedule
    } else if cursor.eat("RESUME SCHEDULE") {
        AlterCorpusAction::ResumeSchedule
    } else if cursor.eat("SET TAG") {
        let tag = cursor.string("a tag in quotes, such as 'prod'")?;
        cursor.expect_token(&Token::Eq)?;
        AlterCorpusAction::SetTag(tag, cursor.unsigned("a version number")?)
    } else if cursor.eat("DROP TAG") {
        AlterCorpusAction::DropTag(cursor.string("a tag in quotes, such as 'prod'")?)
    } else if cursor.eat("SET") {
        AlterCorpusAction::Set(cursor.options()?)
    } else {
        return Err(cursor.expected(
            "ROLLBACK TO VERSION n, SET (…), SET TAG 'name' = n, DROP TAG 'name', SUSPEND SCHEDULE or RESUME SCHEDULE",
        ));
    };
    cursor.finish()?;
    Ok(AlterCorpus { name, action })
}
