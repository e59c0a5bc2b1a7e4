//! A span: something that took a while, and what it was a part of.

use std::fmt::Display;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::exporter;

/// `STATUS_CODE_ERROR` of OTLP.
const FAILED: u32 = 2;
/// `SPAN_KIND_INTERNAL` of OTLP.
const INTERNAL: u32 = 1;

/// Something that goes on; it is told when it ends, and not at all when it is dropped before.
#[derive(Debug)]
#[must_use = "a span is told when it ends"]
pub struct Span {
    trace: u128,
    id: u64,
    parent: Option<u64>,
    name: String,
    attributes: Vec<Value>,
    began: SystemTime,
}

impl Span {
    /// A build begins: the root of the trace with its id.
    pub fn build(build: &str) -> Self {
        Self::begin(build, id(&["build", build]), None, "build".to_owned())
    }

    /// A step of a build begins.
    pub fn step(build: &str, step: &str) -> Self {
        let parent = id(&["build", build]);
        Self::begin(build, id(&["step", build, step]), Some(parent), format!("step {step}")).with("step", step)
    }

    /// A job of the scheduler begins, for a step. Its name is `BUILD/…`, and no other job has it.
    pub fn job(build: &str, step: &str, job: &str) -> Self {
        let parent = id(&["step", build, step]);
        Self::begin(build, id(&["job", job]), Some(parent), "job".to_owned()).with("job", job)
    }

    /// A task of the job called `job` begins; `task` tells it from the others, also from those of other attempts.
    pub fn task(job: &str, task: &str) -> Self {
        let build = job.split_once('/').map_or(job, |(build, _)| build);
        let own = id(&["task", job, task]);
        Self::begin(build, own, Some(id(&["job", job])), "task".to_owned()).with("task", task)
    }

    fn begin(build: &str, id: u64, parent: Option<u64>, name: String) -> Self {
        let span = Self {
            trace: trace(build),
            id,
            parent,
            name,
            attributes: Vec::new(),
            began: SystemTime::now(),
        };
        span.with("build", build)
    }

    /// Adds what a person looks for.
    pub fn with(mut self, key: &str, value: impl Display) -> Self {
        self.attributes.push(attribute(key, &value.to_string()));
        self
    }

    /// It ended, well or with what `failure` says.
    pub fn end(self, failure: Option<&str>) {
        if exporter::is_on() {
            exporter::tell(self.to_otlp(SystemTime::now(), failure));
        }
    }

    /// `opentelemetry.proto.trace.v1.Span` as JSON.
    fn to_otlp(&self, ended: SystemTime, failure: Option<&str>) -> Value {
        let mut span = json!({
            "traceId": format!("{:032x}", self.trace),
            "spanId": format!("{:016x}", self.id),
            "name": self.name,
            "kind": INTERNAL,
            "startTimeUnixNano": nanoseconds(self.began),
            "endTimeUnixNano": nanoseconds(ended),
            "attributes": self.attributes,
        });
        if let Some(parent) = self.parent {
            span["parentSpanId"] = json!(format!("{parent:016x}"));
        }
        if let Some(failure) = failure {
            span["status"] = json!({"code": FAILED, "message": failure});
        }
        span
    }
}

/// A text attribute of OTLP.
pub(crate) fn attribute(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// 64-bit integers are texts in OTLP's JSON.
fn nanoseconds(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().to_string()
}

/// A build's id is hexadecimal digits, as the id of a trace is, which has zeros before it; another text gets a hash.
fn trace(build: &str) -> u128 {
    let id = u128::from_str_radix(build, 16);
    // Zero stands for no trace.
    id.unwrap_or_else(|_| xxh3_128(build.as_bytes())).max(1)
}

fn id(parts: &[&str]) -> u64 {
    xxh3_64(parts.join("\0").as_bytes()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILD: &str = "0193b5a1c3d47e0f8a1b";

    #[test]
    fn spans_hang_together_across_processes() {
        let job = format!("{BUILD}/shards-1");
        let spans = [
            Span::build(BUILD),
            Span::step(BUILD, "view clean"),
            Span::job(BUILD, "view clean", &job),
            Span::task(&job, "3.0/7.0"),
        ];
        assert!(
            spans
                .iter()
                .all(|span| format!("{:x}", span.trace) == BUILD.trim_start_matches('0'))
        );
        let parents: Vec<_> = spans.iter().map(|span| span.parent).collect();
        let own: Vec<_> = spans.iter().map(|span| Some(span.id)).collect();
        assert_eq!(parents, [None, own[0], own[1], own[2]]);
        assert_ne!(Span::task(&job, "3.0/7.1").id, spans[3].id);
        assert_eq!(Span::build(BUILD).id, spans[0].id, "the same after a restart");
    }

    #[test]
    fn it_is_written_as_the_specification_says() {
        let span = Span::build("b").with("object", "posts");
        let began = nanoseconds(span.began);
        let told = span.to_otlp(span.began, Some("no"));
        assert_eq!(told["traceId"].as_str().map(str::len), Some(32));
        assert_eq!(told["spanId"].as_str().map(str::len), Some(16));
        assert_eq!(told["startTimeUnixNano"], json!(began));
        assert_eq!(told["status"], json!({"code": 2, "message": "no"}));
        assert_eq!(
            told["attributes"][1],
            json!({"key": "object", "value": {"stringValue": "posts"}})
        );
        assert!(told.get("parentSpanId").is_none());
    }
}
