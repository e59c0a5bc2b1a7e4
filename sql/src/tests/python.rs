use super::{failure, open_with, rows};
use crate::script::parse_script;
use crate::statement::StatementKind;

const DEFS: &str = "
CREATE FUNCTION leet(s VARCHAR) RETURNS VARCHAR LANGUAGE python AS $$
import pyarrow.compute as pc
def leet(s):
    print('printing does no harm')
    return pc.replace_substring(s, '3', 'e')
$$;
CREATE FUNCTION plus(a BIGINT, b INT) RETURNS BIGINT LANGUAGE python AS $$
def plus(a, b):
    return [None if x is None or y is None else x + y for x, y in zip(a.to_pylist(), b.to_pylist())]
$$;
CREATE FUNCTION raises(s VARCHAR) RETURNS VARCHAR LANGUAGE python AS $$
def raises(s):
    return inner(s)
def inner(s):
    raise ValueError('no such thing')
$$;
CREATE FUNCTION dies(s VARCHAR) RETURNS VARCHAR LANGUAGE python AS $$
import os, sys
def dies(s):
    sys.stderr.write('the last words')
    sys.stderr.flush()
    os._exit(7)
$$;
CREATE FUNCTION short(s VARCHAR) RETURNS VARCHAR LANGUAGE python AS $$
def short(s):
    return s[:1] if len(s) > 1 else []
$$;
CREATE FUNCTION wrong(s VARCHAR) RETURNS BIGINT LANGUAGE python AS $$
def wrong(s):
    return s
$$;
CREATE FUNCTION nothing(s VARCHAR) RETURNS BIGINT LANGUAGE python AS $$
def nothin(s):
    return s
$$;
CREATE VIEW v(s) AS VALUES ('h3llo'), (NULL), ('3'), ('x'), ('y');
";

/// True where the interpreter has pyarrow; the tests say so and stop where it has not.
pub(super) fn python_is_there() -> bool {
    let python = std::env::var("CORPUSMILL_PYTHON").unwrap_or_else(|_| "python3".into());
    let there = std::process::Command::new(python)
        .args(["-c", "import pyarrow"])
        .output()
        .is_ok_and(|output| output.status.success());
    assert!(
        there || std::env::var_os("CI").is_none(),
        "CI must set CORPUSMILL_PYTHON to a Python with pyarrow"
    );
    there
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_run_over_batches() {
    if !python_is_there() {
        return;
    }
    let session = open_with(DEFS);
    assert_eq!(
        rows(&session, "SELECT leet(s) FROM v").await,
        ["-", "e", "hello", "x", "y"]
    );
    assert_eq!(
        rows(
            &session,
            "SELECT plus(value, CAST(1 AS INT)) FROM generate_series(1, 4)"
        )
        .await,
        ["2", "3", "4", "5"]
    );
    assert_eq!(rows(&session, "SELECT leet('3')").await, ["e"]);
    let message = failure(&session, "SELECT plus(1) FROM v").await;
    assert!(
        message.contains("function plus takes 2 argument(s), (a, b), found 1"),
        "{message}"
    );
}

#[tokio::test]
async fn failures_name_the_function_and_the_session_goes_on() {
    if !python_is_there() {
        return;
    }
    let session = open_with(DEFS);
    for (function, expected) in [
        ("raises", "function raises failed: ValueError: no such thing"),
        ("short", "function short failed: ValueError: returned"),
        (
            "wrong",
            "function wrong failed: TypeError: returned string, expected int64",
        ),
        (
            "nothing",
            "function nothing failed: NameError: the body defines no function 'nothing'",
        ),
        (
            "dies",
            "function dies: its Python process ended in the middle of a batch (exit status: 7)",
        ),
    ] {
        let message = failure(&session, &format!("SELECT {function}(s) FROM v")).await;
        assert!(message.contains(expected), "{function}: {message}");
        match function {
            "raises" => assert!(
                message.contains("File \"<function raises>\", line 5, in inner"),
                "{message}"
            ),
            "dies" => assert!(message.contains("the last words"), "{message}"),
            _ => {}
        }
    }
    assert_eq!(rows(&session, "SELECT leet('a3')").await, ["ae"]);
}

#[tokio::test]
async fn a_definition_is_checked_when_it_is_made() {
    if !python_is_there() {
        return;
    }
    let session = open_with("");
    let check = |text: &'static str| {
        let session = session.clone();
        async move {
            let statement = parse_script(text, "f.sql").unwrap().remove(0);
            let StatementKind::CreateFunction(function) = &statement.kind else {
                panic!();
            };
            session.check_function(function, &statement.text).await
        }
    };
    check("CREATE FUNCTION f(s VARCHAR) RETURNS FLOAT[] LANGUAGE python AS $$\ndef f(s): return s\n$$")
        .await
        .unwrap();
    let error = check("\nCREATE FUNCTION f(s VARCHAR) RETURNS VARCHAR LANGUAGE python AS $$\ndef f(s) return s\n$$")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("f.sql:2:1: function f failed: SyntaxError"),
        "{error}"
    );
    let error = check("CREATE FUNCTION f(s VARCHAR) RETURNS VARCHAR LANGUAGE python AS $$\nimport no_such_module\ndef f(s): return s\n$$")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("ModuleNotFoundError: No module named 'no_such_module'"),
        "{error}"
    );
}
