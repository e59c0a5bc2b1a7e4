//! Sessions within one process, through the public interface, with a network that spoils what it carries.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "sessions/proxy.rs"]
mod proxy;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use corpusmill_transport::{
    Checksum, Choice, Descriptor, Error, Exporter, Kind, PullOptions, Puller, Refusal, ServeOptions, Server, Timeouts,
    Token,
};
use proxy::Fault;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

const BODY_BYTES: usize = 3_000_000;
const LIMIT: Duration = Duration::from_secs(30);

fn token() -> Token {
    Token::from_bytes([9; 32])
}

fn quick() -> Timeouts {
    Timeouts {
        handshake: Duration::from_secs(5),
        heartbeat: Duration::from_millis(100),
        silence: Duration::from_millis(1500),
        transfer: Duration::from_millis(1500),
    }
}

async fn server(change: impl FnOnce(&mut ServeOptions)) -> Server {
    let mut options = ServeOptions::new("127.0.0.1:0".parse().unwrap(), token());
    options.timeouts = quick();
    change(&mut options);
    Server::bind(options).await.unwrap()
}

fn pull_options(kind: Kind) -> PullOptions {
    let mut options = PullOptions::new(token());
    options.choice = Choice::Only(kind);
    options.slot_bytes = BODY_BYTES as u64;
    options.timeouts = quick();
    options
}

async fn session(server: &Server, address: SocketAddr, options: PullOptions) -> (Exporter, Puller) {
    let (exporter, puller) = tokio::join!(server.accept(), Puller::connect(address, options));
    (exporter.unwrap(), puller.unwrap())
}

