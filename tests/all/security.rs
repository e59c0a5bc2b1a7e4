//! Who may call: the port of the coordinator with and without credentials, starts that are refused, versions.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use corpusmill_access::{ClusterNetwork, Credentials, Stream};
use corpusmill_proto::control::JoinRequest;
use corpusmill_proto::stream::OfferRequest;
use corpusmill_proto::{Caller, VERSION};
use corpusmill_tests::{Place, Program, Sandbox, not_run_here, python};
use corpusmill_transport::{Error as TransportError, PullOptions, Puller, ServeOptions, Server, Token};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::repository;

/// Makes certificates in the place, and gives their folder.
pub(crate) fn certificates(place: &Place, folder: &str, names: &[&str]) -> Result<PathBuf> {
    let mut arguments = vec!["certs", "init", folder];
    arguments.extend(names.iter().flat_map(|name| ["--name", name]));
    Program::new(place, &arguments)?.run()?.succeeded()?;
    Ok(place.path().join(folder))
}

/// A folder with the certificates of `of` and the token of `token`.
fn mixed(place: &Place, name: &str, of: &Path, token: &Path) -> Result<PathBuf> {
    let folder = place.path().join(name);
    std::fs::create_dir(&folder)?;
    for file in ["ca.pem", "client.pem", "client.key", "server.pem", "server.key"] {
        std::fs::copy(of.join(file), folder.join(file))?;
    }
    std::fs::copy(token.join("token"), folder.join("token"))?;
    Ok(folder)
}

