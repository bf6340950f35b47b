//! The stand-in as a program: what `cargo xtask dev` relies on.

use std::{
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use serde_json::Value;
use xtask::processes::Process;

use crate::{product::fixtures, stores::until};

fn start(arguments: &[&str]) -> (Process, Arc<Mutex<Vec<String>>>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_upstream"));
    command
        .env_clear()
        .arg("--captures")
        .arg(fixtures().join("captures"))
        .args(arguments);
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = lines.clone();
    let sink = Box::new(move |line: &str| sink.lock().unwrap().push(line.to_owned()));
    (Process::start("upstream", command, sink).unwrap(), lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_where_it_listens_plays_every_capture_and_ends_when_asked() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (mut process, lines) = start(&["--fault", r#"room-a={"captcha":{"times":1}}"#]);
    let base = until(Duration::from_secs(20), async || {
        let lines = lines.lock().unwrap();
        let line = lines
            .iter()
            .find_map(|line| line.strip_prefix("listening on "));
        line.map(str::to_owned)
            .with_context(|| format!("{lines:?}"))
    })
    .await;
    let state = reqwest::get(format!("{base}/stand-in/state"))
        .await
        .unwrap();
    let state: Value = state.json().await.unwrap();
    let names: Vec<_> = state["creators"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["mixed", "room-a", "room-b", "room-c", "room-d"]);
    assert!(state["creators"][0]["roomId"].is_string(), "{state:#}");

    let address = base.strip_prefix("http://").unwrap();
    let (mut second, words) = start(&["--listen", address]);
    let status = until(Duration::from_secs(20), async || {
        second.ended().context("still runs")
    })
    .await;
    assert!(!status.success());
    let words = words.lock().unwrap().join("\n");
    assert!(words.contains(address) && words.contains("port"), "{words}");

    process.stop();
    assert!(process.ended().expect("it ends").success());
}

#[test]
fn wrong_arguments_are_refused_by_name() {
    for (arguments, named) in [
        (&["--speed", "-1"][..], "--speed"),
        (&["--fault", "room-a=dance"], "--fault"),
        (&["--fault", r#"nobody={"captcha":{"times":1}}"#], "nobody"),
        (&["--captures", "nowhere"], "nowhere"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_upstream"));
        command.env_clear();
        if arguments[0] != "--captures" {
            command.arg("--captures").arg(fixtures().join("captures"));
        }
        let output = command.args(arguments).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && words.contains(named),
            "{arguments:?}: {words}"
        );
    }
}
