//! Against real servers: data survives a restart and a crash, nothing stays behind.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
};

use super::*;
use crate::processes::{is_alive, silent};

/// Sends inline commands and returns the raw replies.
fn redis(port: u16, commands: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(commands.as_bytes()).unwrap();
    stream.write_all(b"QUIT\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

/// Runs one statement with `psql`.
fn psql(url: &str, statement: &str) -> String {
    let psql = crate::project::in_path("psql").expect("psql");
    let mut command = Command::new(psql);
    command.args([url, "-X", "-A", "-t", "-q", "-c", statement]);
    processes::answer(command).unwrap()
}

#[test]
fn redis_keeps_its_data_over_a_stop_and_a_crash() {
    let server = PrivateRedis::temporary(Durability::Safe).unwrap();
    let port = server.port();
    assert!(redis(port, "SET a 1\r\n").starts_with("+OK"));
    let server = server.restart(true).unwrap();
    assert_eq!(server.port(), port);
    assert!(redis(port, "GET a\r\nSET b 2\r\n").contains("\r\n1\r\n"));
    let server = server.restart(false).unwrap();
    let all = redis(port, "GET a\r\nGET b\r\nCONFIG GET maxmemory-policy\r\n");
    assert!(
        all.contains("\r\n1\r\n") && all.contains("\r\n2\r\n"),
        "{all}"
    );
    assert!(all.contains("noeviction"), "{all}");
    let folder = server.folder.path().to_path_buf();
    drop(server);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(!folder.exists());
}

#[test]
fn a_leftover_redis_on_the_same_folder_is_ended_and_only_that() {
    let other = PrivateRedis::temporary(Durability::Fast).unwrap();
    let folder = TemporaryFolder::new("kept").unwrap();
    let first = PrivateRedis::kept(folder.path(), Durability::Safe, silent()).unwrap();
    redis(first.port(), "SET a 1\r\n");
    let id = first.process.id();
    // As if we had died together with the watchdog.
    let second = PrivateRedis::kept(folder.path(), Durability::Safe, silent()).unwrap();
    assert!(TcpStream::connect(("127.0.0.1", first.port())).is_err());
    assert_ne!(second.process.id(), id);
    assert!(redis(second.port(), "GET a\r\n").contains("\r\n1\r\n"));
    assert!(redis(other.port(), "PING\r\n").starts_with("+PONG"));
}

#[test]
fn postgres_keeps_its_data_over_a_stop_and_a_crash() {
    let server = PrivatePostgres::temporary(Durability::Safe).unwrap();
    let url = server.url();
    psql(
        &url,
        "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)",
    );
    let server = server.restart(true).unwrap();
    assert_eq!(server.url(), url);
    psql(&url, "INSERT INTO kept VALUES (2)");
    let server = server.restart(false).unwrap();
    assert_eq!(psql(&url, "SELECT sum(n) FROM kept"), "3");
    assert_eq!(psql(&url, "SHOW fsync"), "on");
    let port = server.port();
    let folder = server.folder.path().to_path_buf();
    drop(server);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(!folder.exists());
}

#[test]
fn postgres_wants_its_password() {
    let server = PrivatePostgres::temporary(Durability::Fast).unwrap();
    let wrong = server.url().replace(&server.password, "wrong");
    let mut command = Command::new(crate::project::in_path("psql").unwrap());
    command.args([wrong.as_str(), "-w", "-c", "SELECT 1"]);
    let error = processes::answer(command).unwrap_err().to_string();
    assert!(error.contains("password authentication failed"), "{error}");
    let file = server.folder.path().join("password");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_kept_postgres_starts_over_leftovers_and_stale_locks() {
    let folder = TemporaryFolder::new("kept").unwrap();
    let kept = folder.path().join("postgres");
    let start = || PrivatePostgres::kept(&kept, Durability::Safe, silent()).unwrap();
    // The temporary folder is for our user only: as root this is the case of root's home folder.
    let first = start();
    let data = first.folder.path().join("data");
    psql(&first.url(), "CREATE TABLE kept (n int)");
    let id = first.process.id();
    let second = start();
    assert_ne!(second.process.id(), id);
    assert_eq!(psql(&second.url(), "SELECT count(*) FROM kept"), "0");
    drop(first);
    drop(second);
    // A lock file whose process id now belongs to somebody else: ourselves.
    fs::write(
        data.join("postmaster.pid"),
        format!("{}\n", std::process::id()),
    )
    .unwrap();
    let third = start();
    assert_eq!(psql(&third.url(), "SELECT count(*) FROM kept"), "0");
    drop(third);
    assert!(is_alive(std::process::id()));
    remove_kept(&kept.canonicalize().unwrap()).unwrap();
    assert!(!data.exists());
}

#[test]
fn a_half_made_cluster_is_made_again() {
    let folder = TemporaryFolder::new("kept").unwrap();
    let kept = folder.path().join("postgres");
    fs::create_dir(&kept).unwrap();
    let real = if PrivatePostgres::kept(&kept, Durability::Fast, silent())
        .unwrap()
        .folder
        .path()
        == kept
    {
        kept.clone()
    } else {
        postgres::elsewhere(&kept.canonicalize().unwrap())
    };
    // As a crash during initdb leaves it.
    fs::rename(real.join("data"), real.join("new")).unwrap();
    fs::remove_file(real.join("new/PG_VERSION")).unwrap();
    let server = PrivatePostgres::kept(&kept, Durability::Fast, silent()).unwrap();
    assert_eq!(psql(&server.url(), "SELECT 1"), "1");
    drop(server);
    remove_kept(&kept.canonicalize().unwrap()).unwrap();
}