/// Says in a word what a port says to a stranger: `tests/security/probe.py` lists the words.
pub(crate) fn probe(python: &Path, namespace: Option<&str>, address: &str, more: &[&str]) -> Result<String> {
    let (host, port) = address.rsplit_once(':').context("no port")?;
    let mut command = match namespace {
        None => Command::new(python),
        Some(namespace) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace]).arg(python);
            command
        }
    };
    let script = repository().join("tests/security/probe.py");
    let output = command.arg(script).args([host, port]).args(more).output()?;
    if !output.status.success() {
        bail!("the probe of {address}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The folders that a stranger may have: the right one, another authority's, and the right one with another's token.
struct Folders {
    right: PathBuf,
    foreign: PathBuf,
    wrong_token: PathBuf,
}

impl Folders {
    fn make(place: &Place) -> Result<Self> {
        let right = certificates(place, "certs", &[])?;
        let foreign = certificates(place, "foreign", &[])?;
        let wrong_token = mixed(place, "wrong-token", &right, &foreign)?;
        Ok(Self {
            right,
            foreign,
            wrong_token,
        })
    }
}

#[test]
fn the_coordinator_talks_only_to_those_who_show_certificate_and_token() -> Result<()> {
    let place = Place::new()?;
    let folders = Folders::make(&place)?;
    place.write("one.sql", "SELECT 1 AS one")?;
    let right = folders.right.display().to_string();
    let sandbox = Sandbox::listening(place, "127.0.0.1:0", &["--certs", &right])?;
    let address = sandbox
        .url()
        .strip_prefix("https://")
        .context("it does not say https://")?;
    let submit = |certs: Option<&Path>, scheme: &str| -> Result<_> {
        let url = format!("{scheme}://{address}");
        let mut arguments = vec!["submit", "one.sql", "-o", "json", "--coordinator", &url];
        let certs = certs.map(|folder| folder.display().to_string());
        arguments.extend(certs.iter().flat_map(|folder| ["--certs", folder]));
        Program::new(sandbox.place(), &arguments)?.run()
    };
    for scheme in ["https", "http", "corpusmill"] {
        let rows = submit(Some(&folders.right), scheme)?.succeeded()?;
        ensure!(rows.contains("\"one\":1"), "{rows}");
    }
    let plain = submit(None, "http")?.failed(1)?;
    ensure!(
        plain.contains("no coordinator answers") && plain.contains("--certs"),
        "{plain}"
    );
    let without = submit(None, "https")?.failed(1)?;
    ensure!(without.contains("CORPUSMILL_CERTS"), "{without}");
    let foreign = submit(Some(&folders.foreign), "https")?.failed(1)?;
    ensure!(foreign.contains("no coordinator answers"), "{foreign}");
    let token = submit(Some(&folders.wrong_token), "https")?.failed(1)?;
    ensure!(token.contains("does not have this coordinator's token"), "{token}");
    // A name that is not in its certificate.
    let named = format!("https://127.0.0.2:{}", address.rsplit(':').next().unwrap_or_default());
    let elsewhere = Program::new(
        sandbox.place(),
        &["submit", "one.sql", "--coordinator", &named, "--certs", &right],
    )?;
    ensure!(elsewhere.run()?.failed(1)?.contains("no coordinator answers"));
    for folder in [&folders.right, &folders.foreign] {
        let secret = std::fs::read_to_string(folder.join("token"))?;
        let said = format!("{}{plain}{foreign}{token}", sandbox.logs());
        ensure!(!said.contains(secret.trim()), "a token is in a log or an error");
    }
    let test = "the_coordinator_talks_only_to_those_who_show_certificate_and_token";
    let Some(python) = python(&["ssl"]) else {
        not_run_here(test, "no Python");
        return Ok(());
    };
    for (shown, heard) in [
        (right.clone(), "answered"),
        ("-".to_owned(), "refused"),
        (format!("{right}:ca"), "refused"),
        (folders.foreign.display().to_string(), "refused"),
    ] {
        assert_eq!(probe(&python, None, address, &[&shown])?, heard, "{shown}");
    }
    Ok(())
}

#[tokio::test]
async fn workers_and_trainers_need_the_token_and_the_version_of_the_coordinator() -> Result<()> {
    let place = Place::new()?;
    let folders = Folders::make(&place)?;
    let right = folders.right.display().to_string();
    let sandbox = Sandbox::listening(place, "127.0.0.1:0", &["--certs", &right])?;
    let caller = |folder: &Path| -> Result<Caller> {
        let credentials = Credentials::read(folder)?;
        Caller::new(sandbox.url(), Some(&credentials)).map_err(anyhow::Error::msg)
    };
    let join = async |caller: Caller| -> Result<_> {
        let mut client = caller.control().await.map_err(anyhow::Error::msg)?;
        Ok(client.join(JoinRequest::default()).await)
    };
    let offer = async |caller: Caller| -> Result<_> {
        let mut client = caller.streams().await.map_err(anyhow::Error::msg)?;
        let request = OfferRequest {
            address: "127.0.0.1:9".to_owned(),
            ..OfferRequest::default()
        };
        Ok(client.offer(request).await.map(|_| ()))
    };
    join(caller(&folders.right)?).await??;
    offer(caller(&folders.right)?).await??;
    for refused in [
        join(caller(&folders.wrong_token)?).await?.err(),
        offer(caller(&folders.wrong_token)?).await?.err(),
    ] {
        let refused = refused.context("another token was taken")?;
        assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused}");
    }
    for refused in [
        join(caller(&folders.right)?.of_version("0.0.9")).await?.err(),
        offer(caller(&folders.right)?.of_version("0.0.9")).await?.err(),
    ] {
        let refused = refused.context("another version was taken")?;
        ensure!(
            refused.message().contains("0.0.9") && refused.message().contains(VERSION),
            "{refused}"
        );
    }
    // A worker with another token ends, and says why; one of another authority waits, and says why.
    let wrong = folders.wrong_token.display().to_string();
    let worker = [
        "worker",
        "--coordinator",
        sandbox.url(),
        "--work-dir",
        "work",
        "--certs",
        &wrong,
    ];
    let ended = Program::new(sandbox.place(), &worker)?.run()?.failed(1)?;
    ensure!(
        ended.contains("refuses this worker") && ended.contains("token"),
        "{ended}"
    );
    Ok(())
}

#[tokio::test]
async fn a_worker_is_refused_by_a_coordinator_of_another_version_by_name() -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let service = another::coordinator("9.9.9");
    let serving = tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener)),
    );
    let place = Place::new()?;
    let run = Program::new(&place, &["worker", "--coordinator", &url, "--work-dir", "work"])?;
    let ended = tokio::task::spawn_blocking(move || run.run()).await??.failed(1)?;
    serving.abort();
    ensure!(
        ended.contains(&format!(
            "the caller is corpusmill {VERSION}, this coordinator is corpusmill 9.9.9"
        )),
        "{ended}"
    );
    Ok(())
}

