//! A coordinator's directory with as many workers and ranks as a large job has: how long they take to find each other,
//! and what it costs. Prints a line of JSON.
//!
//! ```text
//! cargo run --release --package corpusmill-serve --example directory_scale -- [WORKERS [RANKS [RANKS_A_MACHINE]]]
//! ```
//! The directory is a process of its own. Every worker and every rank has its own connection, as in a cluster; nothing
//! stands behind the workers, since no batch passes through the coordinator.

#![expect(clippy::print_stdout, reason = "a line of JSON is what it makes")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use corpusmill_proto::stream::{OfferRequest, OpenReply, OpenRequest};
use corpusmill_proto::{Asks, Caller};
use corpusmill_serve::Directory;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Connections that are being made at once: the backlog of a listening socket is not endless.
const AT_ONCE: usize = 256;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    if arguments.first().is_some_and(|side| side == "--directory") {
        return runtime.block_on(directory());
    }
    let number = |at: usize, otherwise: usize| arguments.get(at).map_or(Ok(otherwise), |text| text.parse());
    runtime.block_on(measure(number(0, 1024)?, number(1, 8192)?, number(2, 8)?))
}

/// The coordinator's part.
async fn directory() -> Outcome<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    Server::builder()
        .add_service(Directory::new("/nowhere").service(Asks::new(None)))
        .serve_with_incoming(TcpIncoming::from(listener))
        .await?;
    Ok(())
}

async fn measure(workers: usize, ranks: usize, a_machine: usize) -> Outcome<()> {
    let mut child = tokio::process::Command::from(Command::new(std::env::current_exe()?))
        .arg("--directory")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let pid = child.id().ok_or("it ended")?;
    let out = child.stdout.take().ok_or("it has no output")?;
    let address = BufReader::new(out)
        .lines()
        .next_line()
        .await?
        .ok_or("it said nothing")?;
    let caller = Caller::new(&format!("http://{address}"), None)?;
    let (began, idle) = (Instant::now(), of_process(pid)?);

    let mut offers = all(workers, |number| offer(caller.clone(), number)).await?;
    let (offered, cpu_offered) = (began.elapsed(), of_process(pid)?.cpu);
    let began = Instant::now();
    let mut opened = all(ranks, |rank| open(caller.clone(), rank, ranks, a_machine)).await?;
    let (found, after) = (began.elapsed(), of_process(pid)?);

    // The worker that most ranks read from dies.
    let began = Instant::now();
    let preferred = opened.first().map(|(_, reply)| first(reply)).unwrap_or_default();
    let affected: usize = opened.iter().filter(|(_, reply)| first(reply) == preferred).count();
    let number: usize = preferred.trim_start_matches("worker-").parse()?;
    drop(offers.swap_remove(number));
    let mut told = JoinSet::new();
    let mut others = Vec::new();
    for (mut replies, reply) in opened.drain(..) {
        let knows = reply.servers.iter().any(|server| server.worker == preferred);
        if !knows {
            // A rank that is held reads on.
            others.push(replies);
        } else {
            let gone = preferred.clone();
            told.spawn(async move {
                let next = replies.message().await?.ok_or("the call of a rank ended")?;
                match next.servers.iter().all(|server| server.worker != gone) {
                    true => Ok::<_, Box<dyn std::error::Error + Send + Sync>>(()),
                    false => Err("a rank was told of a worker that is gone".into()),
                }
            });
        }
    }
    let knew = told.len();
    while let Some(heard) = told.join_next().await {
        heard??;
    }
    let (heard, last) = (began.elapsed(), of_process(pid)?);
    let ms = |time: Duration| (time.as_secs_f64() * 1e3).round();
    println!(
        "{{\"workers\": {workers}, \"ranks\": {ranks}, \"offered_ms\": {}, \"found_ms\": {}, \"found_cpu_us_a_rank\": {:.0}, \
         \"kb_a_rank\": {:.1}, \"served_by_the_killed\": {affected}, \"knew_the_killed\": {knew}, \"told_ms\": {}, \
         \"told_cpu_ms\": {}}}",
        ms(offered),
        ms(found),
        (after.cpu - cpu_offered).as_secs_f64() * 1e6 / ranks as f64,
        after.resident_kb.saturating_sub(idle.resident_kb) as f64 / (ranks + workers) as f64,
        ms(heard),
        ms(last.cpu - after.cpu),
    );
    child.kill().await?;
    Ok(())
}

fn first(reply: &OpenReply) -> String {
    reply
        .servers
        .first()
        .map(|server| server.worker.clone())
        .unwrap_or_default()
}

/// Runs `count` calls, some at a time, and keeps what they give in their order.
async fn all<T: Send + 'static, F>(count: usize, call: impl Fn(usize) -> F) -> Outcome<Vec<T>>
where
    F: Future<Output = Outcome<T>> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut done = Vec::new();
    for number in 0..count {
        if running.len() >= AT_ONCE
            && let Some(next) = running.join_next().await
        {
            done.push(next??);
        }
        let call = call(number);
        running.spawn(async move { call.await.map(|given| (number, given)) });
    }
    while let Some(next) = running.join_next().await {
        done.push(next??);
    }
    done.sort_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, given)| given).collect())
}

/// A worker that offers itself, for as long as what is given is held.
async fn offer(caller: Caller, number: usize) -> Outcome<Streaming<corpusmill_proto::stream::OfferReply>> {
    let request = OfferRequest {
        worker: format!("worker-{number}"),
        address: format!("10.{}.{}.1:4000", number / 256, number % 256),
        token: "0".repeat(64),
        host: format!("worker machine {number}"),
    };
    let mut replies = caller.streams().await?.offer(request).await?.into_inner();
    replies.message().await?.ok_or("a worker was not taken")?;
    Ok(replies)
}

/// A rank that looks for its workers, and the first answer.
async fn open(
    caller: Caller,
    rank: usize,
    ranks: usize,
    a_machine: usize,
) -> Outcome<(Streaming<OpenReply>, OpenReply)> {
    let request = OpenRequest {
        job: "run".to_owned(),
        rank: u32::try_from(rank)?,
        world: u32::try_from(ranks)?,
        plan_hash: "f".repeat(32),
        host: format!("trainer machine {}", rank / a_machine),
        reader: format!("reader {rank}"),
    };
    let mut replies = caller.streams().await?.open(request).await?.into_inner();
    let reply = replies.message().await?.ok_or("a rank was not answered")?;
    Ok((replies, reply))
}

/// What a process used so far.
struct Usage {
    cpu: Duration,
    resident_kb: u64,
}

fn of_process(pid: u32) -> Outcome<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|text| text.split_whitespace().next()?.parse().ok());
    Ok(Usage {
        // A hundred ticks a second, on every Linux of today.
        cpu: Duration::from_millis((ticks(11) + ticks(12)) * 10),
        resident_kb: resident.unwrap_or(0),
    })
}
