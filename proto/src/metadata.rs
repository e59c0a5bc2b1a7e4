//! What every call says of its caller, and what is asked of it: one version on both sides, and the token.

use corpusmill_access::{Credentials, Token};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The metadata of a request that carries the caller's version.
pub const VERSION_KEY: &str = "corpusmill-version";
/// The metadata of a request that carries the caller's token: `Bearer` and 64 hexadecimal digits (RFC 6750).
pub const TOKEN_KEY: &str = "authorization";
const BEARER: &str = "Bearer ";

/// Says this program's version, and the token where there is one, with every call.
#[derive(Debug, Clone)]
pub struct Says {
    version: MetadataValue<Ascii>,
    token: Option<MetadataValue<Ascii>>,
}

impl Says {
    /// What a process with these credentials says.
    #[must_use]
    pub fn new(credentials: Option<&Credentials>) -> Self {
        let token = credentials.map(|credentials| {
            let text = format!("{BEARER}{}", credentials.token().to_hex());
            let mut value = MetadataValue::try_from(text).expect("hexadecimal digits are ASCII");
            // Neither logs nor header compression keep it.
            value.set_sensitive(true);
            value
        });
        Self {
            version: MetadataValue::from_static(VERSION),
            token,
        }
    }

    /// Says `version` instead of this program's own.
    #[must_use]
    pub fn of_version(self, version: &'static str) -> Self {
        let version = MetadataValue::from_static(version);
        Self { version, ..self }
    }
}

impl Interceptor for Says {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert(VERSION_KEY, self.version.clone());
        if let Some(token) = &self.token {
            metadata.insert(TOKEN_KEY, token.clone());
        }
        Ok(request)
    }
}

/// Refuses calls without the token, where there is one, and from programs of another version, and says both versions.
#[derive(Debug, Clone)]
pub struct Asks {
    version: &'static str,
    token: Option<Token>,
}

impl Asks {
    /// What a process with these credentials asks of its callers.
    #[must_use]
    pub fn new(credentials: Option<&Credentials>) -> Self {
        Self {
            version: VERSION,
            token: credentials.map(|credentials| credentials.token().clone()),
        }
    }

    /// Asks for `version` instead of this program's own.
    #[must_use]
    pub fn of_version(self, version: &'static str) -> Self {
        Self { version, ..self }
    }
}

impl Interceptor for Asks {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let said = |key| request.metadata().get(key).and_then(|value| value.to_str().ok());
        let shown = said(TOKEN_KEY).and_then(|value| value.strip_prefix(BEARER));
        if let Some(token) = &self.token
            && !shown.is_some_and(|shown| token.is(shown))
        {
            return Err(Status::unauthenticated(
                "the caller does not have this coordinator's token: copy the file `token` of the coordinator's --certs \
                 folder into the caller's",
            ));
        }
        match said(VERSION_KEY) {
            Some(version) if version == self.version => Ok(request),
            other => Err(Status::failed_precondition(format!(
                "the caller is corpusmill {}, this coordinator is corpusmill {}: install the same version on both sides",
                other.unwrap_or("of a version that it does not say"),
                self.version
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_refused_by_name() {
        let mut asks = Asks::new(None);
        let same = Says::new(None).call(Request::new(())).unwrap();
        assert!(asks.call(same).is_ok());
        let other = Says::new(None).of_version("0.0.9").call(Request::new(())).unwrap();
        let refused = asks.call(other).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(
            refused.message().contains("0.0.9") && refused.message().contains(VERSION),
            "{refused}"
        );
        assert!(asks.call(Request::new(())).is_err(), "a caller that says nothing");
    }

    #[test]
    fn a_caller_without_the_token_is_refused_and_no_token_is_told() {
        let token = Token::generate().unwrap();
        let mut asks = Asks {
            version: VERSION,
            token: Some(token.clone()),
        };
        let call = |shown: Option<String>| {
            let mut request = Says::new(None).call(Request::new(())).unwrap();
            if let Some(shown) = shown {
                request.metadata_mut().insert(TOKEN_KEY, shown.try_into().unwrap());
            }
            request
        };
        assert!(asks.call(call(Some(format!("{BEARER}{}", token.to_hex())))).is_ok());
        let other = Token::generate().unwrap().to_hex();
        for shown in [
            None,
            Some(format!("{BEARER}{other}")),
            Some(token.to_hex()),
            Some(BEARER.to_owned()),
        ] {
            let refused = asks.call(call(shown)).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::Unauthenticated);
            let told = format!("{refused} {refused:?}");
            assert!(!told.contains(&token.to_hex()) && !told.contains(&other), "{told}");
        }
    }
}