#[test]
fn a_remote_start_without_credentials_is_refused_with_the_command_that_mends_it() -> Result<()> {
    let place = Place::new()?;
    let refused = |arguments: &[&str]| Program::new(&place, arguments)?.run()?.failed(1);
    let told = refused(&["coordinator", "--listen", "0.0.0.0:0"])?;
    ensure!(
        told.contains("corpusmill certs init certs --name 0.0.0.0") && told.contains("--certs certs"),
        "{told}"
    );
    let told = refused(&["coordinator", "--listen", "127.0.0.1:0", "--health", "0.0.0.0:0"])?;
    ensure!(
        told.contains("port for health") && told.contains("certs init"),
        "{told}"
    );
    for role in ["coordinator", "worker"] {
        let told = refused(&[role, "--cluster-network", "10.0.0.0/8"])?;
        ensure!(told.contains("certs init") && told.contains("--certs certs"), "{told}");
        let public = Program::new(&place, &[role, "--cluster-network", "0.0.0.0/0"])?
            .run()?
            .failed(2)?;
        ensure!(public.contains("machines of the internet are in it"), "{public}");
    }
    // A network that this machine is not in, and an address that is not in the network.
    let certs = certificates(&place, "certs", &[])?.display().to_string();
    let told = refused(&[
        "worker",
        "--certs",
        &certs,
        "--cluster-network",
        "10.0.0.0/8",
        "--host",
        "127.0.0.1",
    ])?;
    ensure!(told.contains("127.0.0.1 is not in it"), "{told}");
    // The credentials of a caller do not serve to listen.
    std::fs::remove_file(place.path().join("certs/server.pem"))?;
    std::fs::remove_file(place.path().join("certs/server.key"))?;
    let told = refused(&["coordinator", "--listen", "0.0.0.0:0", "--certs", &certs])?;
    ensure!(told.contains("server.pem") && told.contains("server.key"), "{told}");
    let missing = refused(&["coordinator", "--certs", "nowhere"])?;
    ensure!(
        missing.contains("nowhere/ca.pem") && missing.contains("certs init"),
        "{missing}"
    );
    let again = refused(&["certs", "init", &certs])?;
    ensure!(again.contains("nothing in it is overwritten"), "{again}");
    Ok(())
}

#[tokio::test]
async fn a_front_lets_members_in_and_nobody_from_elsewhere() -> Result<()> {
    let place = Place::new()?;
    let [right, foreign] = ["certs", "foreign"].map(|name| certificates(&place, name, &[]));
    let (right, foreign) = (Credentials::read(right?)?, Credentials::read(foreign?)?);
    // A port that says what it hears, as Ballista's would: without asking.
    let inside = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = inside.local_addr()?.port();
    let echo = tokio::spawn(async move {
        while let Ok((stream, _)) = inside.accept().await {
            let (mut input, mut output) = stream.into_split();
            // A caller that is gone is no concern of the echo.
            tokio::spawn(async move { tokio::io::copy(&mut input, &mut output).await });
        }
    });
    let call = async |network: &str, credentials: Option<&Credentials>| -> Result<Vec<u8>> {
        let address = Some("127.0.0.2".parse()?);
        let front = ClusterNetwork::new(network.parse()?, address, right.clone())?
            .front(port)
            .await?;
        let stream = tokio::net::TcpStream::connect(front.address()).await?;
        let mut stream = Stream::connect(stream, credentials).await?;
        stream.write_all(b"hello").await?;
        stream.flush().await?;
        let mut heard = vec![0; 5];
        stream.read_exact(&mut heard).await?;
        Ok(heard)
    };
    assert_eq!(call("127.0.0.0/8", Some(&right)).await?, b"hello");
    ensure!(call("127.0.0.0/8", Some(&foreign)).await.is_err());
    ensure!(call("127.0.0.0/8", None).await.is_err());
    // This test calls from 127.0.0.1.
    ensure!(call("127.0.0.2/32", Some(&right)).await.is_err());
    echo.abort();
    Ok(())
}

