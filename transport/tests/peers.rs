//! Two processes, one transport: what arrives, and what happens when one of them dies, stops or lies.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "peers/process.rs"]
mod process;

use std::time::{Duration, Instant};

use process::{Peer, leftovers, mapped_rings, session_sockets};

const KINDS: [&str; 2] = ["shm", "tcp"];

#[test]
fn bodies_of_all_sizes_arrive_right_over_each_transport() {
    for kind in KINDS {
        let sizes = "1,4096,1000000,4194304,16777216,65537";
        let (mut worker, address) = Peer::serve(&["--bytes", sizes, "--bodies", "24"]);
        let mut trainer = Peer::pull(&address, &["--choice", kind, "--bytes", sizes, "--expect", "24"]);
        assert_eq!(trainer.wait_for("open")["kind"], kind);
        assert_eq!(trainer.wait_for("done")["right"], 24);
        assert!(trainer.leave().0);
        assert_eq!(worker.wait_for("finished")["sent"], 24);
        assert!(worker.leave().0);
    }
    assert_eq!(leftovers(), Vec::<String>::new());
}

#[test]
fn auto_takes_shared_memory_on_one_host_and_says_why() {
    let (mut worker, address) = Peer::serve(&["--bodies", "3"]);
    let mut trainer = Peer::pull(&address, &["--expect", "3"]);
    assert_eq!(trainer.wait_for("open")["kind"], "shm");
    assert_eq!(worker.wait_for("session")["checksum"], "Sampled");
    let (content, log) = trainer.leave();
    assert!(content);
    assert!(log.contains("transport chosen") && log.contains("kind=shm"), "{log}");
}

#[test]
fn auto_falls_back_to_tcp_where_the_worker_allows_nothing_else_and_says_why() {
    let (mut worker, address) = Peer::serve(&["--bodies", "3", "--kinds", "tcp"]);
    let mut trainer = Peer::pull(&address, &["--expect", "3"]);
    assert_eq!(trainer.wait_for("open")["kind"], "tcp");
    assert_eq!(worker.wait_for("session")["checksum"], "Full");
    let (content, log) = trainer.leave();
    assert!(content);
    assert!(log.contains("shm: the worker does not allow it"), "{log}");
}

#[test]
fn a_forced_transport_that_does_not_work_is_an_error_with_its_reason() {
    let (_worker, address) = Peer::serve(&["--kinds", "tcp"]);
    let mut trainer = Peer::pull(&address, &["--choice", "shm"]);
    let error = trainer.wait_for("error");
    assert_eq!(error["error"], "Unavailable");
    assert!(error["text"].as_str().unwrap().contains("does not allow it"), "{error}");
    assert!(!trainer.leave().0);
}

#[test]
fn descriptors_that_break_a_rule_are_refused_and_logged_and_the_session_goes_on() {
    for kind in KINDS {
        let (mut worker, address) = Peer::serve(&["--bodies", "6", "--slots-max", "1"]);
        let arguments = [
            "audit",
            "--token",
            process::TOKEN,
            "--connect",
            &address,
            "--choice",
            kind,
        ];
        let mut trainer = Peer::start(&arguments);
        let audited = trainer.wait_for("audited");
        assert_eq!(audited["wrong"], serde_json::json!([]));
        assert_eq!(audited["right"], 6);
        // eight lies for each body, and for each but the first a replay and a generation gone by
        assert_eq!(audited["refused"], 6 * 8 + 5 * 2);
        let (content, log) = trainer.leave();
        assert!(content);
        assert!(
            log.contains("body refused") && log.contains("another generation"),
            "{log}"
        );
        assert!(worker.leave().0);
    }
}

#[test]
fn a_corrupt_body_is_refused_and_can_be_pulled_again() {
    for kind in KINDS {
        let (_worker, address) = Peer::serve(&["--bodies", "5", "--corrupt", "2"]);
        let arguments = [
            "--choice",
            kind,
            "--expect",
            "5",
            "--parallel",
            "1",
            "--least",
            "sampled",
        ];
        let mut trainer = Peer::pull(&address, &arguments);
        let error = trainer.wait_for("error");
        assert_eq!(
            (&error["error"], &error["retry"]),
            (&"Corrupt".into(), &true.into()),
            "{error}"
        );
        assert_eq!(trainer.wait_for("done")["refused"], 1);
        assert!(trainer.leave().0);
    }
}

#[test]
fn a_wrong_token_is_refused_by_both_sides_and_the_worker_goes_on() {
    let (mut worker, address) = Peer::serve(&["--bodies", "2"]);
    let wrong = process::TOKEN.replace("5f", "60");
    let mut liar = Peer::start(&["pull", "--token", &wrong, "--connect", &address]);
    assert_eq!(liar.wait_for("error")["error"], "Unauthorized");
    assert!(!liar.leave().0);
    let mut trainer = Peer::pull(&address, &["--expect", "2"]);
    trainer.wait_for("done");
    let (content, log) = worker.leave();
    assert!(content);
    assert!(log.contains("connection refused"), "{log}");
}

#[test]
fn a_trainer_that_stops_reading_holds_no_more_than_its_slots() {
    for kind in KINDS {
        let (mut worker, address) = Peer::serve(&["--bodies", "20", "--slots-max", "3"]);
        let own = ["--own-slots", "2", "--hold-after", "2", "--choice", kind];
        let mut trainer = Peer::pull(&address, &own);
        trainer.wait_for("holding");
        let blocked = worker.wait_for("blocked");
        let (held, sent) = (blocked["held"].as_u64().unwrap(), blocked["sent"].as_u64().unwrap());
        assert!(held <= 3, "{blocked}");
        // over tcp the two that are held are copies, whose slots are free again
        assert_eq!(sent, if kind == "shm" { 3 } else { 5 }, "{blocked}");
        trainer.let_go();
        trainer.wait_for("done");
    }
}

