//! `corpusmill certs`: an authority that signs one certificate for those who listen and one for those who call.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Datelike as _, Days, Utc};
use clap::{Args, Subcommand};
use corpusmill_access::{Credentials, MEMBER_NAME, Token};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::commands::Session;

pub(crate) const HELP: &str = "\
Examples:
  corpusmill certs init certs --name mill.example --name 10.1.0.5
  corpusmill coordinator --certs certs --listen 0.0.0.0:50050 --cluster-network 10.1.0.0/16
  corpusmill submit --certs certs --coordinator https://mill.example:50050 pipeline.sql

Coordinator and workers need the whole folder; those who only call (submit, trainers) all but server.pem and server.key.
The authority's key is forgotten when the command ends: for other names, make another folder, and hand that out.";

#[derive(Debug, Args)]
pub(crate) struct Certs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Makes a folder of certificates and a token
    #[command(after_help = HELP)]
    Init(Init),
}

#[derive(Debug, Args)]
struct Init {
    /// The folder, a new or an empty one
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Host name or address that callers call the coordinator by, beside localhost; several times if it has several
    #[arg(long = "name", value_name = "HOST")]
    names: Vec<String>,
    /// Days that the certificates are believed
    #[arg(long, value_name = "N", default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

/// Runs the command.
pub(crate) fn run(session: &Session, certs: &Certs) -> Result<()> {
    let What::Init(init) = &certs.what;
    init_folder(init, Utc::now())?;
    // Whatever reads the folder later can: nothing is handed out that was not tried.
    Credentials::read(&init.folder)?;
    let folder = init.folder.display();
    session.progress.line(&format!(
        "made {folder}: ca.pem, token, server.pem and .key (who listens), client.pem and .key (who calls); give `--certs \
         {folder}`"
    ));
    Ok(())
}

fn init_folder(init: &Init, now: DateTime<Utc>) -> Result<()> {
    let folder = &init.folder;
    if let Ok(mut entries) = folder.read_dir()
        && entries.next().is_some()
    {
        bail!(
            "{} is not empty, and nothing in it is overwritten: others may have been handed these certificates; give a new \
             folder",
            folder.display()
        );
    }
    let failed = || format!("cannot make {}", folder.display());
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(failed)?;
    let signer = Signer::new(init.days, now)?;
    let mut names = vec![MEMBER_NAME.to_owned(), "localhost".to_owned()];
    names.extend(["127.0.0.1", "::1"].map(str::to_owned));
    names.extend(init.names.iter().cloned());
    write(folder, "ca.pem", 0o644, &signer.certificate)?;
    for (name, names, purpose) in [
        ("server", names, ExtendedKeyUsagePurpose::ServerAuth),
        (
            "client",
            vec![format!("{MEMBER_NAME}-client")],
            ExtendedKeyUsagePurpose::ClientAuth,
        ),
    ] {
        let (certificate, key) = signer.sign(name, names, purpose)?;
        write(folder, &format!("{name}.key"), 0o600, &key)?;
        write(folder, &format!("{name}.pem"), 0o644, &certificate)?;
    }
    write(folder, "token", 0o600, &format!("{}\n", Token::generate()?.to_hex()))
}

/// Writes a file that is not there yet, readable as `mode` says from its first moment.
fn write(folder: &Path, name: &str, mode: u32, content: &str) -> Result<()> {
    let path = folder.join(name);
    let failed = || format!("cannot write {}", path.display());
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&path)
        .with_context(failed)?;
    file.write_all(content.as_bytes()).with_context(failed)
}

/// The authority, as long as its key is known.
struct Signer {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    days: (DateTime<Utc>, DateTime<Utc>),
}

impl Signer {
    fn new(days: u32, now: DateTime<Utc>) -> Result<Self> {
        let last = now
            .checked_add_days(Days::new(days.into()))
            .context("--days is too far away")?;
        // Clocks of other machines may be behind.
        let first = now.checked_sub_days(Days::new(1)).context("the clock is wrong")?;
        let mut authority = parameters("authority", Vec::new(), (first, last))?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = authority.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(authority, key),
            certificate,
            days: (first, last),
        })
    }

    /// A certificate and its key, PEM.
    fn sign(&self, name: &str, names: Vec<String>, purpose: ExtendedKeyUsagePurpose) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut leaf = parameters(name, names, self.days)?;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![purpose];
        leaf.use_authority_key_identifier_extension = true;
        Ok((leaf.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }
}

fn parameters(
    name: &str,
    names: Vec<String>,
    (first, last): (DateTime<Utc>, DateTime<Utc>),
) -> Result<CertificateParams> {
    let listed = names.join(", ");
    let mut parameters =
        CertificateParams::new(names).with_context(|| format!("--name: not all of these are host names: {listed}"))?;
    let day = |time: DateTime<Utc>| rcgen::date_time_ymd(time.year(), time.month() as u8, time.day() as u8);
    (parameters.not_before, parameters.not_after) = (day(first), day(last));
    parameters
        .distinguished_name
        .push(DnType::CommonName, format!("corpusmill {name}"));
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn init(folder: &Path, names: &[&str]) -> Result<()> {
        let init = Init {
            folder: folder.to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            days: 30,
        };
        init_folder(&init, Utc::now())
    }

    #[test]
    fn secrets_are_for_their_owner_and_nothing_is_overwritten() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("a/certs");
        init(&folder, &["mill.example", "10.1.0.5", "fd00::5"]).unwrap();
        let mode = |name: &str| folder.join(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        for secret in ["server.key", "client.key", "token"] {
            assert_eq!(mode(secret), 0o600, "{secret}");
        }
        assert!(!folder.join("ca.key").exists());
        let credentials = Credentials::read(&folder).unwrap();
        assert!(credentials.server().is_ok() && credentials.client().is_ok());
        let before = std::fs::read(folder.join("token")).unwrap();
        let error = format!("{:#}", init(&folder, &[]).unwrap_err());
        assert!(error.contains("not empty") && error.contains("new folder"), "{error}");
        assert_eq!(std::fs::read(folder.join("token")).unwrap(), before);
    }

    #[test]
    fn a_folder_of_a_caller_cannot_listen() {
        let base = tempfile::tempdir().unwrap();
        init(base.path(), &[]).unwrap();
        for name in ["server.pem", "server.key"] {
            std::fs::remove_file(base.path().join(name)).unwrap();
        }
        let credentials = Credentials::read(base.path()).unwrap();
        credentials.client().unwrap();
        let error = credentials.server().unwrap_err().to_string();
        assert!(error.contains("server.pem") && error.contains("certs init"), "{error}");
        std::fs::write(base.path().join("token"), "not a token").unwrap();
        let error = Credentials::read(base.path()).unwrap_err().to_string();
        assert!(
            error.contains("token") && error.contains("64 hexadecimal digits"),
            "{error}"
        );
        assert!(!error.contains("not a token"), "{error}");
    }
}
