//! The catalogue on both databases; a real PostgreSQL server, where there is one.

use super::*;
use crate::report::{BuildState, StepReport};

#[path = "../../../tests/src/postgres.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    reason = "it belongs to the crate of the tests, which this one cannot use"
)]
mod postgres;

use postgres::Postgres;

/// A server, or a line that says that there is none.
fn server(test: &str) -> Option<Postgres> {
    use std::io::Write as _;
    let server = Postgres::start().unwrap();
    if server.is_none() {
        let line = format!("not run here: {test}: PostgreSQL is not installed");
        eprintln!("{line}");
        if let Some(path) = std::env::var_os("CORPUSMILL_NOT_RUN") {
            let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
            writeln!(file, "{line}").unwrap();
        }
    }
    server
}

/// Runs `test` on a catalogue in a file, and on one in a server.
async fn on_both(name: &str, test: impl AsyncFn(Location)) {
    let home = tempfile::tempdir().unwrap();
    test(Location::File(home.path().join("catalog.sqlite"))).await;
    if let Some(server) = server(name) {
        test(Location::server(&server.url()).unwrap()).await;
    }
}

fn candidate(address: &str) -> Candidate {
    Candidate {
        address: address.to_owned(),
        length: Duration::from_secs(3),
    }
}

/// Opens a catalogue, and may write to it.
async fn writable(location: &Location) -> (Catalog, Lease) {
    let catalog = Catalog::open(location.clone()).await.unwrap();
    let lease = catalog.try_lead(&candidate("test")).await.unwrap().unwrap();
    catalog.write_under(&lease);
    (catalog, lease)
}

fn new_build(id: &str) -> NewBuild {
    NewBuild {
        id: id.to_owned(),
        object: "corpus".to_owned(),
        kind: "corpus",
        sql: "CREATE CORPUS …".to_owned(),
        sql_digest: "s".to_owned(),
        fingerprint: "f".to_owned(),
        logical_ms: 7,
    }
}

#[tokio::test]
async fn what_is_written_is_read() {
    on_both("what_is_written_is_read", async |location| {
        let (catalog, lease) = writable(&location).await;
        let object = |name: &str, sql: &str| ObjectRow {
            name: name.to_owned(),
            kind: "view".to_owned(),
            sql: sql.to_owned(),
            origin: "o".to_owned(),
            base_dir: "/b".to_owned(),
            settings: "{}".to_owned(),
            updated_ms: 5,
        };
        for (name, sql) in [("b", "1"), ("B", "2"), ("a", "3"), ("b", "ü 4")] {
            catalog.put_object(Space::Relation, &object(name, sql)).await.unwrap();
        }
        let found = catalog.objects(Space::Relation).await.unwrap();
        assert_eq!(
            found,
            [object("B", "2"), object("a", "3"), object("b", "ü 4")],
            "{location}"
        );
        assert_eq!(catalog.object(Space::Function, "a").await.unwrap(), None);
        assert!(catalog.drop_object(Space::Relation, "a").await.unwrap());
        assert!(!catalog.drop_object(Space::Relation, "a").await.unwrap());

        lease.release().await;
    })
    .await;
}

