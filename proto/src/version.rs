//! Both sides of a call are of one version, or the call is refused.

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The metadata of a request that carries the caller's version.
pub const METADATA_KEY: &str = "corpusmill-version";

/// Says a version with every call.
#[derive(Debug, Clone)]
pub struct SendsVersion {
    version: MetadataValue<Ascii>,
}

impl Default for SendsVersion {
    fn default() -> Self {
        Self {
            version: MetadataValue::from_static(VERSION),
        }
    }
}

impl SendsVersion {
    /// Says `version` instead of this program's own.
    #[must_use]
    pub fn of(version: &'static str) -> Self {
        Self {
            version: MetadataValue::from_static(version),
        }
    }
}

impl Interceptor for SendsVersion {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(METADATA_KEY, self.version.clone());
        Ok(request)
    }
}

/// Refuses calls from programs of another version, and says both versions.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChecksVersion;

impl Interceptor for ChecksVersion {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let caller = request
            .metadata()
            .get(METADATA_KEY)
            .and_then(|value| value.to_str().ok());
        match caller {
            Some(VERSION) => Ok(request),
            other => Err(Status::failed_precondition(format!(
                "the caller is corpusmill {}, this coordinator is corpusmill {VERSION}: install the same version on both \
                 sides",
                other.unwrap_or("of a version that it does not say")
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_refused_by_name() {
        let same = SendsVersion::default().call(Request::new(())).unwrap();
        assert!(ChecksVersion.call(same).is_ok());
        let other = SendsVersion::of("0.0.9").call(Request::new(())).unwrap();
        let refused = ChecksVersion.call(other).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(
            refused.message().contains("0.0.9") && refused.message().contains(VERSION),
            "{refused}"
        );
        assert!(
            ChecksVersion.call(Request::new(())).is_err(),
            "a caller that says nothing"
        );
    }
}