#[test]
fn a_killed_worker_is_noticed_at_once_and_the_trainer_goes_on_with_another() {
    for kind in KINDS {
        let (mut first, address) = Peer::serve(&["--bodies", "0"]);
        let (_second, other) = Peer::serve(&["--bodies", "10"]);
        let mut trainer = Peer::pull(&address, &["--choice", kind, "--then", &other, "--think-ms", "5"]);
        for _ in 0..5 {
            trainer.wait_for("body");
        }
        let killed = Instant::now();
        first.signal("KILL");
        let error = trainer.wait_for("error");
        assert!(
            killed.elapsed() < Duration::from_secs(5),
            "noticed after {:?}",
            killed.elapsed()
        );
        assert_eq!(
            (&error["error"], &error["retry"]),
            (&"PeerLost".into(), &true.into()),
            "{error}"
        );
        assert_eq!(trainer.wait_for("done")["right"], 10);
        assert!(trainer.leave().0);
        assert!(!first.leave().0);
    }
    assert_eq!(leftovers(), Vec::<String>::new());
}

#[test]
fn a_killed_trainer_is_noticed_its_memory_is_given_back_and_the_worker_goes_on() {
    for kind in KINDS {
        // the limit has room for one session's ring: the second has to wait for the first one's to be gone
        let limits = ["--memory-bytes", "5242880", "--sessions", "2", "--bodies", "50"];
        let (mut worker, address) = Peer::serve(&limits);
        let mut first = Peer::pull(&address, &["--choice", kind, "--think-ms", "50"]);
        first.wait_for("body");
        assert_eq!(mapped_rings(worker.id()), 1);
        first.signal("KILL");
        let error = worker.wait_for("error");
        assert_eq!(error["error"], "PeerLost", "{error}");
        let deadline = Instant::now() + process::LIMIT;
        while mapped_rings(worker.id()) > 0 {
            assert!(Instant::now() < deadline, "the ring of a dead trainer is still mapped");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut second = Peer::pull(&address, &["--choice", kind, "--expect", "50"]);
        second.wait_for("done");
        assert!(second.leave().0);
        assert!(worker.leave().0);
    }
    assert_eq!(leftovers(), Vec::<String>::new());
}

#[test]
fn a_stopped_peer_is_lost_within_the_deadline() {
    for (kind, stopped) in [
        ("tcp", "worker"),
        ("shm", "worker"),
        ("tcp", "trainer"),
        ("shm", "trainer"),
    ] {
        let (mut worker, address) = Peer::serve(&["--bodies", "0", "--silence-ms", "1000"]);
        let arguments = ["--choice", kind, "--silence-ms", "1000", "--think-ms", "5"];
        let mut trainer = Peer::pull(&address, &arguments);
        trainer.wait_for("body");
        let (asleep, awake) = if stopped == "worker" {
            (&worker, &mut trainer)
        } else {
            (&trainer, &mut worker)
        };
        let since = Instant::now();
        asleep.signal("STOP");
        let error = awake.wait_for("error");
        assert_eq!(error["error"], "PeerLost", "{error}");
        assert!(
            since.elapsed() < Duration::from_secs(10),
            "noticed after {:?}",
            since.elapsed()
        );
        asleep.signal("CONT");
    }
}

#[test]
fn bodies_stay_right_after_their_worker_was_killed() {
    let (worker, address) = Peer::serve(&["--bodies", "3"]);
    let mut trainer = Peer::pull(&address, &["--choice", "shm", "--hold-after", "2"]);
    trainer.wait_for("holding");
    assert_eq!(mapped_rings(trainer.id()), 1);
    worker.signal("KILL");
    trainer.let_go();
    assert_eq!(trainer.wait_for("done")["right"], 2);
    assert!(trainer.leave().0, "what was held is checked again before it leaves");
}

#[test]
fn a_session_over_the_limits_is_refused_with_the_numbers() {
    let (mut worker, address) = Peer::serve(&["--memory-bytes", "5242880", "--bodies", "100"]);
    let mut first = Peer::pull(&address, &["--think-ms", "20"]);
    first.wait_for("body");
    let mut second = Peer::pull(&address, &[]);
    let error = second.wait_for("error");
    assert_eq!(
        (&error["error"], &error["retry"]),
        (&"OverLimit".into(), &true.into()),
        "{error}"
    );
    assert!(
        error["text"]
            .as_str()
            .unwrap()
            .contains("4194304 wanted, the limit is 1048576"),
        "{error}"
    );
    first.wait_for("done");
    assert!(worker.leave().0);
}

#[test]
fn the_socket_of_a_session_is_gone_once_the_ring_is_handed_over() {
    let (_worker, address) = Peer::serve(&["--bodies", "10"]);
    let mut trainer = Peer::pull(&address, &["--choice", "shm", "--think-ms", "20"]);
    trainer.wait_for("body");
    // other tests open sessions of their own at the same time, each for some milliseconds
    let deadline = Instant::now() + process::LIMIT;
    let first = session_sockets();
    while session_sockets().iter().any(|name| first.contains(name)) {
        assert!(Instant::now() < deadline, "sockets stay: {first:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
