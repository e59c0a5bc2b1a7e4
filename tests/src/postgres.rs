//! A PostgreSQL server of a test's own: a fresh folder, a Unix socket, gone when it is dropped.

use std::io::{Error, Result, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start or an end may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// Password of the only user, `mill`.
pub const PASSWORD: &str = "s3cret";

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    folder: tempfile::TempDir,
    programs: PathBuf,
    /// The server refuses to run as root.
    user: Option<&'static str>,
    /// Settings of the server, as arguments.
    settings: Vec<String>,
    server: Child,
}

impl Postgres {
    /// Starts one; `None` where PostgreSQL is not installed.
    ///
    /// # Errors
    /// When it does not start: shows its log.
    pub fn start() -> Result<Option<Self>> {
        let Some(programs) = programs() else { return Ok(None) };
        let folder = tempfile::Builder::new().prefix("corpusmill-pg-").tempdir()?;
        let root = run(Command::new("id").arg("-u"))?.trim() == "0";
        let user = root.then(|| {
            if run(Command::new("id").arg("postgres")).is_ok() {
                "postgres"
            } else {
                "nobody"
            }
        });
        std::fs::write(folder.path().join("password"), PASSWORD)?;
        if let Some(user) = user {
            run(Command::new("chown").arg("-R").arg(user).arg(folder.path()))?;
        }
        let data = folder.path().join("data");
        let init = [
            "--no-sync",
            "--username=mill",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
        ];
        let mut make = as_user(user, &programs.join("initdb"));
        make.args(init)
            .arg("--pwfile")
            .arg(folder.path().join("password"))
            .arg("--pgdata")
            .arg(&data);
        run(&mut make)?;
        let settings = vec!["-c".to_owned(), "listen_addresses=".to_owned()];
        let server = serve(user, &programs, folder.path(), &settings)?;
        let mut this = Self {
            folder,
            programs,
            user,
            settings,
            server,
        };
        this.wait()?;
        Ok(Some(this))
    }

    /// The URL of its database, with the password.
    pub fn url(&self) -> String {
        self.url_of("mill", PASSWORD, "postgres")
    }

    /// The URL for another user, password or database.
    pub fn url_of(&self, user: &str, password: &str, database: &str) -> String {
        let folder = self.folder.path().display();
        format!("postgres://{user}:{password}@localhost/{database}?host={folder}")
    }

    /// Makes one more database, before anybody uses the first.
    ///
    /// # Errors
    /// When it is refused.
    pub fn create(&mut self, database: &str) -> Result<()> {
        self.stop()?;
        let mut single = as_user(self.user, &self.programs.join("postgres"));
        let data = self.folder.path().join("data");
        single.args(["--single", "-D"]).arg(data).arg("postgres");
        let mut single = single
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(input) = &mut single.stdin {
            writeln!(input, "CREATE DATABASE {database}")?;
        }
        let ended = single.wait_with_output()?;
        if !ended.status.success() {
            return Err(Error::other(String::from_utf8_lossy(&ended.stderr).into_owned()));
        }
        self.start_again()
    }

    /// Starts it again on a port of this machine, for callers with TLS only; gives the port.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn listen_with_tls(&mut self, certificate: &Path, key: &Path) -> Result<u16> {
        self.stop()?;
        let folder = self.folder.path();
        std::fs::write(
            folder.join("data/pg_hba.conf"),
            "hostssl all all 127.0.0.1/32 scram-sha-256\n",
        )?;
        // The server refuses a key that others can read.
        let (own_certificate, own_key) = (folder.join("server.pem"), folder.join("server.key"));
        std::fs::copy(certificate, &own_certificate)?;
        std::fs::copy(key, &own_key)?;
        run(Command::new("chmod").arg("600").arg(&own_key))?;
        if let Some(user) = self.user {
            run(Command::new("chown").arg(user).args([&own_certificate, &own_key]))?;
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let listen = [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", own_certificate.display()),
            format!("ssl_key_file={}", own_key.display()),
        ];
        self.settings = listen
            .into_iter()
            .flat_map(|setting| ["-c".to_owned(), setting])
            .collect();
        self.start_again()?;
        Ok(port)
    }

    /// Ends it as a crash of the machine would.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn stop(&mut self) -> Result<()> {
        run(Command::new("kill").args(["-QUIT", &self.server.id().to_string()]))?;
        self.server.wait()?;
        Ok(())
    }

    /// Starts it again over the same data.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn start_again(&mut self) -> Result<()> {
        self.server = serve(self.user, &self.programs, self.folder.path(), &self.settings)?;
        self.wait()
    }

    /// Waits until it lets people in: it says so in the file of its process.
    fn wait(&mut self) -> Result<()> {
        let state = self.folder.path().join("data/postmaster.pid");
        let began = Instant::now();
        while !std::fs::read_to_string(&state).is_ok_and(|text| text.contains("ready")) {
            let ended = self.server.try_wait()?;
            if ended.is_some() || began.elapsed() > DEADLINE {
                let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                return Err(Error::other(format!("PostgreSQL does not start ({ended:?}): {log}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.stop();
    }
}

/// Where `postgres` and `initdb` are: Debian keeps them out of the path.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = debian.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    let mut folders = std::env::split_paths(&path).chain(debian);
    folders.find(|folder| folder.join("postgres").exists() && folder.join("initdb").exists())
}

fn as_user(user: Option<&str>, program: &Path) -> Command {
    // It ends with the thread that started it, however that ends.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some(user) = user {
        command.args(["--reuid", user, "--clear-groups"]);
    }
    command.arg(program).current_dir("/");
    command
}

fn serve(user: Option<&str>, programs: &Path, folder: &Path, settings: &[String]) -> Result<Child> {
    // The file of the process before says nothing about this one.
    let _ = std::fs::remove_file(folder.join("data/postmaster.pid"));
    let log = std::fs::File::options()
        .append(true)
        .create(true)
        .open(folder.join("log"))?;
    let mut server = as_user(user, &programs.join("postgres"));
    server
        .arg("-D")
        .arg(folder.join("data"))
        .arg("-k")
        .arg(folder)
        .arg("-F");
    server.args(["-c", "shared_buffers=16MB"]).args(settings);
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::other(format!("{command:?}: {said}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
