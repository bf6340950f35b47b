//! Connections to Postgres, and what its errors mean to us.
//!
//! In: `DATABASE_URL` and its relatives. Out: clients with time-outs, over TLS when the address
//! says `sslmode=require`. Nothing here retries; the callers do.

use std::error::Error as _;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use metrics::histogram;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Error, given};
use crate::metrics::POSTGRES_ROUND_TRIP;

/// From the first packet to a session that takes commands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After how much silence the kernel asks whether the server is still there, and how often.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
/// How long sent data may stay unacknowledged before the connection counts as lost.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Where Postgres is.
#[derive(Clone, Debug, clap::Args)]
pub struct DatabaseOptions {
    /// Postgres, `postgres://user:password@host:5432/database`, with `?sslmode=require` for TLS
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<SecretString>,
    /// The same database without a transaction pooler, for migrations; `DATABASE_URL` when not set
    #[arg(long, env = "DATABASE_MIGRATION_URL", hide_env_values = true)]
    pub database_migration_url: Option<SecretString>,
    /// A PEM file with the authority that signed the server's certificate, when it is not one
    /// that browsers trust
    #[arg(long, env = "DATABASE_CA_FILE")]
    pub database_ca_file: Option<String>,
}

impl DatabaseOptions {
    /// For the events.
    pub(crate) fn open(&self) -> Result<Database, Error> {
        let url = given(self.database_url.as_ref()).ok_or(Error::NoDatabase)?;
        Database::new("DATABASE_URL", url, self.database_ca_file.as_deref())
    }

    /// For the migrations.
    pub(super) fn open_for_migrations(&self) -> Result<Database, Error> {
        match given(self.database_migration_url.as_ref()) {
            Some(url) => Database::new(
                "DATABASE_MIGRATION_URL",
                url,
                self.database_ca_file.as_deref(),
            ),
            None => self.open(),
        }
    }
}

/// A database that can be connected to; cheap to clone.
#[derive(Clone)]
pub(crate) struct Database {
    /// The setting it comes from, for messages.
    pub(super) variable: &'static str,
    config: Arc<Config>,
    tls: Option<MakeRustlsConnect>,
}

impl Database {
    fn new(
        variable: &'static str,
        url: &SecretString,
        ca_file: Option<&str>,
    ) -> Result<Self, Error> {
        let mut config: Config = url
            .expose_secret()
            .trim()
            .parse()
            .map_err(|_| Error::Address(variable))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(Error::Address(variable));
        }
        if config.get_application_name().is_none() {
            config.application_name("ttlc");
        }
        config
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES)
            .tcp_user_timeout(TCP_USER_TIMEOUT);
        let tls = match config.get_ssl_mode() {
            SslMode::Require => Some(tls(ca_file.filter(|path| !path.is_empty()))?),
            _ => None,
        };
        Ok(Self {
            variable,
            config: Arc::new(config),
            tls,
        })
    }

    /// A new connection; it closes when the client is dropped.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let connecting = async {
            match &self.tls {
                Some(tls) => connect(&self.config, tls.clone()).await,
                None => connect(&self.config, NoTls).await,
            }
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, timed("connect", connecting)).await {
            Ok(connected) => connected.map_err(Failure::Postgres),
            Err(_) => Err(Failure::Timeout(CONNECT_TIMEOUT)),
        }
    }

    /// A new connection for the storage writer, and what it may do.
    pub(crate) async fn connect_as_writer(&self) -> Result<(Client, Rights), Failure> {
        let client = self.connect().await?;
        match tokio::time::timeout(CONNECT_TIMEOUT, Rights::of(&client)).await {
            Ok(rights) => {
                let rights = rights?;
                if rights == Rights::Own {
                    static TOLD: Once = Once::new();
                    TOLD.call_once(|| {
                        tracing::warn!(
                            variable = self.variable,
                            "this user cannot take on the role ttlc_writer: events are stored with its own rights"
                        );
                    });
                }
                Ok((client, rights))
            }
            Err(_) => Err(Failure::Timeout(CONNECT_TIMEOUT)),
        }
    }
}

