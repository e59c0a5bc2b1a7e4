//! Object stores whose errors say what a person can do: which bucket, which server, which variables.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use url::{Position, Url};

use super::attempts::Unreachable;
use super::open::StoreOptions;

/// What a person can do about a store that cannot be used as it is.
#[derive(Debug, thiserror::Error)]
#[error("{advice}")]
pub struct StoreAdvice {
    advice: String,
    /// Nothing has to be changed: the store is busy or away.
    transient: bool,
    #[source]
    source: Error,
}

/// What an error of a store says to a person: our advice where there is some.
pub fn store_message(error: &Error) -> String {
    match store_advice(error) {
        Some(advice) => advice.to_string(),
        None => error.to_string(),
    }
}

/// Says whether the same request may succeed later without anybody changing anything.
pub fn store_retry(error: &Error) -> bool {
    match store_advice(error) {
        Some(advice) => advice.transient,
        None => matches!(error, Error::Generic { .. } | Error::JoinError { .. }),
    }
}

/// The advice among an error and its causes, if there is some.
pub fn store_advice<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a StoreAdvice> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |cause| (*cause).source())
}

/// What a store is called in a message.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// `s3://bucket`.
    root: String,
    /// The bucket or container, or the host.
    bucket: String,
    /// Where it is asked: `http://localhost:9000`, `Amazon S3`.
    server: String,
    cloud: Cloud,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cloud {
    Amazon,
    Google,
    Azure,
    Web,
}

impl Cloud {
    fn credentials(self) -> &'static str {
        match self {
            Self::Amazon => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, where there is one), or \
                 AWS_SKIP_SIGNATURE=true for a public bucket"
            }
            Self::Google => "set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account",
            Self::Azure => "set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
            Self::Web => "a URL of a web server takes no credentials",
        }
    }

    fn plain_http(self) -> &'static str {
        match self {
            Self::Google => "GOOGLE_ALLOW_HTTP=true",
            Self::Azure => "AZURE_ALLOW_HTTP=true",
            Self::Amazon | Self::Web => "AWS_ALLOW_HTTP=true",
        }
    }

    fn endpoint(self) -> &'static str {
        match self {
            Self::Amazon => "check AWS_ENDPOINT_URL, AWS_REGION and the network",
            Self::Google | Self::Azure => "check the network",
            Self::Web => "check the address and the network",
        }
    }
}

impl Place {
    pub(super) fn new(url: &Url, settings: &StoreOptions) -> Self {
        let set = |names: &[&str]| names.iter().find_map(|name| settings.get(*name)).cloned();
        let (cloud, server) = match url.scheme() {
            "s3" | "s3a" => {
                let endpoint = set(&["aws_endpoint_url_s3", "aws_endpoint_url", "aws_endpoint", "endpoint"]);
                let region = set(&["aws_region", "aws_default_region"]).unwrap_or_else(|| "us-east-1".to_owned());
                (
                    Cloud::Amazon,
                    endpoint.unwrap_or_else(|| format!("Amazon S3 ({region})")),
                )
            }
            "gs" => (Cloud::Google, "Google Cloud Storage".to_owned()),
            "http" | "https" => (Cloud::Web, url[..Position::BeforePath].to_owned()),
            _ => {
                let endpoint = set(&["azure_storage_endpoint", "azure_endpoint"]);
                (
                    Cloud::Azure,
                    endpoint.unwrap_or_else(|| "Azure Blob Storage".to_owned()),
                )
            }
        };
        Self {
            root: url[..Position::BeforePath].to_owned(),
            bucket: match url.username() {
                "" => url.host_str().unwrap_or_default().to_owned(),
                container => container.to_owned(),
            },
            server,
            cloud,
        }
    }

    /// Adds what can be done about an error, where that is known.
    fn explain(&self, error: Error) -> Error {
        if store_advice(&error).is_some() {
            return error;
        }
        // Clients tell the last attempt, and leave what was wrong with it to the causes.
        let text = causes(&error).map(ToString::to_string).collect::<Vec<_>>().join(": ");
        let Self {
            root,
            bucket,
            server,
            cloud,
        } = self;
        let (advice, transient) = match &error {
            // Of an object it is `NotFound`, of a listing anything.
            Error::NotFound { .. } | Error::Generic { .. } if names_no_bucket(&text) => {
                let advice = format!("there is no bucket `{bucket}` at {server}: make it, or correct {root}");
                return self.generic(advice, false, error);
            }
            Error::PermissionDenied { path, .. } | Error::Unauthenticated { path, .. } => {
                (self.refused(&format!("{root}/{path}"), &text), false)
            }
            Error::Generic { .. } if text.contains("169.254.") || text.contains("metadata.google.internal") => {
                (format!("no credentials for {root}: {}", cloud.credentials()), false)
            }
            Error::Generic { .. } if REFUSALS.iter().any(|status| text.contains(status)) => {
                (self.refused(root, &text), false)
            }
            Error::Generic { .. } if text.contains("URL scheme is not allowed") => (
                format!(
                    "{server} is plain http: set {} where the network is trusted, or use https",
                    cloud.plain_http()
                ),
                false,
            ),
            Error::Generic { .. } => match unanswered(&error) {
                Some(never) => {
                    let advice = format!(
                        "no answer from {server} for {root} ({}): {}",
                        innermost(&error),
                        cloud.endpoint()
                    );
                    (advice, !never)
                }
                None => return error,
            },
            _ => return error,
        };
        self.generic(advice, transient, error)
    }

    fn refused(&self, what: &str, text: &str) -> String {
        let (server, code, credentials) = (&self.server, code_in(text), self.cloud.credentials());
        format!("{server} refuses {what}{code}: {credentials}, with the rights for it")
    }