async fn publish(exporter: &Exporter, byte: u8) -> Descriptor {
    let mut slot = timeout(LIMIT, exporter.slot()).await.unwrap().unwrap();
    slot[..BODY_BYTES].fill(byte);
    exporter
        .publish(slot, BODY_BYTES, Bytes::from_static(b"schema"))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_byte_changed_on_the_wire_is_found_and_the_body_pulled_again() {
    let server = server(|_| {}).await;
    let address = proxy::start(server.address(), Fault::Flip(1_234_567)).await;
    let (exporter, puller) = session(&server, address, pull_options(Kind::Tcp)).await;
    publish(&exporter, 7).await;
    let descriptor = puller.next().await.unwrap().unwrap();
    let error = puller.pull(&descriptor).await.unwrap_err();
    assert!(
        matches!(error, Error::Corrupt { seq: 0, .. }) && error.retry(),
        "{error}"
    );
    let body = puller.pull(&descriptor).await.unwrap();
    assert!(body.host().unwrap().iter().all(|byte| *byte == 7));
    assert_eq!((puller.stats().pulled, puller.stats().refused), (1, 1));
}

#[tokio::test]
async fn a_cut_and_a_stall_in_the_middle_of_a_body_lose_the_session_in_time() {
    for fault in [Fault::Cut(1_000_000), Fault::Stall(1_000_000)] {
        let server = server(|_| {}).await;
        let address = proxy::start(server.address(), fault).await;
        let (exporter, puller) = session(&server, address, pull_options(Kind::Tcp)).await;
        publish(&exporter, 1).await;
        let descriptor = puller.next().await.unwrap().unwrap();
        let error = timeout(LIMIT, puller.pull(&descriptor))
            .await
            .expect("the pull hangs")
            .unwrap_err();
        assert!(error.retry(), "{fault:?}: {error}");
        let closed = timeout(LIMIT, puller.closed()).await.unwrap();
        assert!(matches!(closed, Error::PeerLost { .. }), "{fault:?}: {closed}");
        timeout(LIMIT, exporter.closed())
            .await
            .expect("the worker does not notice");
    }
}

#[tokio::test]
async fn a_slow_network_is_only_slow() {
    let server = server(|_| {}).await;
    let address = proxy::start(server.address(), Fault::Delay(Duration::from_millis(2))).await;
    let (exporter, puller) = session(&server, address, pull_options(Kind::Tcp)).await;
    for byte in 0..4 {
        publish(&exporter, byte).await;
        let descriptor = puller.next().await.unwrap().unwrap();
        assert_eq!(
            puller.pull(&descriptor).await.unwrap().host().unwrap()[BODY_BYTES - 1],
            byte
        );
    }
}

#[tokio::test]
async fn a_dropped_pull_loses_neither_the_body_nor_a_slot() {
    for kind in [Kind::Tcp, Kind::Shm] {
        let server = server(|_| {}).await;
        let mut options = pull_options(kind);
        (options.slots, options.own_slots) = (1, 1);
        let (exporter, puller) = session(&server, server.address(), options).await;
        for byte in 0..20 {
            publish(&exporter, byte).await;
            let descriptor = puller.next().await.unwrap().unwrap();
            // given up at once, or a little later, in the middle of the transfer
            timeout(Duration::from_micros(u64::from(byte) * 50), puller.pull(&descriptor))
                .await
                .ok();
            let again = timeout(LIMIT, puller.pull(&descriptor)).await.unwrap();
            match again {
                Ok(body) => assert_eq!(body.host().unwrap()[BODY_BYTES / 2], byte),
                // the first pull had just finished
                Err(Error::Refused { refusal, .. }) => assert_eq!(refusal, Refusal::Replayed),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[tokio::test]
async fn the_trainer_waits_for_its_own_slots_and_wakes_when_the_worker_goes() {
    let server = server(|_| {}).await;
    let mut options = pull_options(Kind::Tcp);
    options.own_slots = 1;
    let (exporter, puller) = session(&server, server.address(), options).await;
    publish(&exporter, 1).await;
    publish(&exporter, 2).await;
    let first = puller.next().await.unwrap().unwrap();
    let second = puller.next().await.unwrap().unwrap();
    let held = puller.pull(&first).await.unwrap();
    let waiting = puller.pull(&second);
    tokio::pin!(waiting);
    assert!(
        timeout(Duration::from_millis(100), &mut waiting).await.is_err(),
        "there was no slot to read into"
    );
    drop(held.clone());
    assert!(
        timeout(Duration::from_millis(50), &mut waiting).await.is_err(),
        "a clone still holds the slot"
    );
    drop(held);
    let second = timeout(LIMIT, waiting).await.unwrap().unwrap();
    publish(&exporter, 3).await;
    let third = puller.next().await.unwrap().unwrap();
    let waiting = puller.pull(&third);
    tokio::pin!(waiting);
    assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err());
    drop(exporter);
    let error = timeout(LIMIT, waiting).await.unwrap().unwrap_err();
    assert!(
        matches!(error, Error::Closed { .. } | Error::PeerLost { .. }),
        "{error}"
    );
    assert_eq!(second.host().unwrap()[0], 2, "a body outlives its session");
}

#[tokio::test]
async fn a_worker_stops_at_its_slots_and_the_slot_comes_back_with_the_last_clone() {
    let server = server(|options| options.slots_max = 2).await;
    let mut options = pull_options(Kind::Shm);
    options.slots = 100;
    let (exporter, puller) = session(&server, server.address(), options).await;
    assert_eq!((exporter.slots(), puller.slots()), (2, 2), "the worker's limit holds");
    publish(&exporter, 1).await;
    publish(&exporter, 2).await;
    assert!(exporter.try_slot().unwrap().is_none());
    let descriptor = puller.next().await.unwrap().unwrap();
    let body = puller.pull(&descriptor).await.unwrap();
    let bytes = body.clone().into_bytes().unwrap();
    drop(body);
    assert!(timeout(Duration::from_millis(100), exporter.slot()).await.is_err());
    drop(bytes);
    timeout(LIMIT, exporter.slot())
        .await
        .expect("the slot did not come back")
        .unwrap();
    assert_eq!(exporter.stats().held, 1);
}

#[tokio::test]
async fn the_end_is_told_once_all_descriptors_were_taken() {
    let server = server(|_| {}).await;
    let (exporter, puller) = session(&server, server.address(), pull_options(Kind::Shm)).await;
    publish(&exporter, 5).await;
    let finishing = tokio::spawn(async move { exporter.finish(LIMIT).await.map(|()| exporter.stats()) });
    let descriptor = puller.next().await.unwrap().unwrap();
    assert_eq!(descriptor.metadata, Bytes::from_static(b"schema"));
    let body = puller.pull(&descriptor).await.unwrap();
    assert!(puller.next().await.unwrap().is_none());
    assert!(!finishing.is_finished(), "a slot is still held");
    drop(body);
    let stats = timeout(LIMIT, finishing).await.unwrap().unwrap().unwrap();
    assert_eq!((stats.sent, stats.bytes, stats.held), (1, BODY_BYTES as u64, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn both_sides_part_in_peace_whichever_connection_closes_first() {
    for kind in [Kind::Tcp, Kind::Shm] {
        let server = server(|_| {}).await;
        for _ in 0..60 {
            let mut options = pull_options(kind);
            options.slot_bytes = 4096;
            let (exporter, puller) = session(&server, server.address(), options).await;
            let worker = tokio::spawn(async move {
                for _ in 0..8 {
                    let slot = exporter.slot().await?;
                    exporter.publish(slot, 100, Bytes::new()).await?;
                }
                exporter.finish(LIMIT).await
            });
            let mut pulled = 0;
            while let Some(descriptor) = puller.next().await.unwrap() {
                puller.pull(&descriptor).await.unwrap();
                pulled += 1;
            }
            puller.close().await;
            assert_eq!(pulled, 8);
            timeout(LIMIT, worker).await.unwrap().unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn a_checksum_weaker_than_the_trainer_takes_is_refused() {
    let server = server(|options| options.checksum = Some(Checksum::None)).await;
    let error = Puller::connect(server.address(), pull_options(Kind::Tcp))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("None where Full is the least"), "{error}");
    let mut options = pull_options(Kind::Tcp);
    options.checksum_least = Some(Checksum::None);
    // the refused trainer left a session that is never opened; the next one is not held up by it
    let (exporter, puller) = session(&server, server.address(), options).await;
    publish(&exporter, 1).await;
    let descriptor = puller.next().await.unwrap().unwrap();
    assert_eq!((descriptor.checksum, descriptor.xxh3), (Checksum::None, 0));
    puller.pull(&descriptor).await.unwrap();
}

#[tokio::test]
async fn strangers_at_the_port_are_turned_away_and_hold_nothing() {
    let server = server(|_| {}).await;
    let mut garbage = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    garbage
        .write_all(b"GET / HTTP/1.1\r\nHost: worker\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    timeout(LIMIT, garbage.read_to_end(&mut answer))
        .await
        .expect("the stranger is not turned away")
        .ok();
    assert!(answer.is_empty(), "a stranger is told nothing");
    // silent ones are dropped after the handshake's time; others are served meanwhile
    let silent: Vec<_> = futures_of(30, || tokio::net::TcpStream::connect(server.address())).await;
    let (exporter, puller) = session(&server, server.address(), pull_options(Kind::Tcp)).await;
    publish(&exporter, 1).await;
    let descriptor = puller.next().await.unwrap().unwrap();
    puller.pull(&descriptor).await.unwrap();
    for stream in silent {
        let mut stream = stream.unwrap();
        let read = timeout(LIMIT, stream.read(&mut [0; 8]))
            .await
            .expect("a silent stranger is kept");
        assert!(matches!(read, Ok(0) | Err(_)));
    }
}

async fn futures_of<T, F: Future<Output = T>>(count: usize, make: impl Fn() -> F) -> Vec<T> {
    let mut done = Vec::new();
    for _ in 0..count {
        done.push(make().await);
    }
    done
}

#[tokio::test]
async fn another_frame_version_is_named() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // a frame of version 9 with nothing in it
        stream.write_all(&[0, 0, 0, 0, 9, 2, 0, 0]).await.unwrap();
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.ok();
    });
    let error = Puller::connect(address, pull_options(Kind::Tcp)).await.unwrap_err();
    assert!(matches!(error, Error::Version { ours: 1, theirs: 9, .. }), "{error}");
    assert!(!error.retry() && error.to_string().contains("same release"));
}

#[tokio::test]
async fn nobody_at_the_address_is_worth_another_worker() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Puller::connect(address, pull_options(Kind::Tcp)).await.unwrap_err();
    assert!(matches!(error, Error::PeerLost { .. }) && error.retry(), "{error}");
}

#[tokio::test]
async fn slots_and_sessions_over_the_limits_are_refused_with_numbers() {
    let server = server(|options| {
        options.slot_bytes_max = 1 << 20;
        options.sessions_max = 1;
    })
    .await;
    let mut options = pull_options(Kind::Tcp);
    options.slot_bytes = (1 << 20) + 1;
    let error = Puller::connect(server.address(), options).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::OverLimit {
                wanted: 1_048_577,
                limit: 1_048_576,
                ..
            }
        ),
        "{error}"
    );
    let small = || PullOptions {
        slot_bytes: 4096,
        ..pull_options(Kind::Tcp)
    };
    let (exporter, puller) = session(&server, server.address(), small()).await;
    let error = Puller::connect(server.address(), small()).await.unwrap_err();
    assert!(matches!(error, Error::OverLimit { limit: 1, .. }), "{error}");
    drop((exporter, puller));
    // the place is free as soon as the exporter is gone
    session(&server, server.address(), small()).await;
}

#[tokio::test]
async fn a_slot_of_another_session_cannot_be_sealed_in_this_one() {
    let server = server(|_| {}).await;
    let (first, _first) = session(&server, server.address(), pull_options(Kind::Shm)).await;
    let (second, _second) = session(&server, server.address(), pull_options(Kind::Shm)).await;
    let slot = first.slot().await.unwrap();
    assert!(second.seal(slot, 1, Bytes::new()).is_err());
    let slot = first.slot().await.unwrap();
    let error = first.seal(slot, 1, Bytes::from(vec![0; (1 << 20) + 1])).unwrap_err();
    assert!(matches!(error, Error::OverLimit { limit: 1_048_576, .. }), "{error}");
    let stolen = first.seal(first.slot().await.unwrap(), 1, Bytes::new()).unwrap();
    assert_eq!(stolen.seq, 0, "what was refused used no sequence number");
    assert!(!second.release(&stolen));
    assert!(first.release(&stolen) && !first.release(&stolen));
}