/// Measures some work of Postgres, whatever comes of it. `work` is one of the words that
/// [`POSTGRES_ROUND_TRIP`] documents.
pub(crate) fn timed<T>(
    work: &'static str,
    asking: impl Future<Output = T>,
) -> impl Future<Output = T> {
    // Transactions are large futures.
    let asking = Box::pin(asking);
    async move {
        let begun = Instant::now();
        let answer = asking.await;
        histogram!(POSTGRES_ROUND_TRIP, "work" => work).record(begun.elapsed());
        answer
    }
}

/// A connection as the writer that is kept from one piece of work to the next.
pub(super) struct Kept {
    database: Database,
    open: Option<(Client, Rights)>,
}

impl Kept {
    /// Connects when it is first needed.
    pub(super) fn new(database: Database) -> Self {
        Self {
            database,
            open: None,
        }
    }

    /// The connection; a new one when there is none any more.
    pub(super) async fn client(&mut self) -> Result<(&mut Client, Rights), Failure> {
        let open = self.open.take().filter(|(client, _)| !client.is_closed());
        let open = match open {
            Some(open) => open,
            None => self.database.connect_as_writer().await?,
        };
        let (client, rights) = self.open.insert(open);
        Ok((client, *rights))
    }

    /// Lets go of it, and of whatever state a failure has left behind.
    pub(super) fn close(&mut self) {
        self.open = None;
    }
}

/// What a connection of the storage writer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// Those of `ttlc_writer`: it can add events, and neither change nor remove one.
    Writer,
    /// Those of its own user, which may not take that role on.
    Own,
}

impl Rights {
    /// What a transaction begins with. Inside it, since a pooler would lose a role of the session.
    pub(crate) fn begin(self) -> &'static str {
        match self {
            Self::Writer => "SET LOCAL ROLE ttlc_writer",
            Self::Own => "",
        }
    }

    /// Finds out what `client` may take on.
    async fn of(client: &Client) -> Result<Self, Failure> {
        let tried = client
            .batch_execute("BEGIN; SET LOCAL ROLE ttlc_writer; ROLLBACK")
            .await;
        let Err(error) = tried else {
            return Ok(Self::Writer);
        };
        client.batch_execute("ROLLBACK").await?;
        match error.code().map(tokio_postgres::error::SqlState::code) {
            // No such role, or not ours to take.
            Some("22023" | "42501") => Ok(Self::Own),
            _ => Err(error.into()),
        }
    }
}

async fn connect<T>(config: &Config, tls: T) -> Result<Client, tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    tokio::spawn(async move {
        // The client's next command fails with the same error and is acted upon there.
        if let Err(error) = connection.await {
            tracing::debug!(error = %describe(&error), "postgres connection ended");
        }
    });
    Ok(client)
}