    fn generic(&self, advice: String, transient: bool, source: Error) -> Error {
        let store = match self.cloud {
            Cloud::Amazon => "S3",
            Cloud::Google => "GCS",
            Cloud::Azure => "Azure",
            Cloud::Web => "HTTP",
        };
        let advice = Box::new(StoreAdvice {
            advice,
            transient,
            source,
        });
        Error::Generic { store, source: advice }
    }
}

/// What a refused listing says, which the client does not tell from other failures.
const REFUSALS: [&str; 2] = ["403 Forbidden", "401 Unauthorized"];

/// The codes of S3, Azure and Google for a bucket that is not there, in contrast to an object.
fn names_no_bucket(text: &str) -> bool {
    [
        "NoSuchBucket",
        "ContainerNotFound",
        "The specified bucket does not exist",
    ]
    .iter()
    .any(|code| text.contains(code))
}

/// The `<Code>` of an error document, ` (SignatureDoesNotMatch)`, or nothing.
fn code_in(text: &str) -> String {
    let code = text
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"));
    code.map_or_else(String::new, |(code, _)| format!(" ({code})"))
}

/// Whether no answer came at all; `true` inside when none ever did.
fn unanswered(error: &Error) -> Option<bool> {
    let http = causes(error).find_map(|cause| cause.downcast_ref::<HttpError>())?;
    let never = causes(http).any(|cause| cause.is::<Unreachable>());
    let away = matches!(
        http.kind(),
        HttpErrorKind::Connect | HttpErrorKind::Timeout | HttpErrorKind::Request | HttpErrorKind::Interrupted
    );
    (never || away).then_some(never)
}

fn innermost(error: &Error) -> String {
    causes(error).last().map_or_else(String::new, ToString::to_string)
}

/// A store behind a network whose errors are explained.
#[derive(Debug)]
pub(super) struct Told {
    store: Arc<dyn ObjectStore>,
    place: Arc<Place>,
}

impl Told {
    pub(super) fn new(store: Arc<dyn ObjectStore>, place: Place) -> Self {
        Self {
            store,
            place: Arc::new(place),
        }
    }

    fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| self.place.explain(error))
    }

    fn stream<T: 'static>(&self, stream: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
        let place = Arc::clone(&self.place);
        stream.map_err(move |error| place.explain(error)).boxed()
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Told {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.explain(self.store.put_opts(location, payload, opts).await)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.explain(self.store.put_multipart_opts(location, opts).await)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut result = self.explain(self.store.get_opts(location, options).await)?;
        if let GetResultPayload::Stream(stream) = result.payload {
            result.payload = GetResultPayload::Stream(self.stream(stream));
        }
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.explain(self.store.get_ranges(location, ranges).await)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.stream(self.store.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.stream(self.store.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.stream(self.store.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.explain(self.store.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.explain(self.store.copy_opts(from, to, options).await)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.explain(self.store.rename_opts(from, to, options).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str, settings: &[(&str, &str)]) -> Place {
        let settings = settings
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Place::new(&Url::parse(url).unwrap(), &settings)
    }

    fn generic(text: &str) -> Error {
        Error::Generic {
            store: "S3",
            source: text.into(),
        }
    }

    #[test]
    fn advice_names_the_bucket_the_server_and_the_variables() {
        let minio = place("s3://lake/a/b", &[("aws_endpoint_url", "http://minio:9000")]);
        let missing = |code: &str| Error::NotFound {
            path: "a".into(),
            source: format!("404: <Error><Code>{code}</Code></Error>").into(),
        };
        let denied = Error::PermissionDenied {
            path: "a/x".into(),
            source: "403: <Error><Code>AccessDenied</Code></Error>".into(),
        };
        for (error, parts) in [
            (
                missing("NoSuchBucket"),
                ["`lake`", "http://minio:9000", "correct s3://lake"],
            ),
            (denied, ["s3://lake/a/x", "(AccessDenied)", "AWS_ACCESS_KEY_ID"]),
            (
                generic("GET http://169.254.169.254/latest failed"),
                ["no credentials", "s3://lake", "AWS_ACCESS_KEY_ID"],
            ),
            (
                generic("URL scheme is not allowed"),
                ["plain http", "http://minio:9000", "AWS_ALLOW_HTTP"],
            ),
        ] {
            let told = minio.explain(error);
            let message = store_message(&told);
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
            assert!(!store_retry(&told), "{message}");
            assert_eq!(store_message(&minio.explain(told)), message, "told twice");
        }
        // An object that is not there is no fault of the store, and callers look for it.
        assert!(matches!(minio.explain(missing("NoSuchKey")), Error::NotFound { .. }));
        let timed_out = HttpError::new(HttpErrorKind::Timeout, std::io::Error::other("operation timed out"));
        let away = minio.explain(Error::Generic {
            store: "S3",
            source: Box::new(timed_out),
        });
        assert!(
            store_message(&away).contains("no answer from http://minio:9000"),
            "{away}"
        );
        assert!(store_retry(&away) && store_retry(&generic("503")));
    }

    #[test]
    fn places_are_called_as_people_write_them() {
        let azure = place("abfss://media@account.dfs.core.windows.net/x", &[]);
        assert_eq!((azure.bucket.as_str(), azure.cloud), ("media", Cloud::Azure));
        assert_eq!(
            place("s3://lake/x", &[("aws_region", "eu-west-1")]).server,
            "Amazon S3 (eu-west-1)"
        );
        let web = place("https://example.org:8443/x", &[]);
        assert_eq!((web.root.as_str(), web.cloud), ("https://example.org:8443", Cloud::Web));
    }
}
