//! A collector of OpenTelemetry is told what a build did, by the coordinator and by its workers.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use corpusmill_tests::{Place, Program, Sandbox};
use serde_json::Value;

use crate::health::until;

/// A view and a corpus, so that there are two builds; `{most}` rows are too many.
const SQL: &str = "
CREATE EXTERNAL TABLE IF NOT EXISTS posts STORED AS CSV LOCATION 'posts/' OPTIONS ('format.has_header' 'true');
CREATE MATERIALIZED VIEW IF NOT EXISTS clean AS SELECT post_id, trim(body) AS body FROM posts;
CREATE OR REFRESH CORPUS text
  (PRIMARY KEY (post_id), CONSTRAINT few EXPECT CORPUS (count(*) < {most}) ON VIOLATION FAIL BUILD)
  WITH (shards = 4) AS SELECT post_id, body FROM clean;
";

/// A span, as it came in.
#[derive(Debug, Clone)]
struct Span {
    service: String,
    name: String,
    trace: String,
    id: String,
    parent: Option<String>,
    attributes: BTreeMap<String, String>,
    failure: Option<String>,
    /// Nanoseconds since 1970.
    time: (u64, u64),
}

impl Span {
    fn of(service: &str, span: &Value) -> Result<Self> {
        let text = |key: &str| span[key].as_str().with_context(|| format!("no {key} in {span}"));
        Ok(Self {
            service: service.to_owned(),
            name: text("name")?.to_owned(),
            trace: text("traceId")?.to_owned(),
            id: text("spanId")?.to_owned(),
            parent: span["parentSpanId"].as_str().map(str::to_owned),
            attributes: attributes(&span["attributes"]),
            failure: span["status"]["message"].as_str().map(str::to_owned),
            time: (text("startTimeUnixNano")?.parse()?, text("endTimeUnixNano")?.parse()?),
        })
    }
}

fn attributes(list: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pairs = list.as_array().into_iter().flatten();
    pairs
        .map(|a| (text(&a["key"]), text(&a["value"]["stringValue"])))
        .collect()
}

/// Takes spans over OTLP/HTTP; the first request is turned away, as by a collector that is full.
struct Collector {
    address: SocketAddr,
    taken: Arc<Mutex<Taken>>,
}

/// What came in.
#[derive(Default)]
struct Taken {
    spans: Vec<Span>,
    /// What was wrong with requests.
    faults: Vec<String>,
}

impl Collector {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let taken = Arc::new(Mutex::new(Taken::default()));
        let all = Arc::clone(&taken);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let answered = stream.map_err(Into::into).and_then(|stream| answer(stream, number > 0));
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                match answered {
                    Ok(spans) => all.spans.extend(spans),
                    Err(error) => all.faults.push(format!("{error:#}")),
                }
            }
        });
        Ok(Self { address, taken })
    }

    fn spans(&self) -> Vec<Span> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(taken.faults.is_empty(), "{:?}", taken.faults);
        taken.spans.clone()
    }
}

/// Answers one request, and gives the spans that it took.
fn answer(stream: TcpStream, take: bool) -> Result<Vec<Span>> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_lowercase());
    }
    ensure!(
        head.first().is_some_and(|line| line == "post /v1/traces http/1.1"),
        "{head:?}"
    );
    ensure!(head.contains(&"content-type: application/json".to_owned()), "{head:?}");
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.context("no length")?.parse()?];
    reader.read_exact(&mut body)?;
    let mut spans = Vec::new();
    if take {
        let request: Value = serde_json::from_slice(&body)?;
        for resource in request["resourceSpans"].as_array().context("no resourceSpans")? {
            let of = attributes(&resource["resource"]["attributes"]);
            let service = of.get("service.name").context("no service.name")?;
            for scope in resource["scopeSpans"].as_array().context("no scopeSpans")? {
                let list = scope["spans"].as_array().context("no spans")?;
                for span in list {
                    spans.push(Span::of(service, span)?);
                }
            }
        }
    }
    let status = if take { "200 OK" } else { "503 Service Unavailable" };
    write!(reader.get_mut(), "HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}")?;
    Ok(spans)
}

