//! Notices that another coordinator leads than the one that the worker joined.
//!
//! The scheduler of a coordinator that was stopped, or that lost the lead, may still answer heartbeats: the worker would
//! wait there for ever.

use std::time::Duration;

use ballista_core::serde::protobuf::StopExecutorParams;
use ballista_core::serde::protobuf::executor_grpc_client::ExecutorGrpcClient;
use corpusmill_proto::control::LeadRequest;
use corpusmill_proto::{ControlClient, Coordinators};

/// How often the coordinators are asked.
const LOOK: Duration = Duration::from_secs(1);
/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Waits until one of `coordinators` leads in a later term than `term`; gives its address.
pub(crate) async fn another_leads(coordinators: &Coordinators, term: u64) -> String {
    let asked = coordinators.caller();
    let listed = coordinators.all().iter();
    let named = Some(asked).filter(|named| coordinators.all().iter().all(|known| known.url() != named.url()));
    let mut clients: Vec<(&str, ControlClient)> = listed
        .chain(named)
        .map(|caller| (caller.url(), caller.control_lazily()))
        .collect();
    loop {
        tokio::time::sleep(LOOK).await;
        for (url, client) in &mut clients {
            if let Ok(Ok(reply)) = tokio::time::timeout(TIMEOUT, client.lead(LeadRequest {})).await {
                let lead = reply.into_inner();
                if lead.here && lead.term > term {
                    return (*url).to_owned();
                }
            }
        }
    }
}

/// Stops the executor of this process that listens on `host` and `port`; its tasks are given up.
pub(crate) async fn stop_executor(host: &str, port: u16, executor: &str) {
    let request = StopExecutorParams {
        executor_id: executor.to_owned(),
        reason: "another coordinator leads".to_owned(),
        force: true,
    };
    let stop = async {
        let mut executor = ExecutorGrpcClient::connect(format!("http://{host}:{port}"))
            .await
            .ok()?;
        executor.stop_executor(request).await.ok()
    };
    // One that does not listen is not there, or not yet: whoever waits for its end gives up then.
    let _ = tokio::time::timeout(TIMEOUT, stop).await;
}
