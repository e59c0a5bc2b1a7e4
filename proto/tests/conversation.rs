//! A script is followed through lost connections and coordinators that were started again.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use corpusmill_proto::control::control_server::{Control, ControlServer};
use corpusmill_proto::control::message::What;
use corpusmill_proto::control::{
    CancelReply, CancelRequest, DescribeReply, DescribeRequest, Ended, Failure, FailureKind, JoinReply, JoinRequest,
    LeadReply, LeadRequest, ListReply, ListRequest, Message, SubmitReply, SubmitRequest, WatchRequest,
};
use corpusmill_proto::{Conversation, Remote, RemoteError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

type Messages = Pin<Box<dyn futures::Stream<Item = Result<Message, Status>> + Send>>;

/// A coordinator that answers each call of `Watch` with the next of its lists.
#[derive(Default)]
struct Played {
    watches: Mutex<VecDeque<Vec<Result<Message, Status>>>>,
    calls: Mutex<Vec<String>>,
    cancelled: CancellationToken,
}

impl Played {
    fn call(&self, call: String) {
        self.calls.lock().expect("no test panics with it").push(call);
    }
}

#[derive(Clone)]
struct Handle(Arc<Played>);

#[tonic::async_trait]
impl Control for Handle {
    type WatchStream = Messages;

    async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        Err(Status::unimplemented("join"))
    }

    async fn submit(&self, request: Request<SubmitRequest>) -> Result<Response<SubmitReply>, Status> {
        self.0.call(format!("submit {}", request.into_inner().text));
        let script = "s".to_owned();
        Ok(Response::new(SubmitReply { script }))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Messages>, Status> {
        self.0.call(format!("watch from {}", request.into_inner().from));
        let Some(messages) = self.0.watches.lock().expect("no test panics with it").pop_front() else {
            // Nothing more happens until somebody cancels.
            let played = Arc::clone(&self.0);
            return Ok(Response::new(Box::pin(futures::stream::once(async move {
                played.cancelled.cancelled().await;
                Ok(failed(7, FailureKind::Cancelled, "stopped"))
            }))));
        };
        if let [Err(status)] = messages.as_slice() {
            return Err(status.clone());
        }
        Ok(Response::new(Box::pin(futures::stream::iter(messages))))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelReply>, Status> {
        self.0.call(format!("cancel {}", request.into_inner().script));
        self.0.cancelled.cancel();
        Ok(Response::new(CancelReply { running: true }))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListReply>, Status> {
        Ok(Response::new(ListReply { json: "[]".to_owned() }))
    }

    async fn lead(&self, _: Request<LeadRequest>) -> Result<Response<LeadReply>, Status> {
        Err(Status::unimplemented("lead"))
    }

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<DescribeReply>, Status> {
        Err(Status::unimplemented("describe"))
    }
}

fn message(number: u64, what: What) -> Message {
    Message {
        number,
        what: Some(what),
    }
}

fn said(number: u64, text: &str) -> Message {
    message(number, What::Said(text.to_owned()))
}

fn failed(number: u64, kind: FailureKind, text: &str) -> Message {
    let failure = Some(Failure {
        kind: kind.into(),
        message: text.to_owned(),
    });
    message(number, What::Ended(Ended { failure }))
}

fn well(number: u64) -> Message {
    message(number, What::Ended(Ended { failure: None }))
}

/// A conversation with a coordinator that plays `watches`, and what it was asked.
async fn conversation(watches: Vec<Vec<Result<Message, Status>>>) -> (Conversation, Arc<Played>, CancellationToken) {
    let played = Arc::new(Played {
        watches: Mutex::new(watches.into()),
        ..Played::default()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("corpusmill://{}", listener.local_addr().expect("it is bound"));
    let service = ControlServer::new(Handle(Arc::clone(&played)));
    tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener)),
    );
    let cancel = CancellationToken::new();
    let request = SubmitRequest {
        text: "SELECT 1".to_owned(),
        ..SubmitRequest::default()
    };
    let remote = Remote::connect(&url, None).await.expect("it listens");
    (remote.run(request, cancel.clone()), played, cancel)
}

/// Outcomes and warnings to the end, and the end.
async fn all(mut conversation: Conversation) -> (Vec<String>, Result<(), RemoteError>) {
    let mut seen = Vec::new();
    loop {
        match conversation.next().await {
            Ok(Some(What::Said(text))) => seen.push(text),
            Ok(Some(What::Warning(text))) => seen.push(format!("warning: {text}")),
            Ok(Some(other)) => seen.push(format!("{other:?}")),
            Ok(None) => return (seen, Ok(())),
            Err(error) => {
                assert_eq!(conversation.next().await, Err(error.clone()), "it stays so");
                return (seen, Err(error));
            }
        }
    }
}

#[tokio::test]
async fn a_lost_connection_is_taken_up_where_it_ended() {
    let (conversation, played, _) = conversation(vec![
        vec![Ok(said(0, "a")), Ok(said(1, "b")), Err(Status::unavailable("gone"))],
        vec![Err(Status::unavailable("still gone"))],
        vec![Ok(said(2, "c")), Ok(well(3))],
    ])
    .await;
    let (seen, end) = all(conversation).await;
    assert_eq!(end, Ok(()));
    assert_eq!((seen[0].as_str(), seen[1].as_str(), seen[3].as_str()), ("a", "b", "c"));
    assert!(
        seen.len() == 4 && seen[2].contains("lost (gone)"),
        "one warning: {seen:?}"
    );
    let calls = ["submit SELECT 1", "watch from 0", "watch from 2", "watch from 2"];
    assert_eq!(*played.calls.lock().unwrap(), calls);
}

#[tokio::test]
async fn a_coordinator_that_was_started_again_gets_the_script_once_more() {
    let (conversation, played, _) = conversation(vec![
        vec![Ok(said(0, "a")), Err(Status::unavailable("gone"))],
        vec![Err(Status::not_found("no script s"))],
        vec![
            Ok(said(0, "a")),
            Ok(said(1, "b")),
            Ok(failed(2, FailureKind::Unspecified, "x.sql:3: no")),
        ],
    ])
    .await;
    let (seen, end) = all(conversation).await;
    let said: Vec<_> = seen.iter().filter(|text| !text.starts_with("warning")).collect();
    assert_eq!(said, ["a", "b"], "what was told already is left out");
    assert_eq!(end.unwrap_err().to_string(), "x.sql:3: no");
    let calls = [
        "submit SELECT 1",
        "watch from 0",
        "watch from 1",
        "submit SELECT 1",
        "watch from 0",
    ];
    assert_eq!(*played.calls.lock().unwrap(), calls);
}

#[tokio::test]
async fn rows_that_were_on_their_way_are_missed_and_not_left_out() {
    let (conversation, _, _) = conversation(vec![
        vec![
            Ok(message(0, What::RowsBegin(vec![1]))),
            Ok(message(1, What::Rows(vec![2]))),
            Err(Status::unavailable("gone")),
        ],
        vec![Ok(well(2))],
    ])
    .await;
    let (seen, end) = all(conversation).await;
    assert_eq!(seen.len(), 2);
    let end = end.unwrap_err().to_string();
    assert!(
        end.contains("in the middle of a result") && end.contains("run the same again"),
        "{end}"
    );
}

#[tokio::test]
async fn who_cancels_is_told_when_the_script_has_stopped() {
    let (mut conversation, played, cancel) =
        conversation(vec![vec![Ok(said(0, "a")), Err(Status::unavailable("gone"))]]).await;
    assert_eq!(conversation.next().await, Ok(Some(What::Said("a".to_owned()))));
    assert!(matches!(conversation.next().await, Ok(Some(What::Warning(_)))));
    let stop = async {
        // Once it is back, and hears nothing.
        while played.calls.lock().unwrap().len() < 3 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(conversation.next(), stop);
    assert_eq!(ended, Err(RemoteError::Cancelled));
    assert_eq!(
        played.calls.lock().unwrap().last().map(String::as_str),
        Some("cancel s")
    );
}

#[tokio::test]
async fn an_address_that_is_none_is_named_with_one_that_is() {
    for url in ["127.0.0.1:1", "http://"] {
        let error = Remote::connect(url, None).await.unwrap_err();
        assert!(
            matches!(&error, RemoteError::Address { .. }) && !error.retry(),
            "{error}"
        );
        assert!(
            error.to_string().contains(&format!("`{url}`")) && error.to_string().contains("http://127.0.0.1:50050")
        );
    }
    let error = Remote::connect("http://127.0.0.1:1", None).await.unwrap_err();
    assert!(
        matches!(&error, RemoteError::Unreachable { .. }) && error.retry(),
        "{error}"
    );
}