fn place() -> Result<Place> {
    let place = Place::new()?;
    for file in 0..4 {
        let rows = (0..200).map(|row| format!("{},words of {row}\n", file * 200 + row));
        let text: String = ["post_id,body\n".to_owned()].into_iter().chain(rows).collect();
        place.write(&format!("posts/part-{file}.csv"), text)?;
    }
    place.write("good.sql", SQL.replace("{most}", "1000"))?;
    place.write("bad.sql", SQL.replace("{most}", "10"))?;
    Ok(place)
}

#[test]
fn a_collector_is_told_of_builds_steps_jobs_and_tasks() -> Result<()> {
    let collector = Collector::start()?;
    let endpoint = format!("http://{}", collector.address);
    let mut sandbox = Sandbox::with_environment(place()?, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)])?;
    sandbox.worker(None)?;
    sandbox.worker(None)?;
    sandbox.wait_for_workers(2)?;
    let failed = sandbox.submit("bad.sql")?.run()?;
    assert_eq!(failed.code, Some(3), "{}", failed.err);
    let out = sandbox
        .submit("good.sql")?
        .run()?
        .succeeded()
        .with_context(|| sandbox.logs())?;
    let report: Value = serde_json::from_str(out.trim().lines().last().context("nothing was printed")?)?;
    let build = format!("{:0>32}", report["build"].as_str().context("no build")?);

    let of = |trace: &str, name: &str| -> Vec<Span> {
        let all = collector.spans().into_iter();
        all.filter(|span| span.trace == trace && span.name.starts_with(name))
            .collect()
    };
    until("the build is told with tasks of it", || {
        Ok(!of(&build, "build").is_empty() && of(&build, "task").len() >= 4)
    })?;
    let root = &of(&build, "build")[0];
    assert_eq!((root.parent.as_deref(), root.failure.as_deref()), (None, None));
    assert_eq!(root.service, "corpusmill-coordinator");
    assert_eq!(root.attributes["object"], "text");
    let steps = of(&build, "step shards");
    assert_eq!(steps.len(), 1, "{steps:?}");
    assert_eq!(steps[0].parent.as_ref(), Some(&root.id));
    let jobs = of(&build, "job");
    assert!(
        !jobs.is_empty() && jobs.iter().all(|job| job.parent.as_ref() == Some(&steps[0].id)),
        "{jobs:?}"
    );
    let tasks = of(&build, "task");
    for task in &tasks {
        let job = jobs.iter().find(|job| task.parent.as_ref() == Some(&job.id));
        let job = job.with_context(|| format!("of no job: {task:?}"))?;
        assert_eq!(task.service, "corpusmill-worker");
        assert!(task.attributes["worker"].starts_with("worker-"), "{task:?}");
        // One clock: this is one machine.
        assert!(
            job.time.0 <= task.time.0 && task.time.0 <= task.time.1 && task.time.1 <= root.time.1,
            "{task:?} {job:?}"
        );
    }
    let mut ids: Vec<_> = tasks.iter().map(|task| &task.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), tasks.len(), "each task is a span of its own");

    // The view is a build too, and the one that failed says why.
    let views = |span: &Span| span.name == "build" && span.attributes["object"] == "clean";
    assert!(collector.spans().iter().any(views));
    let failures = |span: &Span| {
        span.failure
            .as_ref()
            .is_some_and(|text| span.name == "build" && text.contains("`few`"))
    };
    until("the failed build is told", || {
        Ok(collector.spans().iter().any(failures))
    })?;
    Ok(())
}

#[test]
fn a_collector_that_is_not_there_stops_nothing() -> Result<()> {
    let mut sandbox = Sandbox::with_environment(place()?, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")])?;
    sandbox.worker(None)?;
    sandbox.wait_for_workers(1)?;
    sandbox.digest("good.sql")?;
    let place = Place::new()?;
    let refused = Program::new(&place, &["worker", "--otlp-endpoint", "https://otel:4318"])?.run()?;
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains("`https://otel:4318` is no address") && refused.err.contains("http://127.0.0.1:4318"),
        "{}",
        refused.err
    );
    Ok(())
}
