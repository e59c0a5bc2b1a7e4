//! A real S3 server in a process of its own, with a proxy before it that makes faults.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::place::{Place, not_run_here, python, repository};

/// The server; it ends when it is dropped.
#[derive(Debug)]
pub struct S3 {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    endpoint: String,
    web: String,
}

impl S3 {
    /// Starts one with an empty bucket `lake`, and gives programs that run in `place` the variables to reach it; its
    /// web server serves the folder of `place`. `None`, after saying so, where Python lacks what it takes.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(test: &str, place: &mut Place) -> Result<Option<Self>> {
        let Some(python) = python(&["moto.server", "boto3", "deltalake", "pyarrow"]) else {
            not_run_here(test, "no Python with moto[server], deltalake and pyarrow");
            return Ok(None);
        };
        let mut process = Command::new(python)
            .arg(repository().join("tests/s3/server.py"))
            .current_dir(place.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(place.path().join("s3.log"))?)
            .spawn()?;
        let input = process.stdin.take().context("it has no standard input")?;
        let mut output = BufReader::new(process.stdout.take().context("it has no standard output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let Ok(addresses) = serde_json::from_str::<Value>(&line) else {
            let log = std::fs::read_to_string(place.path().join("s3.log"))?;
            bail!("the S3 server did not start: {line}{log}");
        };
        let address = |name: &str| addresses[name].as_str().unwrap_or_default().to_owned();
        let mut this = Self {
            process,
            input,
            output,
            endpoint: address("s3"),
            web: address("web"),
        };
        this.python("s3.create_bucket(Bucket='lake')")?;
        for (name, value) in [
            ("AWS_ENDPOINT_URL", this.endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_REGION", "us-east-1"),
            ("NO_PROXY", "127.0.0.1"),
        ] {
            place.set(name, value);
        }
        Ok(Some(this))
    }

    /// Runs Python in the server and gives what it left in `value`; `tests/s3/server.py` says what it may use.
    ///
    /// # Errors
    /// What Python raised.
    pub fn python(&mut self, code: &str) -> Result<Value> {
        writeln!(self.input, "{}", Value::from(code))?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let reply: Value = serde_json::from_str(&line).context("the S3 server ended")?;
        if let Some(error) = reply["error"].as_str() {
            bail!("{error} in:\n{code}");
        }
        Ok(reply["value"].clone())
    }

    /// Keys below a prefix of the bucket `lake`.
    ///
    /// # Errors
    /// As [`S3::python`].
    pub fn keys(&mut self, prefix: &str) -> Result<Vec<String>> {
        let keys = self.python(&format!("value = keys('lake', {})", Value::from(prefix)))?;
        Ok(serde_json::from_value(keys)?)
    }

    /// Address of S3, through the proxy.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Address of the web server.
    pub fn web(&self) -> &str {
        &self.web
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