#[tokio::test]
async fn builds_are_kept_from_their_beginning_to_their_end() {
    on_both("builds_are_kept_from_their_beginning_to_their_end", async |location| {
        let (catalog, lease) = writable(&location).await;
        catalog.begin_build(&new_build("b1")).await.unwrap();
        // The answer to the first may have been lost.
        catalog.begin_build(&new_build("b1")).await.unwrap();
        catalog.intend("b1", "{}").await.unwrap();
        let step = StepReport {
            name: "shards".to_owned(),
            reused: false,
            splits: 1,
            rows_in: 2,
            rows_out: 2,
            bytes: 3,
            elapsed: Duration::from_millis(4),
        };
        catalog.commit_step("b1", 0, &step).await.unwrap();
        let running = catalog.builds_of("corpus").await.unwrap();
        assert_eq!((running.len(), running[0].state), (1, BuildState::Running));
        assert_eq!((running[0].intent.as_deref(), running[0].version), (Some("{}"), None));
        let end = BuildEnd {
            version: Some(3),
            rows: Some(u64::from(u32::MAX) + 1),
            digest: Some("d".to_owned()),
            ..BuildEnd::default()
        };
        catalog.end_build("b1", BuildState::Committed, &end).await.unwrap();
        let ended = catalog.builds().await.unwrap().remove(0);
        assert_eq!(
            (ended.state, ended.version, ended.rows),
            (BuildState::Committed, Some(3), end.rows)
        );
        assert_eq!((ended.intent, ended.error, ended.logical_ms), (None, None, 7));
        catalog.forget_builds("corpus").await.unwrap();
        assert_eq!(catalog.builds().await.unwrap(), []);

        catalog.wait("t", "corpus", "first").await.unwrap();
        catalog.wait("t", "corpus", "second").await.unwrap();
        let waiting = catalog.waiting().await.unwrap();
        assert_eq!((waiting.len(), waiting[0].error.as_deref()), (1, Some("second")));
        catalog.wait_no_longer("t").await.unwrap();
        assert_eq!(catalog.waiting().await.unwrap(), []);

        assert_eq!(catalog.settle("warehouse", None).await.unwrap(), None);
        for mine in ["a", "b"] {
            assert_eq!(
                catalog.settle("warehouse", Some(mine)).await.unwrap().as_deref(),
                Some("a")
            );
        }
        lease.release().await;
        assert_eq!(Catalog::open(location).await.unwrap().builds().await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn a_newer_catalogue_is_refused_by_name() {
    on_both("a_newer_catalogue_is_refused_by_name", async |location| {
        let catalog = Catalog::open(location.clone()).await.unwrap();
        let checksum = if location.is_server() { "'\\x00'" } else { "x'00'" };
        let sql = format!(
            "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time)
             VALUES (9999, 'from the future', '2030-01-01', TRUE, {checksum}, 0)"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .execute(&catalog.pool)
            .await
            .unwrap();
        drop(catalog);
        let error = Catalog::open(location.clone()).await.unwrap_err();
        assert!(
            matches!(error, CoordinatorError::NewerCatalog { found: 9999, .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(&location.to_string()), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_no_catalogue_is_named() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("catalog.sqlite");
    std::fs::write(
        &path,
        "this is not a database, and long enough to have a header of one hundred bytes or more, is it not?",
    )
    .unwrap();
    let error = Catalog::open(Location::File(path)).await.unwrap_err();
    assert!(error.to_string().contains("catalog.sqlite"), "{error}");
}

#[tokio::test]
async fn a_server_that_cannot_be_used_says_why_and_never_the_password() {
    let Some(mut server) = server("a_server_that_cannot_be_used_says_why_and_never_the_password") else {
        return;
    };
    let refused = async |url: String| {
        let error = Catalog::open(Location::server(&url).unwrap()).await.unwrap_err();
        let text = format!("{} {error:?}", corpusmill_operators::with_sources(&error));
        assert!(matches!(error, CoordinatorError::CatalogServer { .. }), "{text}");
        assert!(
            !text.contains(postgres::PASSWORD) && !text.contains("guessed"),
            "{text}"
        );
        (text, error.retry())
    };
    let (wrong, _) = refused(server.url_of("mill", "guessed", "postgres")).await;
    assert!(
        wrong.contains("does not let `mill` in") && wrong.contains("PGPASSWORD"),
        "{wrong}"
    );
    let (missing, _) = refused(server.url_of("mill", postgres::PASSWORD, "nowhere")).await;
    assert!(
        missing.contains("no database `nowhere`") && missing.contains("createdb"),
        "{missing}"
    );
    server.stop().unwrap();
    let (away, retry) = refused(server.url()).await;
    assert!(away.contains("no PostgreSQL server answers") && retry, "{away}");
}

#[tokio::test]
async fn one_leads_and_the_next_has_a_higher_term() {
    on_both("one_leads_and_the_next_has_a_higher_term", async |location| {
        let (first, lease) = writable(&location).await;
        let second = Catalog::open(location.clone()).await.unwrap();
        assert!(second.try_lead(&candidate("b")).await.unwrap().is_none());
        assert_eq!(second.leader().await.unwrap().unwrap().address, "test");
        if location.is_server() {
            let error = second.begin_build(&new_build("x")).await.unwrap_err();
            assert!(matches!(error, CoordinatorError::Deposed { .. }), "{error:?}");
        }
        // Longer than the lease: it is renewed.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(4) {
            assert!(second.try_lead(&candidate("b")).await.unwrap().is_none());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // As if the process was stopped: nobody renews, and it still believes in its term.
        lease.renewing.abort();
        let next = second.campaign(&candidate("b"), |_| {}).await;
        assert_eq!(next.term, lease.term + 1);
        if location.is_server() {
            let error = first.begin_build(&new_build("late")).await.unwrap_err();
            assert!(matches!(error, CoordinatorError::Deposed { .. }), "{error:?}");
        }
        second.write_under(&next);
        second.begin_build(&new_build("b2")).await.unwrap();
        assert_eq!(second.builds().await.unwrap().len(), 1);
        next.release().await;
        assert_eq!(second.leader().await.unwrap(), None);
        assert!(
            first
                .try_lead(&candidate("a"))
                .await
                .unwrap()
                .is_some_and(|l| l.term == next.term + 1)
        );
    })
    .await;
}

#[tokio::test]
async fn a_transaction_of_a_stopped_leader_does_not_hold_the_next() {
    let Some(server) = server("a_transaction_of_a_stopped_leader_does_not_hold_the_next") else {
        return;
    };
    let location = Location::server(&server.url()).unwrap();
    let (first, lease) = writable(&location).await;
    let mut open = first.pool.begin().await.unwrap();
    sqlx::query("SELECT term FROM leases FOR SHARE")
        .fetch_all(&mut *open)
        .await
        .unwrap();
    lease.renewing.abort();
    let second = Catalog::open(location).await.unwrap();
    let began = Instant::now();
    let next = second.campaign(&candidate("b"), |_| {}).await;
    assert_eq!(next.term, lease.term + 1);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(
        sqlx::query("SELECT 1").execute(&mut *open).await.is_err(),
        "the server ended it"
    );
}

#[tokio::test]
async fn a_server_that_is_started_again_is_waited_for_and_the_lead_is_kept_or_lost() {
    let Some(mut server) = server("a_server_that_is_started_again_is_waited_for_and_the_lead_is_kept_or_lost") else {
        return;
    };
    let location = Location::server(&server.url()).unwrap();
    let catalog = Catalog::open(location).await.unwrap();
    let patient = Candidate {
        address: "a".to_owned(),
        length: Duration::from_secs(60),
    };
    let lease = catalog.try_lead(&patient).await.unwrap().unwrap();
    catalog.write_under(&lease);
    catalog.begin_build(&new_build("b1")).await.unwrap();
    server.stop().unwrap();
    let writer = catalog.clone();
    let writing = tokio::spawn(async move { writer.begin_build(&new_build("b2")).await });
    server.start_again().unwrap();
    writing.await.unwrap().unwrap();
    assert_eq!(catalog.builds().await.unwrap().len(), 2);
    assert!(!lease.lost.is_cancelled());
    lease.release().await;
    drop(lease);

    let catalog = catalog.reader();
    let lease = catalog.try_lead(&candidate("a")).await.unwrap().unwrap();
    catalog.write_under(&lease);
    server.stop().unwrap();
    tokio::time::timeout(Duration::from_secs(30), lease.lost.cancelled())
        .await
        .unwrap();
    server.start_again().unwrap();
    let error = catalog.begin_build(&new_build("b3")).await.unwrap_err();
    assert!(matches!(error, CoordinatorError::Deposed { .. }), "{error:?}");
}