#[tokio::test]
async fn a_trainer_without_the_workers_token_or_certificate_is_refused() -> Result<()> {
    let place = Place::new()?;
    let [right, foreign] = ["certs", "foreign"].map(|name| certificates(&place, name, &[]));
    let (right, foreign) = (Credentials::read(right?)?, Credentials::read(foreign?)?);
    let token = Token::generate()?;
    let mut serving = ServeOptions::new("127.0.0.1:0".parse()?, token.clone());
    serving.credentials = Some(right.clone());
    let server = Server::bind(serving).await?;
    let pull = async |token: &Token, credentials| {
        let mut options = PullOptions::new(token.clone());
        options.credentials = credentials;
        options.slot_bytes = 4096;
        Puller::connect(server.address(), options).await
    };
    pull(&token, Some(right.clone())).await?;
    let wrong = pull(&Token::generate()?, Some(right)).await;
    ensure!(matches!(wrong, Err(TransportError::Unauthorized { .. })), "{wrong:?}");
    for credentials in [None, Some(foreign)] {
        let refused = pull(&token, credentials).await;
        ensure!(matches!(refused, Err(TransportError::PeerLost { .. })), "{refused:?}");
    }
    Ok(())
}

/// A coordinator of another version, which is never asked anything else than its version.
mod another {
    use std::pin::Pin;

    use corpusmill_proto::Asks;
    use corpusmill_proto::control::control_server::{Control, ControlServer};
    use corpusmill_proto::control::{
        CancelReply, CancelRequest, DescribeReply, DescribeRequest, JoinReply, JoinRequest, LeadReply, LeadRequest,
        ListReply, ListRequest, Message, SubmitReply, SubmitRequest, WatchRequest,
    };
    use futures::Stream;
    use tonic::service::interceptor::InterceptedService;
    use tonic::{Request, Response, Status};

    pub(super) struct Never;

    pub(super) fn coordinator(version: &'static str) -> InterceptedService<ControlServer<Never>, Asks> {
        InterceptedService::new(ControlServer::new(Never), Asks::new(None).of_version(version))
    }

    type Reply<T> = Result<Response<T>, Status>;

    fn never<T>() -> Reply<T> {
        Err(Status::internal("a caller of another version came through"))
    }

    #[tonic::async_trait]
    impl Control for Never {
        type WatchStream = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

        async fn join(&self, _: Request<JoinRequest>) -> Reply<JoinReply> {
            never()
        }

        async fn submit(&self, _: Request<SubmitRequest>) -> Reply<SubmitReply> {
            never()
        }

        async fn watch(&self, _: Request<WatchRequest>) -> Reply<Self::WatchStream> {
            never()
        }

        async fn cancel(&self, _: Request<CancelRequest>) -> Reply<CancelReply> {
            never()
        }

        async fn list(&self, _: Request<ListRequest>) -> Reply<ListReply> {
            never()
        }

        async fn describe(&self, _: Request<DescribeRequest>) -> Reply<DescribeReply> {
            never()
        }

        async fn lead(&self, _: Request<LeadRequest>) -> Reply<LeadReply> {
            never()
        }
    }
}