/// Certificates are checked against the authorities that browsers trust, or the given one.
fn tls(ca_file: Option<&str>) -> Result<MakeRustlsConnect, Error> {
    let mut roots = rustls::RootCertStore::empty();
    match ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            let wrong = |why: String| Error::CaFile {
                path: path.to_owned(),
                why,
            };
            for certificate in
                CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?
            {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots
                    .add(certificate)
                    .map_err(|error| wrong(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(wrong("holds no certificate".to_owned()));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::CaFile {
            path: ca_file.unwrap_or_default().to_owned(),
            why: error.to_string(),
        })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// Why Postgres did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It answered with an error, or the connection broke.
    #[error("{}", describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// It did not answer.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// It has counted fewer or more rows than it was sent.
    #[error("postgres has counted other rows than it was sent")]
    Miscounted,
}

impl Failure {
    /// Whether the data itself is refused, so that trying again cannot help and other data may
    /// pass. Everything else (connection, shutdown, disk, locks, read-only, rights, a missing
    /// table) is an outage.
    ///
    /// Classes of <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
    pub(crate) fn is_bad_data(&self) -> bool {
        let Self::Postgres(error) = self else {
            return false;
        };
        let Some(db) = error.as_db_error() else {
            return false;
        };
        match db.code().code() {
            // A row without a partition (the default one is gone) has this code and no constraint.
            "23514" => db.constraint().is_some(),
            code => matches!(&code[..2], "22" | "23" | "54"),
        }
    }

    /// Whether the server cannot do what it was asked, as to copy into a table with policies.
    pub(super) fn is_unsupported(&self) -> bool {
        let Self::Postgres(error) = self else {
            return false;
        };
        error
            .code()
            .is_some_and(|code| *code == SqlState::FEATURE_NOT_SUPPORTED)
    }

    /// Whether another transaction was in the way: a deadlock, a serialization failure, a lock
    /// that was not free in time. The same transaction may pass in a moment.
    pub(super) fn is_conflict(&self) -> bool {
        let Self::Postgres(error) = self else {
            return false;
        };
        error
            .code()
            .is_some_and(|code| matches!(code.code(), "40001" | "40P01" | "55P03"))
    }

    /// Whether the server refuses us in a way that only a change of settings can help:
    /// authorization (28), no such database (3D), rights (42501).
    pub(crate) fn is_refusal(&self) -> bool {
        let Self::Postgres(error) = self else {
            return false;
        };
        error
            .code()
            .is_some_and(|code| matches!(code.code(), "28000" | "28P01" | "3D000" | "42501"))
    }

    /// Whether the tables are not there: the migrations have not been applied.
    pub(crate) fn is_no_table(&self) -> bool {
        let Self::Postgres(error) = self else {
            return false;
        };
        error.code() == Some(&tokio_postgres::error::SqlState::UNDEFINED_TABLE)
    }

    /// Whether we refuse the server, for its certificate.
    pub(super) fn is_distrust(&self) -> bool {
        let Self::Postgres(error) = self else {
            return false;
        };
        let cause = error
            .source()
            .and_then(|cause| cause.downcast_ref::<std::io::Error>());
        let tls = cause
            .and_then(std::io::Error::get_ref)
            .and_then(|cause| cause.downcast_ref::<rustls::Error>());
        matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
    }
}

/// The message of an error with its cause, on one line. Details are left out: they quote values.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str) -> DatabaseOptions {
        DatabaseOptions {
            database_url: Some(url.into()),
            database_migration_url: None,
            database_ca_file: None,
        }
    }

    #[test]
    fn an_absent_or_wrong_address_is_refused_without_repeating_it() {
        assert!(matches!(options(" ").open(), Err(Error::NoDatabase)));
        for wrong in [
            "hunter2",
            "postgres://user:hunter2@host:port/db",
            "redis://:hunter2@host",
            "user=hunter2",
        ] {
            let error = options(wrong).open().err().expect(wrong).to_string();
            assert!(
                error.starts_with("DATABASE_URL is not a Postgres address"),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn only_require_means_tls() {
        let plain = options("postgres://user@host/db").open().unwrap();
        assert!(plain.tls.is_none());
        let secure = options("postgres://user@host/db?sslmode=require")
            .open()
            .unwrap();
        assert!(secure.tls.is_some());
    }

    #[test]
    fn the_migration_address_is_used_when_set() {
        let mut options = options("postgres://user@pooler/db");
        assert_eq!(
            options.open_for_migrations().unwrap().variable,
            "DATABASE_URL"
        );
        options.database_migration_url = Some("postgres://user@direct/db".into());
        assert_eq!(
            options.open_for_migrations().unwrap().variable,
            "DATABASE_MIGRATION_URL"
        );
    }

    #[test]
    fn a_bad_ca_file_is_named() {
        let mut options = options("postgres://user@host/db?sslmode=require");
        options.database_ca_file = Some("no/such/file.pem".into());
        let error = options.open().err().expect("refused").to_string();
        assert!(
            error.starts_with("DATABASE_CA_FILE no/such/file.pem: "),
            "{error}"
        );
    }

    #[test]
    fn secrets_are_not_in_debug() {
        assert!(!format!("{:?}", options("postgres://user:hunter2@host/db")).contains("hunter2"));
    }
}
